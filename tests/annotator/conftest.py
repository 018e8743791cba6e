"""One browser, and one small workspace with a server, for all tests that need them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.browser_tools import Reviewer, Server, Team, launch_chromium, running, wait_for
from tests.helpers.small_review import make_review


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser; the test is skipped where none is installed.

    Not for the whole session: while Playwright is open its event loop runs in this thread, and no
    other test of the same process could run one.
    """
    yield from launch_chromium()


@pytest.fixture(scope="session")
def copy_review(make_once: Callable[..., Path]) -> Callable[[Path], Path]:
    """Copies the workspace of :func:`make_review`, which is made once, to a new folder."""
    made = make_once("review", make_review)

    def copy(folder: Path) -> Path:
        return Path(shutil.copytree(made / "work", folder / "work"))

    return copy


@pytest.fixture(scope="session")
def _team_server(
    copy_review: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    from annotator.log.access import TokenFile
    from hqvox.workspace.layout import Workspace

    workspace = copy_review(tmp_path_factory.mktemp("team"))
    with (workspace / "hqvox.yaml").open("a") as file:
        file.write("review: {second_fraction: 0.0}\n")
    TokenFile(Workspace.open(workspace)).add("somebody", "annotator")
    with running(workspace, "--sign-in") as server:
        yield server


_numbers = count(1)


@pytest.fixture
def team(chromium: Any, _team_server: Server) -> Iterator[Team]:
    """A running review that all tests share; ``join`` signs in somebody whom nobody else is."""
    from annotator.log.access import Role, TokenFile
    from hqvox.workspace.layout import Workspace

    tokens = TokenFile(Workspace.open(_team_server.workspace))
    people: list[Reviewer] = []

    def add(name: str, role: Role) -> str:
        return tokens.add(name, role)

    def join(role: Role = "annotator", **context: Any) -> Reviewer:
        who = Reviewer(chromium, _team_server.url, add(f"{role} {next(_numbers)}", role), **context)
        people.append(who)
        return who

    yield Team(_team_server, Path(_team_server.workspace), add, join)
    for person in people:
        person.leave()
    # The next test has the same people to review; leases would outlast their annotators.
    wait_for(lambda: _forgotten(_team_server.workspace), "the server to leave the log alone")


def _forgotten(workspace: str) -> bool:
    """Erase what everybody decided, skipped and held; False where somebody reads the log."""
    from annotator.log.store import open_store
    from hqvox.errors import HqvoxError
    from hqvox.workspace.layout import Workspace

    opened = Workspace.open(workspace)
    store = open_store(opened)
    try:
        store.forget([row["identity_id"] for row in opened.identities().to_pylist()])
    except HqvoxError:
        return False
    finally:
        store.close()
    return True
