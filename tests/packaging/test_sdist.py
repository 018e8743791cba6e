"""The source distribution: everything that the repository has, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_SHIPPED = (".ci/", ".git")
"""Of the repository's own machinery."""


def test_the_source_distribution_has_tests_docs_and_all_else(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout: nothing to compare with")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    tracked = {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}
    for name in tracked:
        target = tmp_path / "copy" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    build = "import setuptools.build_meta as b, sys; b.build_sdist(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(tmp_path / "dist")],
        cwd=tmp_path / "copy",
        check=True,
        capture_output=True,
        timeout=300,
    )
    (archive,) = (tmp_path / "dist").glob("hqvox-*.tar.gz")
    with tarfile.open(archive) as tar:
        shipped = {member.name.split("/", 1)[1] for member in tar if member.isfile()}
    expected = {name for name in tracked if not name.startswith(NOT_SHIPPED)}
    assert expected - shipped == set()
    made = {"PKG-INFO", "setup.cfg"}
    assert {n for n in shipped - expected - made if not n.startswith("hqvox.egg-info/")} == set()
    assert {"tests/conftest.py", "docs/index.md", "hqvox/py.typed"} <= shipped
