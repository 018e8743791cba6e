"""Review: one identity on the screen, its candidates in a grid, the next loaded ahead.

The grid and the keys are a component of our own (``components/review``); it tells what the
annotator did, one thing at a time, and which pictures it has, and is answered with what to show.
Pictures travel apart from that, in pieces, so that each crosses once, and the next identity's lie
decoded in the browser before they are needed.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import streamlit as st

from annotator.candidates.candidates import FaceCandidate
from annotator.log.decisions import DROP_REASONS, Entry, StoreAwayError
from annotator.screens.look import problem
from annotator.screens.session import Context, renewed
from annotator.work.desk import Desk, Screen
from annotator.work.packs import Piece, close_up_pack, pack_name, piece_now, piece_soon, pieces
from annotator.work.queue import Counts
from hqvox.errors import HqvoxError
from hqvox.workspace.measures import BY_NAME

_FOLDER = Path(__file__).parents[1] / "components/review"
_GRID, _DESK, _HAVE, _AHEAD, _STANDING = (
    f"hqvox_{what}" for what in ("review", "desk", "have", "ahead", "standing")
)
MOST_PIECES = 1000
"""How many pieces of pictures a browser may say it has: a guard against nonsense."""
SHOWN_MEASURES = ("quality", "sharpness", "ipd_px", "yaw_deg", "pitch_deg", "neutral_or_happy",
                  "light_ratio", "compression", "edge_confidence")  # fmt: skip


@st.cache_resource
def _grid() -> Any:
    return st.components.v2.component(
        "hqvox_review",
        html=(_FOLDER / "review.html").read_text("utf-8"),
        css=(_FOLDER / "review.css").read_text("utf-8"),
        js=_script("machine", "pictures", "outbox", "draft", "grid", "dialogs", "keys", "main"),
    )


@st.cache_resource
def _pictures() -> Any:
    return st.components.v2.component("hqvox_pictures", js=_script("pictures", "take"))


def _script(*names: str) -> str:
    """Files of one module, which share their names."""
    return "\n".join((_FOLDER / f"{name}.js").read_text("utf-8") for name in names)


def render(context: Context) -> None:
    """Show the page."""
    unfinished = context.candidates.unfinished
    if unfinished:
        st.info(f"{len(unfinished):,} shards are not built to the end; their people come later.")
    if not context.candidates.identities:
        need = context.config.release.min_faces
        st.warning(
            f"No person here has the {need} candidates that a decision needs. What the machine "
            "refused, and why, is under Explore."
        )
        return
    _work(context)


@st.fragment
def _work(page: Context) -> None:
    context = renewed(page)
    if context is None:
        st.rerun()
    desk = _desk(context)
    _grid()(key=_GRID, data=_data(context, desk), on_act_change=partial(_act, page))
    # From here on the annotator sees the identity already; nothing below waits long, so that what
    # they do next is answered at once.
    screen = desk.screen
    if screen is not None:
        try:
            if desk.close_up is not None:
                large = close_up_pack(context.candidates, screen, desk.close_up)
                _pictures()(key="hqvox_close_up", data=large)
            _send(context, desk)
        except StoreAwayError:
            pass  # the browser asks again
        except HqvoxError as error:
            st.error(problem(error))


def _send(context: Context, desk: Desk) -> None:
    """Send the pictures that the browser does not have: this identity's, then the next one's.

    Those of the next only when the browser asks for more: it has shown the present ones by then,
    and is not kept from it by decoding others.
    """
    for number, piece in enumerate(_missing(context, desk)):
        ahead = desk.screen is not None and piece.identity_id != desk.screen.person.identity_id
        if ahead and not st.session_state.get(_AHEAD):
            return
        if piece.first == 0 and number == 0:
            data: bytes | None = piece_now(context.candidates, piece)
        else:
            data = piece_soon(context.candidates, piece)
        if data is not None:
            _pictures()(key=f"hqvox_pictures_{piece.key}", data=data)


def _missing(context: Context, desk: Desk) -> list[Piece]:
    if desk.screen is None:
        return []
    people = [desk.screen.person.identity_id, desk.upcoming()]
    wanted = [p for name in people if name for p in pieces(context.candidates, name)]
    return [piece for piece in wanted if piece.name not in st.session_state[_HAVE]]


def _desk(context: Context) -> Desk:
    """The session's desk; a new one where the build or the annotator changed."""
    desk: Desk | None = st.session_state.get(_DESK)
    if desk is None or desk.queue is not context.queue or desk.actor != context.actor:
        desk = Desk(context.store, context.queue, context.candidates, context.actor)
        st.session_state[_DESK], st.session_state[_HAVE] = desk, set()
    return desk


def _act(page: Context) -> None:
    context = renewed(page)
    # The state is gone if the page was left in the meantime. The browser sends the act again.
    act = st.session_state.get(_GRID, {}).get("act")
    if context is not None and isinstance(act, dict):
        desk = _desk(context)
        have = act.get("have")
        names = have[:MOST_PIECES] if isinstance(have, list) else []
        st.session_state[_HAVE] = {name for name in names if isinstance(name, str)}
        st.session_state[_AHEAD] = act.get("do") == "more"
        desk.handle(act)


def _data(context: Context, desk: Desk) -> dict[str, Any]:
    return {
        **_standing(context, desk),
        "answered": desk.answered,
        "message": desk.message,
        "refused": desk.refused,
        "said": desk.said,
        "away": desk.away,
        "reasons": list(DROP_REASONS.items()),
        "renewSeconds": min(60.0, context.config.review.lease_seconds / 3),
        "screen": None if desk.screen is None else _screen(context, desk.screen),
    }


def _standing(context: Context, desk: Desk) -> dict[str, Any]:
    """What the log says beside the screen; as it was last where the store cannot be asked."""
    state = st.session_state
    fresh = desk.screen is not None and not desk.looked_ahead  # finding out would hold it up
    try:
        latest = context.store.last(context.actor.name)
        counts = context.queue.counts()
        state[_STANDING] = {
            "more": desk.answered == "" or fresh or bool(_missing(context, desk)),
            "undo": None if latest is None else _undo(context, latest),
            "left": _left(desk.decided, counts),
            "allDone": counts.done == counts.total,
        }
    except StoreAwayError:
        pass
    return state.get(_STANDING, {"more": True, "undo": None, "left": "", "allDone": False})


def _undo(context: Context, entry: Entry) -> dict[str, Any]:
    name = context.candidates.summary(entry.decision.identity_id).shown_name
    return {"name": name, "entry": entry.seq}


def _screen(context: Context, screen: Screen) -> dict[str, Any]:
    person = screen.person
    known_by = None if person.identity_id == person.name else person.identity_id
    about = (known_by, person.subset, person.gender, person.nationality)
    return {
        "id": screen.name,
        "pack": pack_name(context.candidates, person.identity_id),
        "name": person.shown_name,
        "about": " · ".join(str(part) for part in about if part),
        "min": context.config.release.min_faces,
        "max": context.config.release.max_faces,
        "taken": list(screen.taken),
        "comment": screen.comment,
        "changed": screen.changed,
        "faces": [
            {"text": f"quality {face.quality:.2f}", "measures": _measures(face)}
            for face in screen.faces
        ],
        "picks": [
            {"label": p.label, "faces": list(p.faces), "reason": p.reason, "comment": p.comment}
            for p in screen.picks
        ],
    }


def _measures(face: FaceCandidate) -> str:
    shown = ((BY_NAME[name], face.measures[name]) for name in SHOWN_MEASURES)
    return " · ".join(
        f"{measure.label} {value:.{measure.digits}f}{measure.unit}"
        for measure, value in shown
        if value is not None
    )


def _left(decided: int, counts: Counts) -> str:
    parts = [f"{decided:,} by you in this session"] if decided else []
    parts.append(f"{counts.done:,} of {counts.total:,} people done")
    # Else nobody would know why all are decided on, and not all are done.
    parts += [f"{counts.second:,} for a second annotator"] if counts.second else []
    parts += [f"{counts.disputed:,} disputed"] if counts.disputed else []
    return " · ".join(parts)
