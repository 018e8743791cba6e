// What is not decided yet: the faces taken, the comment, the seconds looked at it, and the key under
// which it was last sent. It is kept for this tab, so that a reload in mid-work loses nothing.
//
// Also comments that were written while a decision was on its way: by person, for when they are
// shown again.

const DRAFTS = "hqvox.drafts";
const DRAFTS_KEPT = 10;
const clock = { total: 0, since: null };

function clockRuns(runs) {
  const now = performance.now();
  if (clock.since !== null) clock.total += (now - clock.since) / 1000;
  clock.since = runs ? now : null;
}

function clockSeconds() {
  clockRuns(clock.since !== null);
  return Math.round(clock.total * 100) / 100;
}

function clockStarts(seconds) {
  clock.total = seconds;
  clock.since = null; // until the faces are shown
}

function drafts() {
  try {
    return JSON.parse(sessionStorage.getItem(DRAFTS)) ?? {};
  } catch {
    return {}; // private windows may refuse: then a reload starts this person from the beginning
  }
}

function keptDraft(screen) {
  return drafts()[screen] ?? null;
}

function keepDraft(screen, draft) {
  const { [screen]: _, ...others } = drafts();
  const last = Object.entries(others).slice(1 - DRAFTS_KEPT);
  try {
    const kept = Object.fromEntries([...last, [screen, { ...draft, seconds: clockSeconds() }]]);
    sessionStorage.setItem(DRAFTS, JSON.stringify(kept));
  } catch {
    // as above
  }
}

function keptComment(pack) {
  return keptDraft(`late ${pack}`)?.comment;
}

function keepComment(pack, comment) {
  keepDraft(`late ${pack}`, { comment });
}
