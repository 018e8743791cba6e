"""The HTML report of a hand-made build."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from hqvox.cli.report import report
from hqvox.errors import HqvoxError
from hqvox.release.read import Release
from hqvox.release.write import write_release
from hqvox.report.charts import Values, histogram, read_values
from hqvox.report.examples import choose_examples
from hqvox.report.html import read_timing, render_report
from hqvox.workspace.layout import Workspace
from hqvox.workspace.measures import BY_NAME, RESTS_ON
from pipelines.chain import STAGES
from tests.helpers.synthetic_build import make_build

NASTY = "<script>alert(1)</script> & Söhne"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("report")
    names = ["Ada Lovelace", NASTY.replace("/", "∕"), "Few Faces", "Nobody"]
    workspace = make_build(root / "w", root / "photos", names)
    write_release(workspace, "v1", workspace.config(), auto=True)
    timings = '{"wall_seconds": 4.0, "photos": 30, "stages": {"pose": 1.5}, "pixels": {"read": 1}}'
    for run in ("a", "b"):
        workspace.storage.write(f"runs/{run}/timings.json", timings.encode())
        timings = timings.replace('"stages"', '"faces": 26, "stages"')  # earlier versions had none
    workspace.storage.write("runs/killed/log.jsonl", b"")
    return workspace


@pytest.fixture(scope="module")
def page(build: Workspace) -> str:
    return render_report(build, Release(build, "v1"))


class _Checker(HTMLParser):
    """Collects what a page would load, and whether its elements are closed in order."""

    VOID = ("meta", "img", "link", "br", "path", "use", "rect", "line", "circle")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_page_is_whole_and_loads_nothing(page: str) -> None:
    checker = _Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.loads
    assert [u for u in checker.loads if not u.startswith(("#", "data:image/jpeg;base64,"))] == []
    assert "<script" not in page
    assert "url(http" not in page


def test_pictures_are_there_when_the_page_is_printed(page: str) -> None:
    assert "data:image/jpeg" in page
    assert 'loading="lazy"' not in page  # those not yet scrolled to would stay blank


def test_names_are_escaped(page: str) -> None:
    assert "&lt;script&gt;alert(1)&lt;∕script&gt; &amp; Söhne" in page


def test_page_says_what_happened(page: str) -> None:
    text = re.sub(r"\s+", " ", page)
    for part in (
        "<b>30</b><span>photos found</span>",
        "<b>26</b><span>faces in them</span>",
        '<td class="n">26 photos</td> <td class="n">26 faces</td>',
        "<b>8</b><span>faces released</span>",
        "turned away <b>2</b>",
        'yaw <b class="bad">+21.5°</b>',
        "yaw <b>+1.0°</b>",
        "pupil distance ≥ 30.0 px",
        "HQ-VoxCeleb, paper",
        "609,700",
        "60 photos, 26 faces in 8.0 s (7.5 photos a second, over 2 runs)",
        "2 identities with too few faces are left out",
    ):
        assert part in text, part


def test_every_verdict_has_its_examples(page: str) -> None:
    for reason in ("not an image", "duplicate", "no face", "tilted", "someone else", "kept"):
        assert re.search(rf"<h4 class=\"\w+\">{reason} <small>", page), reason


def test_page_of_a_build_without_release_leaves_its_sections_out(build: Workspace) -> None:
    page = render_report(build, None)
    assert "Released faces" not in page
    assert 'id="funnel"' in page


def test_page_of_a_stale_build_says_so(build: Workspace, tmp_path: Path) -> None:
    shutil.copytree(build.storage.path(""), tmp_path / "w")
    stale = Workspace.open(tmp_path / "w")
    text = stale.storage.read("hqvox.yaml").decode() + "pose: {max_yaw_deg: 9}\n"
    stale.storage.write("hqvox.yaml", text.encode())
    page = render_report(stale, None)
    assert "4 of 4 shards are not up to date (max_yaw_deg 5.0 → 9.0)" in page


def test_page_of_an_empty_build(tmp_path: Path) -> None:
    workspace = make_build(tmp_path / "w", tmp_path / "photos", photos_per_identity=0)
    for shard in workspace.shards():
        workspace.storage.remove(workspace.table_name("discover", shard))
    page = render_report(workspace, None)
    assert "<b>0</b><span>photos found</span>" in page


def test_command_takes_the_last_release_and_writes_one_file(
    build: Workspace, tmp_path: Path
) -> None:
    out = tmp_path / "r.html"
    report(build.url, None, out)
    assert "release <b>v1</b>" in out.read_text()
    with pytest.raises(HqvoxError, match="no release 'v9'"):
        report(build.url, "v9", out)


def test_examples_are_the_same_every_time_and_from_many_identities(build: Workspace) -> None:
    first, again = choose_examples(build, per_group=2), choose_examples(build, per_group=2)
    assert first == again
    kept = next(g for g in first if g.stage == "pupils" and g.reason is None)
    assert kept.count == 24
    assert len({row["identity_id"] for row in kept.rows}) == 2
    assert [g.reason for g in first if g.stage == "pose"] == [None, "tilted", "turned_away"]


def test_values_are_read_with_their_verdict(build: Workspace) -> None:
    yaw = read_values(build, BY_NAME["yaw_deg"])
    assert (len(yaw.kept), len(yaw.refused)) == (20, 4)
    assert yaw.refused.max() == pytest.approx(21.5)
    neutral = read_values(build, BY_NAME["neutral"])
    assert neutral.refused.tolist() == pytest.approx([0.1, 0.1])


def test_histogram_draws_both_limits_of_an_angle() -> None:
    values = Values(BY_NAME["yaw_deg"], np.linspace(-4, 4, 50), np.array([20.0, -15.0]))
    chart = histogram(values, 5.0)
    assert chart is not None
    assert chart.startswith("<svg")
    assert "yaw, degrees" in chart
    assert chart.count("stroke-dasharray: 4") == 2
    assert histogram(values, None) != chart
    assert 'width="' not in chart[: chart.index(">")]


def test_histogram_of_nothing_or_of_one_value() -> None:
    nothing = np.empty(0)
    assert histogram(Values(BY_NAME["quality"], nothing, nothing), None) is None
    assert histogram(Values(BY_NAME["quality"], np.array([0.5]), nothing), None) is not None


def test_timings_of_all_runs_add_up(build: Workspace) -> None:
    timing = read_timing(build)
    assert (timing.runs, timing.wall_seconds, timing.photos) == (2, 8.0, 60)
    assert timing.stages == {"pose": 3.0}


def test_every_reason_of_a_filter_rests_on_a_number() -> None:
    reasons = {reason for stage in STAGES for reason in (*stage.reasons, *stage.failures)}
    assert set(RESTS_ON) <= reasons
    judged = {reason for stage in STAGES for reason in stage.reasons} - {"duplicate"}
    assert judged <= set(RESTS_ON)
