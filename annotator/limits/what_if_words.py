"""What a change of a limit leads to, in sentences: what is certain, and what a build tells."""

from __future__ import annotations

from collections.abc import Sequence

from annotator.limits.explore import STAGES, Verdicts
from annotator.limits.what_if import Change, Effect


def in_words(
    verdicts: Verdicts, final: Verdicts, changed: Change, effect: Effect, enabled: bool = True
) -> list[str]:
    """What the numbers hold of, and what only a rebuild can tell."""
    stage, unit = verdicts.stage, verdicts.unit
    after = STAGES[STAGES.index(stage) + 1 : STAGES.index(final.stage) + 1]
    said = [] if enabled else [f"{stage} was switched off: it measured, and refused nobody."]
    shut, let = len(changed.shut_out), len(changed.let_in)
    if not shut + let:
        said.append(f"Nobody changes sides at {stage}.")
    if shut:
        said.append(
            f"Certain: {shut:,} {unit} would be refused at {stage}; {effect.lost:,} of the "
            f"{effect.candidates:,} candidates are among them."
        )
    if let:
        said.append(f"Certain: {let:,} {unit} would pass every limit of {stage}.")
        if after:
            said.append(
                f"Not known: whether they pass {_and(after)}. Those stages never saw them; a build "
                "measures them there."
            )
        if effect.pass_rate is not None and after:
            said.append(
                f"An estimate: of the kept {unit} nearest to the limit {effect.pass_rate:.0%} "
                f"became candidates; at that rate about {let * effect.pass_rate:,.0f} would."
            )
    compares = [name for name in ("duplicates", "identity") if name in (stage, *after)]
    if shut + let and compares:
        said.append(
            f"A build also compares each person's photographs anew at {_and(compares)}, which can "
            f"move others of that person."
            + (" Similarities are to the core as it is now." if stage == "identity" else "")
        )
    if final.shards_read < (everything := len(set(verdicts.shards))):
        said.append(
            f"{final.shards_read:,} of {everything:,} shards are built up to {final.stage}; "
            "candidates of the others are not counted."
        )
    return said


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
