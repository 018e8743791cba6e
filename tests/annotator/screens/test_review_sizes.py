"""The review fits the window, from a phone to a large screen, and with the page zoomed to 200 %."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from annotator.log.store import open_store
from hqvox.workspace.layout import Workspace
from tests.helpers.browser_tools import Reviewer, Server, expect, running
from tests.helpers.synthetic_build import make_build

FACES = 7
LONG = "Wolfeschlegelsteinhausenbergerdorff " * 6 + "x" * 120
TOUCH = {"has_touch": True, "is_mobile": True, "device_scale_factor": 2}
SIZES: tuple[tuple[int, int, dict[str, Any], int], ...] = (
    (390, 844, TOUCH, 120),
    (768, 1024, TOUCH, 200),
    (1280, 800, {}, 230),
    (1920, 1080, {}, 350),
    (3840, 2160, {}, 600),
    (640, 400, {"device_scale_factor": 2}, 96),  # 1280 x 800, zoomed to 200 %
)
"""Width and height in CSS pixels, what else the browser says, and the least side of a tile."""
BOXES = """all => all.map(one => one.getBoundingClientRect())
    .map(({left, top, right, bottom}) => [left, top, right, bottom])"""
OVERFLOW = """() => [document.documentElement, document.querySelector(".stMain")]
    .map(one => [one.scrollWidth - one.clientWidth, one.scrollHeight - one.clientHeight])"""


@pytest.fixture(scope="module")
def sized_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A review of three people with seven faces each, and long names."""
    folder = tmp_path_factory.mktemp("sizes")
    names = (LONG[:200], LONG[20:220], "Few Faces", "Nobody", LONG[40:240])
    make_build(folder / "work", folder / "photos", names, photos_per_identity=17)
    with running(folder / "work") as server:
        yield server


def boxes(who: Reviewer, selector: str) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom of what matches, in CSS pixels of the window."""
    return [tuple(box) for box in who.page.locator(selector).evaluate_all(BOXES)]


@pytest.mark.slow(seconds=30)
def test_every_face_is_in_the_window(chromium: Any, sized_server: Server) -> None:
    for width, height, context, least in SIZES:
        size = {"width": width, "height": height}
        who = Reviewer(chromium, sized_server.url, viewport=size, **context)
        who.shown().at_rest()
        tiles, (footer,) = boxes(who, ".tile"), boxes(who, "footer")
        assert len(tiles) == FACES
        for left, top, right, bottom in [*tiles, footer, *boxes(who, ".review button:visible")]:
            assert min(left, top) >= 0, size
            assert max(right - width, bottom - height) <= 0, size
        assert max(bottom for *_, bottom in tiles) <= footer[1], size
        assert min(right - left for left, _, right, _ in tiles) >= least, size
        assert who.page.evaluate(OVERFLOW) == [[0, 0], [0, 0]], size
        if width == 390:
            assert who.columns() == 2
        if context.get("has_touch"):
            pressed = boxes(who, "button:visible")
            assert min(min(r - x, b - y) for x, y, r, b in pressed) >= 44, size
        assert not who.errors
        who.close()


@pytest.mark.slow
def test_a_phone_folds_the_comment_away(chromium: Any, sized_server: Server) -> None:
    who = Reviewer(
        chromium, sized_server.url, viewport={"width": 390, "height": 844}, **TOUCH
    ).shown()
    comment = who.page.locator(".comment input")
    expect(comment).to_be_hidden()
    before = boxes(who, ".tile")
    who.button("more").tap()
    comment.fill("by thumb")
    who.button("more").tap()
    expect(comment).to_be_hidden()
    assert boxes(who, ".tile") == before
    screen = who.screen()
    who.button("accept").tap()
    who.shown(screen).at_rest()
    who.close()
    store = open_store(Workspace.open(Path(sized_server.workspace)))
    assert [entry.decision.comment for entry in store.entries()] == ["by thumb"]
    store.close()
