// The states of one screen: one person, as the server showed them to this annotator once. Nothing
// else decides what may be sent. docs/review.md has the same table.

const LOOK_MS = 350; // nobody sees a face and reacts to it sooner; a double key comes sooner

const NEXT = {
  loading: { painted: "shown", left: "sent" },
  shown: { looked: "unlocked", hidden: "loading", left: "sent" },
  unlocked: { decided: "sent", hidden: "loading", left: "sent" },
  sent: { next: "acknowledged", refused: "loading" },
  acknowledged: {},
};

// Times belong to the screen, so none is left over from the one before.
function newMachine(id, onState) {
  const machine = { id, state: "loading", openedAt: performance.now(), shownAt: null, onState };
  onState(machine);
  return machine;
}

// Whether the event leads on from the present state; any other is passed over.
function happens(machine, event) {
  const next = NEXT[machine.state][event];
  if (!next) return false;
  machine.state = next;
  if (next === "loading") machine.shownAt = null;
  if (next === "shown") {
    const at = (machine.shownAt = performance.now());
    setTimeout(() => machine.shownAt === at && happens(machine, "looked"), LOOK_MS);
  }
  machine.onState(machine);
  return true;
}

// Skipping and undoing need no pictures, but a double key must not do it to the next person.
function mayLeave(machine) {
  return "left" in NEXT[machine.state] && performance.now() - machine.openedAt >= LOOK_MS;
}
