"""The documentation against the code: paths, links, commands and the picture of the packages."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import typer.main

from hqvox.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CARDS = sorted((ROOT / "models" / "bundled").glob("*.md"))
_PATH = re.compile(r"`((?:hqvox|pipelines|annotator|models|tests|docs|benchmarks)/[^`\s<>*…]*)`")
_LINK = re.compile(r"\]\(([^)#\s]+)(#[^)]*)?\)")
_FENCE = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(?:^|[`;]|do )\s*(hqvox [a-z][^`;\n]*)", re.MULTILINE)


def expanded(path: str) -> list[str]:
    """``a/{b,c}.py`` as a shell expands it."""
    parts = re.split(r"\{([^}]*)\}", path)
    choices = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
    return ["".join(choice) for choice in product(*choices)]


@pytest.mark.parametrize("page", PAGES + CARDS, ids=lambda page: page.name)
def test_paths_on_the_page_exist(page: Path) -> None:
    names = [name for path in _PATH.findall(page.read_text("utf-8")) for name in expanded(path)]
    missing = [name for name in names if not (ROOT / name).exists()]
    assert not missing


def test_the_architecture_names_every_package_and_many_files() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    names = [name for path in _PATH.findall(text) for name in expanded(path)]
    assert len(names) > 40
    packages = {folder.parent.name for folder in (ROOT / "hqvox").glob("*/__init__.py")}
    assert {f"hqvox/{name}/" for name in packages} <= set(names)


@pytest.mark.parametrize("page", PAGES + CARDS, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link, _ in _LINK.findall(page.read_text("utf-8")) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_the_tests_that_fidelity_names_exist() -> None:
    text = (ROOT / "docs" / "fidelity.md").read_text("utf-8")
    named = set(re.findall(r"`(test_[a-z0-9_]+)`", text))
    assert len(named) > 20
    files = (ROOT / "tests").rglob("test_*.py")
    defined = {name for f in files for name in re.findall(r"def (test_\w+)", f.read_text("utf-8"))}
    assert not named - defined


def test_every_row_of_fidelity_names_a_test() -> None:
    text = (ROOT / "docs" / "fidelity.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    tables = [row for row in rows if not row.endswith("| test |")]
    assert all(re.search(r"`test_\w+` \|$", row) for row in tables)


def commands() -> list[tuple[str, str]]:
    """Every ``hqvox …`` on the pages: (page, command line)."""
    lines = []
    for page in PAGES:
        text = page.read_text("utf-8")
        blocks = [block.replace("\\\n", " ") for block in _FENCE.findall(text)]
        inline = re.findall(r"`(hqvox [a-z][^`]*)`", text)
        found = [line for block in blocks for line in _COMMAND.findall(block)] + inline
        lines += [(page.name, " ".join(line.split())) for line in found]
    return lines


def test_commands_on_the_pages_exist_with_their_options() -> None:
    root = typer.main.get_command(app)
    unknown = []
    checked = 0
    for page, line in commands():
        words = shlex.split(line.split("  ")[0].replace("…", " ").replace("'", " "))[1:]
        command: Any = root
        while words and hasattr(command, "commands") and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        if hasattr(command, "commands") and not command.invoke_without_command:
            if command is root and words and re.fullmatch(r"[a-z-]+", words[0]):
                unknown.append(f"{page}: {line}")
            continue
        options = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
        options |= {"--help"}
        asked = [word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)]
        unknown += [f"{page}: {line}: {name}" for name in asked if name not in options]
        checked += 1
    assert not unknown, "\n" + "\n".join(unknown)
    assert checked > 60


def test_the_picture_of_the_packages_is_what_the_imports_give() -> None:
    command = [sys.executable, str(ROOT / "docs" / "rooms.py"), "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    drawn = (ROOT / "docs" / "images" / "rooms.svg").read_text("utf-8")
    dot = (ROOT / "docs" / "images" / "rooms.dot").read_text("utf-8")
    rooms = re.findall(r'^  "([^"]+)" \[', dot, re.MULTILINE)
    assert len(rooms) >= 15
    assert all(f"<title>{room}</title>" in drawn for room in rooms)
