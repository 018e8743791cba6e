// What Streamlit calls with what is to be shown, now and whenever it changes.

const SCREENFUL = 32; // faces that are waited for; those further down are decoded as they come up
const MORE_MS = 200; // between questions for pictures that are still being made
let heartbeat = 0;
let asking = 0;

function saveDraft(key) {
  if (!view.screen) return;
  const comment = element(".comment input").value;
  keepDraft(view.screen.id, { faces: [...view.taken], comment, key: key ?? keptDraft(view.screen.id)?.key });
}

function undoFromEnd() {
  if (view.latest.undo) post({ do: "undo" });
}

function showScreen(screen) {
  if (performance.getEntriesByName("hqvox:decided").length) performance.measure("hqvox:answer", "hqvox:decided");
  const draft = keptDraft(screen.id);
  view.screen = screen;
  view.taken = [...(draft?.faces ?? screen.taken)];
  view.locked = false;
  element(".review").classList.remove("busy");
  for (const dialog of view.root.querySelectorAll("dialog[open]")) dialog.close();
  clockStarts(draft?.seconds ?? 0);
  element(".name").textContent = screen.name;
  element(".about").textContent = screen.about;
  element(".task").textContent = screen.picks.length
    ? "Two people decided differently. Settle it: begin with A's or B's choice, or make your own."
    : screen.changed
      ? `Decided before, but since then: ${screen.changed}. Look again.`
      : `Take ${screen.min} to ${screen.max} faces of this one person: looking straight, evenly lit, neutral, whole and sharp.`;
  element(".comment input").value = draft?.comment ?? screen.comment;
  showPicks(screen.picks);
  buildGrid(screen);
  showTaken();
  view.marked = 0;
  mark(0, document.activeElement === document.body || view.root.getRootNode().activeElement !== null);
  element(".reference").hidden = true;
  fill();
}

// Put up the pictures that are here; called again as more come.
function fill() {
  const { screen } = view;
  const pack = screen && packOf(screen.pack);
  if (!pack) return;
  fillGrid(pack);
  fillPicks(screen.picks, pack);
  if (element(".review").dataset.shown === screen.id) return;
  const images = [...view.root.querySelectorAll(".grid img")].slice(0, SCREENFUL);
  Promise.allSettled(images.map((picture) => picture.decode())).then(() =>
    requestAnimationFrame(() => setTimeout(() => shown(screen))),
  );
}

// A screenful of faces is on the glass. (Read by benchmarks and tests.)
function shown(screen) {
  if (view.screen !== screen || element(".review").dataset.shown === screen.id) return;
  element(".review").dataset.shown = screen.id;
  setTimeout(() => {
    if (view.screen === screen) element(".review").dataset.ready = screen.id;
  }, GRACE_MS);
  if (view.latest.more) asking = setTimeout(askForMore, MORE_MS);
  if (performance.getEntriesByName("hqvox:decided").length) {
    performance.measure("hqvox:next", "hqvox:decided");
    performance.clearMarks("hqvox:decided");
  }
}

function showPicks(picks) {
  const section = element(".picks");
  section.hidden = !picks.length;
  element(".review").classList.toggle("dispute", picks.length > 0);
  section.replaceChildren(
    ...picks.map((pick) => {
      const side = make("div", `pick ${pick.label}`);
      const said = pick.reason ? `dropped: ${pick.reason}` : `took ${pick.faces.length} faces`;
      const head = make("div", "row");
      head.append(make("h2", "", `${pick.label} ${said}`));
      if (!pick.reason) {
        const button = make("button", "", `Begin with ${pick.label}'s`);
        button.type = "button";
        button.append(make("kbd", "", pick.label));
        button.addEventListener("click", () => takePick(pick.label));
        head.append(button);
      }
      side.append(head, make("div", "strip"));
      if (pick.comment) side.append(make("p", "remark", `“${pick.comment}”`));
      return side;
    }),
  );
}

function fillPicks(picks, pack) {
  [...element(".picks").children].forEach((side, i) => {
    const copies = picks[i].faces.map((n) => pack.images[n]?.cloneNode() ?? new Image());
    copies.forEach((copy, place) => (copy.alt = `${picks[i].label}'s number ${place + 1}`));
    side.querySelector(".strip").replaceChildren(...copies);
  });
}

function showNothing(data) {
  view.screen = null;
  view.locked = false;
  element(".review").classList.remove("busy");
  clockStarts(0);
  clockRuns(false);
  element(".end h1").textContent = data.allDone ? "All done, thank you" : "Nothing is left for you";
  element(".end .why").textContent = data.allDone
    ? "Every person here has been decided on. You can close this page."
    : "You have seen every person that is yours to decide on. The others wait for somebody else, or are at work with them. If one comes free, it appears here by itself.";
  element(".end .left").textContent = data.left;
  element(".end button").hidden = !data.undo;
}

// Whether the server has something to answer, or pictures to send. (Read by tests.)
function showBusy() {
  view.root?.toggleAttribute("data-busy", Boolean(outbox.waiting.length || view.latest.more));
}

// A click on a link to another page. Streamlit keeps this page until the other one is loaded.
function onClick(event) {
  const link = event.composedPath().find((node) => node instanceof HTMLAnchorElement);
  if (link && !link.target && !event.ctrlKey && !event.metaKey && !event.shiftKey)
    holdBack(link.pathname !== view.home);
}

function onHistory() {
  holdBack(location.pathname !== view.home);
}

function update(data) {
  if (!outbox.heldUntil) view.home = location.pathname;
  const answered = outbox.sent?.key === data.answered;
  acknowledged(data.answered);
  view.latest = data;
  const sameScreen = data.screen && view.screen?.id === data.screen.id;
  if (!sameScreen && data.screen) showScreen(data.screen);
  else if (!data.screen) showNothing(data);
  else if (view.locked && !outbox.sent) {
    // It was answered, and the same person is still here: it was refused.
    view.locked = false;
    element(".review").classList.remove("busy");
    keepDraft(view.screen.id, { ...keptDraft(view.screen.id), key: undefined });
  }
  element(".review").hidden = !data.screen;
  element(".end").hidden = Boolean(data.screen);
  element(".standing .left").textContent = data.left;
  const undo = element("[data-do=undo]");
  undo.disabled = !data.undo;
  undo.title = data.undo ? `Take back the decision on ${data.undo}` : "Nothing of yours to take back";
  if (data.said !== view.said) say(data.message, !data.refused);
  else if (!sameScreen) say("");
  else if (answered && view.before) say(view.before.text, view.before.calm);
  view.said = data.said;
  clearTimeout(asking);
  if (data.more && !waitsForPictures()) asking = setTimeout(askForMore, MORE_MS);
  showBusy();
}

function beat() {
  if (document.visibilityState !== "visible" || outbox.waiting.length) return;
  post({ do: "alive", screen: view.screen?.id ?? null });
}

// Whether this person is still on the way to the glass: what comes after must not hold that up.
function waitsForPictures() {
  return view.screen && packOf(view.screen.pack) && element(".review").dataset.shown !== view.screen.id;
}

function askForMore() {
  if (view.root && !outbox.waiting.length) post({ do: "more" });
}

function mount(root, data) {
  view.root = root;
  buildReasons(data.reasons);
  for (const button of root.querySelectorAll("[data-do]"))
    button.addEventListener("click", () => (button.dataset.do in ACTIONS ? ACTIONS[button.dataset.do]() : undoFromEnd()));
  element("[data-keys]").addEventListener("click", () => element("dialog.keys").close());
  const looks = {
    previous: () => lookMoves(-1),
    next: () => lookMoves(1),
    toggle: lookToggles,
    zoom: () => openLook("zoom"),
    original: () => openLook("original"),
    close: () => element("dialog.look").close(),
  };
  for (const button of root.querySelectorAll("[data-look]"))
    button.addEventListener("click", looks[button.dataset.look]);
  for (const dialog of root.querySelectorAll("dialog")) {
    // The event is asynchronous: the comment may have the focus by then.
    dialog.addEventListener("close", () => mark(view.marked, root.getRootNode().activeElement !== element(".comment input")));
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  }
  element(".comment input").addEventListener("input", () => saveDraft());
  pictures.onCloseUp = fillLook;
  pictures.onPiece = (pack) => pack === view.screen?.pack && fill();
  outbox.onPost = showBusy;
  outbox.onSlow = (tries) =>
    sayMeanwhile(`The server has not answered for ${(tries * RESEND_MS) / 1000} s. Nothing is lost: it is asked again until it does.`);
  holdBack(false);
  document.addEventListener("click", onClick, true);
  window.addEventListener("popstate", onHistory);
  document.addEventListener("keydown", onKey, true);
  document.addEventListener("visibilitychange", onVisibility);
  window.addEventListener("pagehide", onLeaving);
  heartbeat = setInterval(beat, data.renewSeconds * 1000);
}

function onVisibility() {
  const visible = document.visibilityState === "visible";
  if (view.screen) clockRuns(visible);
  if (visible) beat();
  else saveDraft();
}

function onLeaving() {
  saveDraft();
}

function unmount() {
  saveDraft();
  document.removeEventListener("click", onClick, true);
  window.removeEventListener("popstate", onHistory);
  document.removeEventListener("keydown", onKey, true);
  document.removeEventListener("visibilitychange", onVisibility);
  window.removeEventListener("pagehide", onLeaving);
  clearInterval(heartbeat);
  clearTimeout(asking);
  clearTimeout(outbox.timer);
  view.root = view.screen = null;
}

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".root");
  outbox.transmit = (act) => setTriggerValue("act", act);
  const back = view.root !== root;
  if (back) mount(root, data);
  update(data);
  if (back && outbox.sent) transmit(); // the page was left before the server answered
  return unmount;
}
