// What Streamlit calls with what is to be shown, now and whenever it changes.

const SCREENFUL = 32; // faces that are waited for; those further down are decoded as they come up
const MORE_MS = 200; // between questions for pictures that are still being made
const resized = new ResizeObserver(() => view.root && fit());
let heartbeat = 0;
let asking = 0;

function saveDraft(key) {
  if (!view.screen) return;
  const comment = element(".comment input").value;
  keepDraft(view.screen.id, { faces: [...view.taken], comment, key: key ?? keptDraft(view.screen.id)?.key });
}

// In the end there is no screen, so nothing else keeps a second key from undoing once more.
function undoFromEnd() {
  if (view.latest.undo && !decisionWaits()) post({ do: "undo", entry: view.latest.undo.entry });
}

function showState(machine) {
  const { dataset, classList } = element(".review");
  dataset.state = machine.state;
  if (machine.state === "unlocked") dataset.ready = machine.id; // read by tests
  classList.toggle("busy", machine.state === "sent");
  if (machine === view.machine) clockRuns(machine.state === "unlocked" || machine.state === "shown");
}

// Whether the annotator is writing a comment. Its letters go nowhere else.
function writing() {
  return view.root.getRootNode().activeElement === element(".comment input");
}

function showScreen(screen) {
  if (performance.getEntriesByName("hqvox:decided").length) performance.measure("hqvox:answer", "hqvox:decided");
  const draft = keptDraft(screen.id);
  view.screen = screen;
  view.taken = [...(draft?.faces ?? screen.taken)];
  for (const dialog of view.root.querySelectorAll("dialog[open]")) dialog.close();
  clockStarts(draft?.seconds ?? 0);
  view.machine = newMachine(screen.id, showState);
  const waiting = decisionWaits();
  if (waiting?.screen === screen.id) {
    happens(view.machine, "left"); // the page was left before the server answered
    view.sentComment = waiting.comment ?? null;
  }
  for (const part of ["name", "about"]) element(`.${part}`).textContent = element(`.${part}`).title = screen[part];
  unfold(false);
  element(".task").classList.toggle("usual", !screen.picks.length && !screen.changed);
  element(".task").textContent = screen.picks.length
    ? "Two people decided differently. Settle it: begin with A's or B's choice, or make your own."
    : screen.changed
      ? `Decided before, but since then: ${screen.changed}. Look again.`
      : `Take ${screen.min} to ${screen.max} faces of this one person: looking straight, evenly lit, neutral, whole and sharp.`;
  element(".comment input").value = draft?.comment ?? keptComment(screen.pack) ?? screen.comment;
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
  if (view.machine.state !== "loading") return;
  const images = [...view.root.querySelectorAll(".grid img")].slice(0, SCREENFUL);
  Promise.allSettled(images.map((picture) => picture.decode())).then(() =>
    requestAnimationFrame(() => setTimeout(() => shown(screen))),
  );
}

// A screenful of faces is on the glass.
function shown(screen) {
  if (view.screen !== screen || document.visibilityState !== "visible") return;
  dropUnreadable();
  if (!happens(view.machine, "painted")) return;
  element(".review").dataset.shown = screen.id; // read by benchmarks
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
  view.screen = view.machine = null;
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

// What has not been answered in time; nothing where all is well.
function showUnsaved() {
  if (!view.root) return;
  const late = outbox.sent && (outbox.late || view.latest.away);
  const seconds = Math.round((performance.now() - outbox.sentAt) / 1000);
  const why = view.latest.away ? "the database cannot be reached" : `the server has not answered for ${seconds} s`;
  element(".unsaved").hidden = !late;
  if (late)
    element(".unsaved").textContent = decisionWaits()
      ? `Not saved yet: ${why}. It is sent again until it is saved. Leave this page open.`
      : `Waiting: ${why}. What you decided before is saved. This page goes on by itself.`;
}

function showOutbox() {
  showBusy();
  showUnsaved();
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
  view.latest = data;
  acknowledged(data.answered);
  if (data.away && outbox.sent) again(AWAY_MS);
  else if (data.away) post({ do: "alive", screen: view.screen?.id ?? null }); // until there is an answer
  const other = view.screen && data.screen?.id !== view.screen.id;
  const unknown = data.away && !data.screen; // a server that was started while the store is away
  if (other && !unknown) happens(view.machine, "next");
  view.held = Boolean(other && !unknown && writing());
  if (view.held) say(data.refused ? data.message : "The next person is ready: Enter leaves the comment and goes on.", true);
  else if (!unknown || !view.screen) present(data);
  clearTimeout(asking);
  if (data.more && !waitsForPictures()) asking = setTimeout(askForMore, MORE_MS);
  showOutbox();
}

function present(data) {
  const sameScreen = data.screen && view.screen?.id === data.screen.id;
  const late = sameScreen ? "" : lateComment();
  if (!sameScreen && data.screen) showScreen(data.screen);
  else if (!data.screen) showNothing(data);
  else if (view.machine.state === "sent" && !decisionWaits()) {
    // It was answered, and the same person is still here: it was refused.
    happens(view.machine, "refused");
    keepDraft(view.screen.id, { ...keptDraft(view.screen.id), key: undefined });
    fill();
  }
  element(".review").hidden = !data.screen;
  fit();
  element(".end").hidden = Boolean(data.screen || data.away);
  element(".standing .left").textContent = data.left;
  const undo = element("[data-do=undo]");
  undo.disabled = !data.undo;
  undo.title = data.undo ? `Take back the decision on ${data.undo.name}` : "Nothing of yours to take back";
  if (late) say(late, true);
  else if (data.said !== view.said) say(data.message, !data.refused);
  else if (!sameScreen) say("");
  view.said = data.said;
}

// Keep a comment that was written after its decision had been sent; what to say about that.
function lateComment() {
  if (!view.screen || view.sentComment === null) return "";
  const comment = element(".comment input").value;
  const late = comment !== view.sentComment;
  view.sentComment = null;
  if (!late) return "";
  return `The comment on ${view.screen.name} came after the decision was sent. It is kept: take the decision back (U) to add it.`;
}

function onComment() {
  saveDraft();
  const late = view.machine && !("left" in NEXT[view.machine.state]); // its decision is on its way
  if (late) keepComment(view.screen.pack, element(".comment input").value);
}

// The comment has been left, and not only this window.
function onCommentLeft() {
  setTimeout(() => {
    if (!view.root || !view.held || writing()) return;
    view.held = false;
    present(view.latest);
  });
}

function beat() {
  if (document.visibilityState !== "visible" || outbox.waiting.length) return;
  post({ do: "alive", screen: view.screen?.id ?? null });
}

// Whether this person is still on the way to the glass: what comes after must not hold that up.
function waitsForPictures() {
  return view.machine?.state === "loading" && packOf(view.screen.pack);
}

function askForMore() {
  if (view.root && !outbox.waiting.length) post({ do: "more" });
}

function mount(root, data) {
  view.root = root;
  buildReasons(data.reasons);
  for (const button of root.querySelectorAll("[data-do]"))
    button.addEventListener("click", () => (button.dataset.do in ACTIONS ? ACTIONS[button.dataset.do]() : undoFromEnd()));
  const looks = {
    previous: () => lookMoves(-1),
    next: () => lookMoves(1),
    toggle: lookToggles,
    zoom: () => openLook("zoom"),
    original: () => openLook("original"),
  };
  for (const button of root.querySelectorAll("[data-look]"))
    button.addEventListener("click", looks[button.dataset.look]);
  for (const dialog of root.querySelectorAll("dialog")) {
    // The event is asynchronous: the comment may have the focus by then.
    dialog.addEventListener("close", () => mark(view.marked, root.getRootNode().activeElement !== element(".comment input")));
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
  }
  element(".comment input").addEventListener("input", onComment);
  element(".comment input").addEventListener("blur", onCommentLeft);
  pictures.onCloseUp = fillLook;
  pictures.onPiece = (pack) => pack === view.screen?.pack && fill();
  outbox.onChange = showOutbox;
  for (const part of [root, element(".faces")]) resized.observe(part);
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
  if (visible) {
    if (view.screen) fill();
    beat();
    return;
  }
  if (view.screen) happens(view.machine, "hidden");
  saveDraft();
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
  resized.disconnect();
  clearInterval(heartbeat);
  clearTimeout(asking);
  clearTimeout(outbox.timer);
  view.root = view.screen = view.machine = null;
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
