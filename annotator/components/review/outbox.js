// What the annotator did, on its way to the server: one thing at a time, each under a key of its
// own, sent again under the same key until the server has named it. So nothing is lost when the
// connection is, and nothing counts twice.

const RESEND_MS = 4000; // without an answer: the server may be slow
const AWAY_MS = 1500; // after the answer that the store could not be asked
const HOLD_BACK_MS = 30000;
// It hangs on the window, so that it outlives the component, which Streamlit takes down and puts up
// again when a server was restarted.
const outbox = (globalThis.hqvoxOutbox ??= {
  waiting: [],
  sent: null,
  sentAt: 0,
  late: false,
  timer: 0,
  heldUntil: 0,
  transmit: null,
  onChange: () => {},
});

function newKey() {
  // crypto.randomUUID is missing on plain http addresses
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function post(act) {
  outbox.waiting.push({ ...act, key: act.key ?? newKey() });
  outbox.onChange();
  pump();
}

function pump() {
  if (outbox.sent || !outbox.waiting.length || !outbox.transmit) return;
  outbox.sent = outbox.waiting[0];
  outbox.sentAt = performance.now();
  outbox.late = false;
  transmit();
}

// Send nothing while another page is loading: a message in between can make Streamlit drop the page
// change, or leave the page empty. If no other page comes, sending continues after HOLD_BACK_MS.
function holdBack(holds) {
  outbox.heldUntil = holds ? performance.now() + HOLD_BACK_MS : 0;
}

function transmit() {
  if (performance.now() >= outbox.heldUntil) outbox.transmit({ ...outbox.sent, have: piecesHere() });
  again(RESEND_MS);
}

function again(afterMs) {
  clearTimeout(outbox.timer);
  outbox.timer = setTimeout(() => {
    outbox.late = true;
    transmit();
    outbox.onChange();
  }, afterMs);
}

// What is to change something and is not answered yet, rather than a question for pictures.
function decisionWaits() {
  return outbox.waiting.find((act) => ["accept", "drop", "undo", "skip"].includes(act.do));
}

function acknowledged(key) {
  if (!outbox.sent || outbox.sent.key !== key) return;
  clearTimeout(outbox.timer);
  outbox.waiting.shift();
  outbox.sent = null;
  outbox.late = false;
  pump();
}
