// What lies over the grid: the reasons to drop, one face large, the list of keys.

const look = { kind: "zoom" };

function buildReasons(reasons) {
  const buttons = reasons.map(([name, meaning], i) => {
    const button = make("button", "reason");
    button.type = "button";
    button.dataset.reason = name;
    button.append(make("kbd", "", String(i + 1)), make("span", "", meaning));
    button.addEventListener("click", () => dropFor(name));
    return button;
  });
  element(".reasons .list").replaceChildren(...buttons);
}

// The first thing in it gets the focus, not the first button: that would look as if it were chosen.
function openDialog(name, first) {
  const dialog = element(`dialog.${name}`);
  unfold(false);
  if (!dialog.open) dialog.showModal();
  dialog.querySelector(first).focus();
}

function dropFor(reason) {
  element("dialog.reasons").close();
  const comment = element(".comment input");
  if (reason === "other" && !comment.value.trim()) {
    say("Not dropped yet: say in the comment what it is, then drop again (X).");
    unfold(true);
    comment.focus();
    return;
  }
  decide({ do: "drop", reason });
}

function openLook(kind) {
  if (!view.screen || view.machine.state === "sent") return;
  look.kind = kind;
  openDialog("look", ".stage");
  showLook();
  post({ do: "look", screen: view.screen.id, face: view.marked, kind });
}

function showLook() {
  const face = view.screen.faces[view.marked];
  const place = view.taken.indexOf(view.marked);
  const small = tiles()[view.marked].querySelector("img");
  const image = element(".look img");
  element(".look .title").textContent =
    `Face ${view.marked + 1} of ${view.screen.faces.length}, ` +
    (place >= 0 ? `taken as number ${place + 1}` : "not taken");
  element(".look .measures").textContent = face.measures;
  element(".look svg").replaceChildren();
  // Until the large one comes: the tile itself, enlarged; it has no original to show.
  image.hidden = look.kind === "original";
  if (small && look.kind === "zoom") image.src = small.src;
  element(".look .wait").hidden = look.kind === "zoom";
  element(".look").classList.toggle("original", look.kind === "original");
  if (pictures.closeUp) fillLook(pictures.closeUp);
}

function fillLook({ header, image: large }) {
  const asked = `${view.screen?.id}/${view.marked}/${look.kind}`;
  if (!element("dialog.look").open || header.pack !== asked) return;
  const image = element(".look img");
  image.src = large.src;
  image.alt = look.kind === "zoom" ? "The face, aligned, on white" : "The original photograph";
  image.hidden = false;
  element(".look .wait").hidden = true;
  const svg = element(".look svg");
  svg.replaceChildren();
  if (!header.box) return;
  svg.setAttribute("viewBox", `0 0 ${header.width} ${header.height}`);
  const shape = (name, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    svg.append(node);
  };
  const [left, top, right, bottom] = header.box;
  const unit = Math.max(header.width, header.height) / 400;
  shape("rect", { x: left, y: top, width: right - left, height: bottom - top, "stroke-width": 1.4 * unit });
  for (const [x, y] of header.landmarks) shape("circle", { cx: x, cy: y, r: 1.4 * unit });
}

function lookMoves(step) {
  const before = view.marked;
  mark(before + step, false);
  if (view.marked !== before) openLook(look.kind);
}
