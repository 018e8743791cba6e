// Keys and buttons, and what they do.

function unlocked() {
  return view.screen && view.machine.state === "unlocked";
}

function decide(act) {
  if (!unlocked()) return;
  if (!allThere()) {
    say("Not all pictures of this person are here yet; decide once they are.", true);
    return;
  }
  happens(view.machine, "decided");
  performance.mark("hqvox:decided");
  saveDraft(keptDraft(view.screen.id)?.key ?? newKey()); // after a reload it is the same decision
  const { screen, key, faces, comment, seconds } = { screen: view.screen.id, ...keptDraft(view.screen.id) };
  view.sentComment = comment;
  keepComment(view.screen.pack, undefined); // one from before is part of this decision now
  post({ ...act, screen, key, faces, comment, seconds });
}

function leave(act) {
  if (!view.screen || !mayLeave(view.machine)) return;
  happens(view.machine, "left");
  performance.mark("hqvox:decided");
  saveDraft();
  view.sentComment = element(".comment input").value;
  post({ ...act, screen: view.screen.id });
}

function accept() {
  if (!unlocked()) return;
  const why = whyNot();
  if (why) say(why);
  else decide({ do: "accept" });
}

// On small screens the comment and what is pressed less often are folded away.
function unfold(open) {
  element("footer").classList.toggle("unfolded", open);
  element(".unfold").setAttribute("aria-expanded", String(open));
}

const ACTIONS = {
  accept,
  drop: () => unlocked() && openDialog("reasons", "h2"),
  undo: () => {
    if (!view.latest.undo) say("There is nothing of yours to take back.", true);
    else leave({ do: "undo", entry: view.latest.undo.entry });
  },
  skip: () => leave({ do: "skip" }),
  zoom: () => openLook("zoom"),
  original: () => openLook("original"),
  keys: () => openDialog("keys", "h2"),
  more: () => unfold(!element("footer").classList.contains("unfolded")),
  comment: () => {
    unfold(true);
    element(".comment input").focus();
  },
  a: () => takePick("A"),
  b: () => takePick("B"),
};

// The letter of a key. Where the keyboard has another script, the one at that place of a Latin one.
function letterOf({ key, code }) {
  const latin = /^[\x20-\x7e]$/.test(key);
  return (latin ? key : (/^Key([A-Z])$/.exec(code)?.[1] ?? key)).toLowerCase();
}

const LETTERS = { x: "drop", u: "undo", s: "skip", z: "zoom", o: "original", c: "comment", a: "a", b: "b" };

function takePick(label) {
  const pick = view.screen.picks?.find((one) => one.label === label);
  if (!pick || !unlocked()) return;
  if (pick.reason) {
    say(`${label} dropped the person: press X to do so too.`, true);
    return;
  }
  view.taken = [...pick.faces];
  say("");
  showTaken();
  saveDraft();
}

// The face that a digit stands for: 1 is the first, 0 the tenth; -1 where it is none. Some keyboards
// have digits with Shift only (AZERTY): without it the key's place counts.
function digit({ key, code, shiftKey }) {
  const place = shiftKey ? null : /^Digit([0-9])$/.exec(code)?.[1];
  const number = /^[0-9]$/.test(key) ? key : place;
  return number ? (Number(number) + 9) % 10 : -1;
}

function inDialog(event, target) {
  if (event.key === "Enter" && target instanceof HTMLButtonElement) return false; // presses it
  if (element("dialog.reasons").open) {
    const button = digit(event) >= 0 && element(".reasons .list").children[digit(event)];
    if (button) button.click();
    return Boolean(button);
  }
  if (element("dialog.keys").open) {
    if (event.key === "?" || event.key === "Enter") element("dialog.keys").close();
    return event.key === "?" || event.key === "Enter";
  }
  if (event.key === "ArrowLeft" || event.key === "ArrowRight") lookMoves(event.key === "ArrowLeft" ? -1 : 1);
  else if (event.key === " ") lookToggles();
  else if (letterOf(event) === (look.kind === "zoom" ? "z" : "o")) element("dialog.look").close();
  else if (letterOf(event) === "z") openLook("zoom");
  else if (letterOf(event) === "o") openLook("original");
  else return event.key === "Enter"; // never accepts from here
  return true;
}

function lookToggles() {
  toggle(view.marked);
  showLook();
}

function onKey(event) {
  if (!view.root?.isConnected || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const target = event.composedPath()[0];
  const ours = target instanceof Node && view.root.contains(target);
  // Elsewhere in the page keys belong to what has the focus, unless nothing has.
  if (!ours && target !== document.body && target !== document.documentElement && !target.matches?.("section.stMain"))
    return;
  if (target instanceof HTMLInputElement) {
    if (event.key !== "Enter" && event.key !== "Escape") return;
    unfold(false);
    mark(view.marked);
  } else if (element("dialog[open]")) {
    if (!inDialog(event, target)) return;
  } else if (element(".review").hidden || !view.screen) {
    if (!(letterOf(event) === "u" && !event.repeat)) return;
    undoFromEnd();
  } else if (!inGrid(event, target)) return;
  event.preventDefault();
  event.stopPropagation();
}

function inGrid(event, target) {
  const letter = letterOf(event);
  const onButton = target instanceof HTMLButtonElement && !target.classList.contains("tile");
  if (event.key.startsWith("Arrow")) move(event.key);
  else if ((event.key === "Enter" || event.key === " ") && onButton) return false; // presses that button
  else if (event.repeat) return event.key === "Enter" || event.key === " " || letter in LETTERS;
  else if (event.key === "Enter") accept();
  else if (event.key === " ") toggle(view.marked);
  else if (digit(event) >= 0) {
    if (digit(event) < view.screen.faces.length) mark(digit(event));
    toggle(digit(event));
  } else if (event.key === "?") ACTIONS.keys();
  else if (letter in LETTERS) ACTIONS[LETTERS[letter]]();
  else return false;
  return true;
}
