// The candidates of one identity: which are taken, in which order, and which one is marked.

const view = {
  root: null,
  screen: null,
  machine: null, // the state of the screen, see machine.js
  taken: [],
  marked: 0,
  sentComment: null, // the comment that went with what was sent last
  held: false, // whether the next screen waits until the comment is written
  said: 0,
  home: "",
  latest: {},
};

function element(selector) {
  return view.root.querySelector(selector);
}

function make(tag, className, text) {
  const node = document.createElement(tag);
  node.className = className;
  if (text !== undefined) node.textContent = text; // never HTML: names are whatever they are
  return node;
}

function tiles() {
  return [...element(".grid").children];
}

function buildGrid(screen) {
  const built = screen.faces.map((face, n) => {
    const tile = make("button", "tile");
    tile.type = "button";
    tile.append(make("span", "picture"));
    if (n < 10) tile.append(make("kbd", "digit", String((n + 1) % 10)));
    tile.append(make("span", "order"));
    const marks = make("span", "marks");
    for (const pick of screen.picks ?? []) {
      const place = pick.faces.indexOf(n);
      if (place >= 0) marks.append(make("span", `mark ${pick.label}`, `${pick.label}${place + 1}`));
    }
    tile.append(marks, make("span", "measure", face.text));
    tile.addEventListener("click", () => {
      mark(n, false);
      if (!held(tile)) toggle(n);
    });
    zoomsWhenHeld(tile, n);
    tile.addEventListener("focus", () => mark(n, false));
    return tile;
  });
  element(".grid").replaceChildren(...built);
  fit();
}

const LEAST_SIDE = 96; // of a tile, px: smaller faces cannot be judged, so the grid scrolls instead
const SCROLLED_SIDE = 138; // of a tile in a grid that scrolls, at least
const MOST_SIDE = 768; // twice that of a picture (annotator/work/packs.py); larger is only blurred
const PHONE_PX = 480; // width up to which there are two columns

// The largest tiles with which every face is in sight; balanced rows, two columns on a phone.
function fit() {
  const review = element(".review");
  if (review.hidden || !tiles().length) return;
  const page = view.root.getRootNode().host?.closest("section, main") ?? document.documentElement;
  const above = review.getBoundingClientRect().top + page.scrollTop;
  review.style.setProperty("--above", `${Math.round(above)}px`);
  const [faces, grid] = [element(".faces"), element(".grid")];
  const { columnGap, paddingTop } = getComputedStyle(grid);
  const [gap, margin] = [parseFloat(columnGap), 2 * parseFloat(paddingTop)];
  const caption = tiles()[0].querySelector(".measure").offsetHeight;
  const width = faces.clientWidth - margin;
  const height = faces.clientHeight - margin - grid.offsetTop;
  const count = tiles().length;
  const phone = width <= PHONE_PX;
  const best = { columns: 1, side: 0 };
  for (let rows = phone ? Math.ceil(count / 2) : 1; rows <= count; rows++) {
    const columns = phone ? 2 : Math.ceil(count / rows);
    const wide = (width - (columns - 1) * gap) / columns;
    const high = (height - (rows - 1) * gap) / rows - caption;
    const side = Math.floor(Math.min(wide, high, MOST_SIDE));
    if (side > best.side) Object.assign(best, { columns, side });
  }
  if (best.side < LEAST_SIDE) {
    best.columns = phone ? 2 : Math.max(2, Math.floor((width + gap) / (SCROLLED_SIDE + gap)));
    best.side = Math.floor((width - (best.columns - 1) * gap) / best.columns);
  }
  grid.style.setProperty("--columns", best.columns);
  grid.style.setProperty("--side", `${best.side}px`);
}

const HOLD_MS = 450;

// A finger has no key for it. The click that ends the touch then takes nothing in or out.
function zoomsWhenHeld(tile, n) {
  let timer = 0;
  tile.addEventListener("pointerdown", (event) => {
    delete tile.dataset.held;
    if (event.pointerType !== "touch") return;
    timer = setTimeout(() => {
      tile.dataset.held = "";
      mark(n, false);
      openLook("zoom");
    }, HOLD_MS);
  });
  for (const end of ["pointerup", "pointercancel", "pointerleave"])
    tile.addEventListener(end, () => clearTimeout(timer));
  tile.addEventListener("contextmenu", (event) => "held" in tile.dataset && event.preventDefault());
}

function held(tile) {
  const was = "held" in tile.dataset;
  delete tile.dataset.held;
  return was;
}

function fillGrid(pack) {
  tiles().forEach((tile, n) => {
    const image = pack.images[n];
    const place = tile.querySelector(".picture");
    if (image && place.firstChild !== image) place.replaceChildren(image);
  });
  dropUnreadable();
  const reference = element(".reference");
  reference.hidden = !pack.reference;
  if (pack.reference && reference.src !== pack.reference.src) {
    reference.src = pack.reference.src;
    reference.alt = `Reference photograph of ${view.screen.name}`;
  }
}

// Nobody can take a face that cannot be shown.
function dropUnreadable() {
  tiles().forEach((tile, n) => {
    if (tile.querySelector("img")?.dataset.is !== "unreadable" || tile.classList.contains("unreadable")) return;
    tile.classList.add("unreadable");
    tile.querySelector(".measure").textContent = "cannot be read";
    const place = view.taken.indexOf(n);
    if (place >= 0) view.taken.splice(place, 1);
    showTaken();
  });
}

// Whether every face of this very screen is decoded and on a page that is in sight.
function allThere() {
  return (
    document.visibilityState === "visible" &&
    element(".review").getClientRects().length > 0 &&
    tiles().length === view.screen.faces.length &&
    tiles().every((tile) => tile.querySelector("img")?.dataset.is)
  );
}

function showTaken() {
  const { screen, taken } = view;
  tiles().forEach((tile, n) => {
    const place = taken.indexOf(n);
    tile.setAttribute("aria-pressed", String(place >= 0));
    tile.querySelector(".order").textContent = place >= 0 ? String(place + 1) : "";
    const order = place >= 0 ? `, taken as number ${place + 1}` : "";
    tile.setAttribute("aria-label", `Face ${n + 1} of ${tiles().length}, ${screen.faces[n].text}${order}`);
  });
  const enough = taken.length >= screen.min && taken.length <= screen.max;
  element(".counter").classList.toggle("enough", enough);
  element(".chosen").textContent = String(taken.length);
  element(".limits").textContent = `of ${screen.min}–${screen.max} taken${enough ? " ✓" : ""}`;
}

function toggle(n) {
  if (!unlocked() || n < 0 || n >= view.screen.faces.length) return;
  if (tiles()[n].classList.contains("unreadable")) {
    say("The picture of this face cannot be read: it cannot be taken.");
    return;
  }
  const place = view.taken.indexOf(n);
  if (place >= 0) view.taken.splice(place, 1);
  else view.taken.push(n);
  say("");
  showTaken();
  saveDraft();
}

function mark(n, focus = true) {
  const all = tiles();
  if (!all.length) return;
  view.marked = Math.max(0, Math.min(n, all.length - 1));
  all.forEach((tile, i) => {
    tile.tabIndex = i === view.marked ? 0 : -1;
    tile.classList.toggle("marked", i === view.marked);
  });
  if (focus) {
    all[view.marked].focus({ preventScroll: true });
    all[view.marked].scrollIntoView({ block: "nearest" });
  }
}

function columns() {
  const all = tiles();
  const top = all[0]?.offsetTop;
  const wrapped = all.findIndex((tile) => tile.offsetTop !== top);
  return wrapped < 0 ? Math.max(1, all.length) : wrapped;
}

function move(key) {
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns() }[key];
  const to = view.marked + step;
  if (to >= 0 && to < tiles().length) mark(to);
  else if (key === "ArrowDown" && Math.floor(view.marked / columns()) < Math.floor((tiles().length - 1) / columns()))
    mark(tiles().length - 1); // the last row is shorter
}

function say(text, calm = false) {
  for (const message of view.root?.querySelectorAll(".message") ?? []) {
    message.textContent = text;
    message.classList.toggle("calm", calm);
  }
}

function whyNot() {
  const { screen, taken } = view;
  const more = screen.min - taken.length;
  const less = taken.length - screen.max;
  if (more > 0)
    return `Not saved: take ${more} more ${more === 1 ? "face" : "faces"}, or drop the person (X). At least ${screen.min} are needed.`;
  if (less > 0) return `Not saved: take ${less} out again. At most ${screen.max} can be taken.`;
  return "";
}
