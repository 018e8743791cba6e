"""What the report shows of a release."""

from __future__ import annotations

from pathlib import Path

from test_speech_release import PEOPLE, SPOKEN, pack_voices

from hqvox.release.read import Release
from hqvox.release.write import write_release
from hqvox.report.html import render_report
from hqvox.report.release_charts import count_words, release_charts
from tests.helpers.synthetic_build import make_build


def test_the_report_shows_voices_balance_and_table_6(tmp_path: Path) -> None:
    build = make_build(tmp_path / "w", tmp_path / "photos", PEOPLE)
    pack_voices(build, SPOKEN)
    write_release(build, "v1", build.config(), auto=True, workers=1)
    release = Release(build, "v1")
    shown = release_charts(release)
    assert len(shown["charts"]) == 4
    assert shown["balance"][0] == ("gender", [("not stated", [3, 3, 0, 0])])
    assert shown["datasets"][-1].utterances == "6"
    page = render_report(build, release)
    for text in ("length of an utterance", "utterances of an identity", "Filtered VGGFace"):
        assert text in page


def test_rare_nationalities_are_summed_up() -> None:
    rows = count_words([(f"country {n:02}", "train") for n in range(20)] + [("country 07", "test")])
    assert rows[0] == ("country 07", [2, 1, 0, 1])
    assert rows[-1] == ("8 others", [8, 8, 0, 0])
    assert sum(counts[0] for _, counts in rows) == 21
