"""Errors as people in the browser see them."""

from __future__ import annotations

import pytest

from annotator.log.messages import without_paths


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/srv/data/work/hqvox.yaml: line 3 is wrong", "hqvox.yaml: line 3 is wrong"),
        ("run `hqvox build /srv/data/work` first", "run `hqvox build work` first"),
        ("s3://bucket/sets/one: is not there", "one: is not there"),
        ("postgresql://ada:pw@db.example.org:5432/reviews: no answer", "reviews: no answer"),
        ("sqlite:////srv/work/reviews.sqlite is locked", "reviews.sqlite is locked"),
        ("('/srv/a/b.tar', 3)", "('b.tar', 3)"),
        ("3/7 faces, and/or none; 24 / 7", "3/7 faces, and/or none; 24 / 7"),
        ("Ada: 2 faces chosen; choose 3 to 7, or drop it", None),
    ],
)
def test_paths_and_addresses_keep_their_last_name(text: str, shown: str | None) -> None:
    assert without_paths(text) == (text if shown is None else shown)
