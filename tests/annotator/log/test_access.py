"""Names, roles and tokens."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from annotator.log.access import Actor, TokenFile
from hqvox.errors import HqvoxError
from hqvox.workspace.layout import Workspace


@pytest.fixture
def tokens(tmp_path: Path) -> TokenFile:
    return TokenFile(Workspace(tmp_path))


def test_a_token_tells_who_it_is(tokens: TokenFile) -> None:
    anna, lena = tokens.add("Anna", "annotator"), tokens.add("Lena Ω", "lead")
    assert tokens.check(anna) == Actor("Anna", "annotator")
    assert tokens.check(lena) == Actor("Lena Ω", "lead")
    for wrong in ("", "hqv_", anna[:-1], anna + " ", anna.upper(), "\ud800", "Ω" * 1000):
        assert tokens.check(wrong) is None
    assert tokens.names() == {"Anna": "annotator", "Lena Ω": "lead"}
    assert len({tokens.add(f"a{n}", "lead") for n in range(20)}) == 20


def test_the_file_holds_no_token_and_is_nobody_elses(tokens: TokenFile) -> None:
    token = tokens.add("Anna", "annotator")
    for file in tokens.path.parent.iterdir():
        assert token.removeprefix("hqv_") not in file.read_text()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    tokens.path.chmod(0o644)  # read, which gives nobody a token
    tokens.add("Bert", "annotator")
    assert stat.S_IMODE(tokens.path.stat().st_mode) == 0o600


def test_a_token_that_is_taken_away_ends_at_once(tokens: TokenFile) -> None:
    token = tokens.add("Anna", "annotator")
    other = TokenFile(Workspace(tokens.path.parent))
    assert other.check(token) is not None
    tokens.remove("Anna")
    assert other.check(token) is None
    with pytest.raises(HqvoxError, match=r"has no token \(who has: nobody yet\)"):
        tokens.remove("Anna")
    assert tokens.add("Anna", "lead") != token
    assert tokens.check(token) is None


def test_nobody_has_two_tokens(tokens: TokenFile) -> None:
    token = tokens.add("Anna", "annotator")
    with pytest.raises(HqvoxError, match="has a token already; remove it first"):
        tokens.add("Anna", "lead")
    assert tokens.check(token) == Actor("Anna", "annotator")


@pytest.mark.parametrize("name", ["", " ", " Anna", "Anna\n", "a\0b", "x" * 81, "a\u202eb"])
def test_names_that_will_not_do(tokens: TokenFile, name: str) -> None:
    with pytest.raises(HqvoxError, match="reviewer"):
        tokens.add(name, "annotator")
    assert tokens.names() == {}


def test_an_unknown_role(tokens: TokenFile) -> None:
    with pytest.raises(HqvoxError, match="use annotator or lead"):
        tokens.add("Anna", "owner")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"format": 1}', '{"format": 1, "tokens": {"a": {"role": "king"}}}',
     '{"format": 1, "tokens": {"a": {"role": "lead", "sha256": "é"}}}',
     '{"format": 1, "tokens": []}', '{"format": 1, "tokens": {"a": {"role": "x", "sha256": ""}}}'],
    ids=range(8),
)  # fmt: skip
def test_a_damaged_file_lets_nobody_in(tokens: TokenFile, text: str) -> None:
    tokens.path.write_text(text)
    tokens.path.chmod(0o600)
    with pytest.raises(HqvoxError, match="damaged"):
        tokens.check("hqv_x")
    with pytest.raises(HqvoxError, match="damaged"):
        tokens.add("Anna", "lead")
    assert tokens.path.read_text() == text


def test_a_file_that_others_may_write_lets_nobody_in(tokens: TokenFile) -> None:
    token = tokens.add("Anna", "lead")
    tokens.path.chmod(0o622)
    for use in (tokens.names, lambda: tokens.check(token), lambda: tokens.add("B", "lead")):
        with pytest.raises(HqvoxError, match="other users may write it"):
            use()
    tokens.path.chmod(0o600)
    assert tokens.check(token) == Actor("Anna", "lead")


def test_a_newer_file_is_left_alone(tokens: TokenFile) -> None:
    tokens.path.write_text('{"format": 2, "tokens": {}}')
    tokens.path.chmod(0o600)
    with pytest.raises(HqvoxError, match="a newer hqvox wrote it"):
        tokens.add("Anna", "lead")


def test_there_are_no_tokens_on_object_storage() -> None:
    with pytest.raises(HqvoxError, match="kept on a local disk"):
        TokenFile(Workspace("memory://bucket"))
