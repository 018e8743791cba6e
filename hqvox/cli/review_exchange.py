"""`hqvox review export|import|status|too-few`: export and import of decisions, and progress."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hqvox.cli.common import WorkspaceArgument, add_row, console, listed, say, text_table
from hqvox.errors import HqvoxError
from hqvox.runner.bars import progress_bar
from hqvox.workspace.layout import Workspace
from hqvox.workspace.storage import Storage, disk_error

if TYPE_CHECKING:  # they need SQLAlchemy, which comes with an extra
    from annotator.candidates.candidates import Candidates
    from annotator.log.decisions import Entry
    from annotator.log.store import Store
    from annotator.work.changes import ChangedDecision

SHOWN = 20
"""Rows of a table before the rest is counted."""
FileArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="A JSONL file; - for standard input or output.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the group `hqvox review`."""
    app.command("export")(export)
    app.command("import")(import_)
    app.command("status")(status)
    app.command("too-few")(too_few)


def export(workspace: WorkspaceArgument, file: FileArgument = "-") -> None:
    """Write every decision as a line of JSON, with faces by their photograph's hash.

    Example: hqvox review export work decisions.jsonl
    """
    with _store(Workspace.open(workspace), make=False) as store:
        from annotator.log.exchange import export_lines

        lines = export_lines(store)
        if file == "-":
            for line in lines:
                sys.stdout.write(line + "\n")
            return
        path, count = Path(file), 0
        try:
            with Storage(path.parent).writing(path.name) as out:
                for line in lines:
                    out.write(line.encode() + b"\n")
                    count += 1
        except OSError as error:
            raise disk_error(error, file) from None
    say(f"{count:,} entries: {path}")


def import_(workspace: WorkspaceArgument, file: FileArgument) -> None:
    """Import decisions from another workspace, or from this one before a rebuild.

    Keeps times and annotators. Importing a file twice changes nothing. Says which decisions
    deserve another look, because what they were made on has changed.

    Example: hqvox review import work decisions.jsonl
    """
    opened = Workspace.open(workspace)
    with _store(opened) as store:
        from annotator.log.exchange import import_entries, parse_lines
        from annotator.work.changes import changes_since

        entries = parse_lines(_read(file).split("\n"), file)
        done = import_entries(opened, store, entries)
        say(f"{done.added:,} entries added, {done.known:,} were here already")
        if done.unknown:
            say(
                f"left out, on {len(done.unknown):,} identities that are not in this workspace: "
                f"{listed(list(done.unknown), SHOWN)}"
            )
        if done.taken_down:
            say(f"left out, of what was taken down here: {done.taken_down:,} entries")
        candidates = _candidates(opened)
        print_changes(changes_since(store, candidates, done.identity_ids))
        if candidates.unfinished:
            say(
                f"{len(candidates.unfinished):,} shards are not built: `hqvox build {workspace}`, "
                f"then `hqvox review status {workspace}` says what changed for them"
            )


def status(workspace: WorkspaceArgument) -> None:
    """How far the review is: by annotator, what is disputed, what deserves another look.

    Example: hqvox review status work
    """
    opened = Workspace.open(workspace)
    config = opened.config()
    with _store(opened, make=False) as store:
        from annotator.work.changes import changes_since
        from annotator.work.queue import Queue, QueueItem

        candidates = _candidates(opened)
        changes = changes_since(store, candidates)
        queue = Queue(
            store,
            [QueueItem(p.identity_id, p.candidates, p.certainty) for p in candidates.identities],
            config.review,
            again={change.identity_id: change.latest for change in changes},
        )
        counts = queue.counts()
        outcomes = store.state()
        kinds = Counter(outcome.status for outcome in outcomes.values())
        rest = [
            f"{counts.second:,} wait for a second annotator" if counts.second else "",
            f"{counts.disputed:,} for a lead" if counts.disputed else "",
            f"{counts.leased:,} are on somebody's screen" if counts.leased else "",
        ]
        say(
            f"{counts.done:,} of {counts.total:,} identities are done, left: {counts.first:,}"
            + "".join(f"; {part}" for part in rest if part)
            + f" (decided on so far: {kinds['chosen']:,} with faces chosen, "
            f"{kinds['dropped']:,} dropped)"
        )
        few = candidates.too_few()
        if few:
            say(
                f"{len(few):,} have fewer than {candidates.min_faces} candidates and reach nobody: "
                f"`hqvox review too-few {workspace}` says what would have saved them"
            )
        if candidates.unfinished:
            say(f"{len(candidates.unfinished):,} shards are not built: `hqvox build {workspace}`")
        print_annotators(store.entries(shown=False))
        names = {person.identity_id: person.name for person in candidates.everyone}
        disputes = queue.disputes()
        if disputes:
            named = listed([names[identity_id] for identity_id in disputes], SHOWN)
            say(f"disputed, for a lead: {named}")
        print_changes(changes)


def print_annotators(entries: Sequence[Entry]) -> None:
    """Who decided how much and in what time, as the Progress page has it; ``entries``: all."""
    from annotator.work.progress import by_annotator

    everyone = by_annotator(entries)
    if not everyone:
        say("nobody has decided on anything yet")
        return
    columns = ("annotator", "decisions", "chosen", "dropped", "settled", "undone", "per hour")
    rows = (
        (
            work.annotator,
            f"{work.decisions:,}",
            f"{work.chosen:,}",
            f"{work.dropped:,}",
            f"{work.settled:,}",
            f"{work.undone:,}",
            "–" if work.per_hour is None else f"{work.per_hour:,.0f}",
            "–" if work.median_seconds is None else f"{work.median_seconds:.1f}",
            f"{work.hours:.2f}",
        )
        for work in everyone
    )
    console.print(text_table((*columns, "median, s", "hours"), rows, align="lr"))


def print_changes(changes: list[ChangedDecision]) -> None:
    """The decisions that need another look; the review offers them again."""
    if not changes:
        return
    columns = ("identity", "decided by", "was", "since then")
    rows = ((c.name, c.annotator, c.kind, c.words) for c in changes[:SHOWN])
    console.print(text_table(columns, rows, title=f"for another look: {len(changes):,}"))
    if len(changes) > SHOWN:
        say(f"and {len(changes) - SHOWN:,} more")


def too_few(
    workspace: WorkspaceArgument,
    limit: Annotated[
        int, typer.Option(min=0, max=100_000, help="Identities that are named.")
    ] = SHOWN,
) -> None:
    """Identities with too few candidates for people to look at, and what would have saved them.

    At most: whether the stages after the one that refused a face would have kept it was never
    measured. `hqvox review WORKSPACE`, page Explore, shows the pictures.

    Example: hqvox review too-few work
    """
    from annotator.limits.too_few import STEPS
    from annotator.limits.too_few import too_few as look_into
    from annotator.limits.what_if import command

    opened = Workspace.open(workspace)
    config = opened.config()
    candidates = _candidates(opened)
    people = candidates.too_few()
    if not people:
        say(f"every identity that is built has {candidates.min_faces} candidates or more")
        return
    with progress_bar(console, "stages") as show:
        lost = look_into(opened, config, people, on_progress=lambda _, d, t: show(d, t))
    say(f"{len(people):,} identities have fewer than {candidates.min_faces} candidates")
    if lost.remedies:
        rows = (
            (
                remedy.setting,
                f"{remedy.limit:.3g}",
                *(f"{saved:,}\n({value:.3g})" for value, saved in remedy.steps),
                f"{remedy.saved:,}",
            )
            for remedy in lost.remedies
        )
        settings = text_table(
            ("setting", "now", *(f"{share:.0%}" for share in STEPS), "off"),
            rows,
            title="one limit, moved alone by a share of it, would save at most",
            align="lr",
            wrap=False,
        )
        settings.padding = (0, 1, 0, 0)
        console.print(settings)
        first = lost.remedies[0]
        say(f"what that redoes: {command(opened, first.setting, first.steps[1][0])}")
    if not limit:
        return
    identities = text_table(
        ("identity", "has", "refused", "nearest misses"),
        title="identities, those that lack least first",
        align="lrl",
    )
    for person in lost.identities[:limit]:
        refused = ", ".join(f"{reason} {count:,}" for reason, count in person.reasons.items())
        near = ", ".join(f"{m.measure} {m.value:.3g} ({m.limit:g})" for m in person.nearest)
        cells = (person.name, str(person.candidates), refused or "no photographs", near or "–")
        add_row(identities, cells)
    console.print(identities)


@contextmanager
def _store(workspace: Workspace, make: bool = True) -> Iterator[Store]:
    """The workspace's store; without ``make``, an empty temporary one where there is none."""
    from annotator.log.place import nothing_yet

    try:
        from annotator.log.store import no_store, open_store
    except ImportError as error:
        raise HqvoxError(
            f"reviews need another package: pip install 'hqvox[review]' ({error})"
        ) from None
    missing = not make and nothing_yet(workspace)
    with no_store() if missing else closing(open_store(workspace)) as store:
        yield store


def _candidates(workspace: Workspace) -> Candidates:
    from annotator.candidates.candidates import Candidates

    with progress_bar(console, "shards") as show:
        return Candidates(workspace, on_progress=show)


def _read(file: str) -> str:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return data.decode("utf-8")
    except OSError as error:
        raise HqvoxError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise HqvoxError(f"{file}: no text in UTF-8; `hqvox review export` writes it") from None
