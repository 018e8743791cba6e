"""The phantom world as a web site: its pages, its list of urls, and what goes wrong on it."""

from __future__ import annotations

import csv
import io
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from hqvox.phantom import website
from hqvox.phantom.website import DECOYS, FAULTS, URLS_COLUMNS, Website, urls_csv, world_file


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that stand for pictures: nobody here looks into them."""
    root = tmp_path_factory.mktemp("site")
    for number in range(len(DECOYS)):
        folder = root / "photos" / f"Zoë_O'Né {number}"
        folder.mkdir(parents=True)
        for shot in range(12):
            suffix = ".png" if shot == 1 else ".jpg"
            (folder / f"{shot:03d}{suffix}").write_bytes(bytes([number, shot]) * 5000)
    return root


@pytest.fixture
def site(world: Path) -> Iterator[Website]:
    with Website(world) as site:
        yield site


def rows(world: Path, site: Website) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(urls_csv(world, site.url).decode())))


def get(url: str, **options: object) -> requests.Response:
    return requests.get(url, timeout=60, allow_redirects=False, **options)  # type: ignore[arg-type]


def picture(world: Path, site: Website, place: int) -> tuple[str, bytes]:
    url = rows(world, site)[place]["url"]
    return url, (world / world_file(url)).read_bytes()


def test_urls_list_every_picture_and_one_decoy_of_each_identity(world: Path, site: Website) -> None:
    found = rows(world, site)
    assert tuple(found[0]) == URLS_COLUMNS
    assert len(found) == len(DECOYS) * 13
    assert len({row["url"] for row in found}) == len(found)
    assert all(value for row in found for value in row.values())
    own = {world_file(row["url"]) for row in found} & {
        file.relative_to(world).as_posix() for file in world.rglob("*") if file.is_file()
    }
    assert len(own) == len(DECOYS) * 12
    assert all(row["url"].isascii() for row in found)
    # The same world gives the same list, but for the address.
    assert urls_csv(world, "http://x") == urls_csv(world, site.url).replace(
        site.url.encode(), b"http://x"
    )


def test_pictures_and_pages_are_served_with_type_and_length(world: Path, site: Website) -> None:
    for place, kind in ((0, "image/jpeg"), (1, "image/png")):
        url, data = picture(world, site, place)
        answer = get(url)
        assert (answer.status_code, answer.content) == (200, data)
        assert answer.headers["Content-Type"] == kind
    url, data = picture(world, site, 0)
    for spelling in (url.replace("%27", "'"), url.replace("O", "%4f")):
        assert get(spelling).content == data
    front = get(f"{site.url}/")
    assert front.text.count("<li>") == len(DECOYS)
    page = get(rows(world, site)[0]["page_url"])
    assert page.headers["Content-Type"].startswith("text/html")
    assert page.text.count("<img") == 13
    assert get(f"{site.url}/people/Nobody.html").status_code == 404
    assert get(f"{site.url}/photos/../../etc/passwd").status_code == 404


def test_busy_once_then_served(world: Path, site: Website) -> None:
    url, data = picture(world, site, FAULTS["busy"])
    first = get(url)
    assert (first.status_code, first.headers["Retry-After"]) == (429, "1")
    assert get(url).content == data


def test_breaks_off_once_then_served(world: Path, site: Website) -> None:
    url, data = picture(world, site, FAULTS["broken_off"])
    with pytest.raises(requests.RequestException):
        get(url)
    assert get(url).content == data


def test_slow_and_moved_arrive(world: Path, site: Website, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(website.time, "sleep", slept.append)
    url, data = picture(world, site, FAULTS["slow"])
    assert get(url).content == data
    assert slept == [website.SLOW_SECONDS]
    url, data = picture(world, site, FAULTS["moved"])
    assert get(url).status_code == 302
    moved = requests.get(url, timeout=60)
    assert moved.content == data
    assert moved.url.startswith(f"{site.url}/moved/photos/")


def test_every_decoy_keeps_its_picture(world: Path, site: Website) -> None:
    decoys = {url.split("/")[3]: url for row in rows(world, site)[12::13] for url in [row["url"]]}
    assert set(decoys) == set(DECOYS)
    assert get(decoys["gone"]).status_code == 404
    login = get(decoys["login"])
    assert (login.status_code, login.headers["Content-Type"][:9]) == (200, "text/html")
    robots = get(f"{site.url}/robots.txt").text.splitlines()
    assert robots == ["User-agent: *", "Disallow: /private/"]
    assert get(decoys["private"]).status_code == 200  # only robots.txt stands before it
    assert get(decoys["reserved"]).headers["X-Robots-Tag"] == "noai, noimageai"
    with pytest.raises(requests.RequestException):
        get(decoys["halved"])
    assert get(decoys["inside"]).headers["Location"].startswith("http://169.254.169.254/")


def test_counts_requests_and_ends_with_its_block(world: Path) -> None:
    with Website(world) as site:
        port = site.port
        url, _ = picture(world, site, 0)
        get(url)
        get(url)
        assert site.requests["/robots.txt"] == 0
        assert list(site.requests.values()) == [2]
    with pytest.raises(requests.ConnectionError):
        get(url)
    # The port is free again, for the next run to take.
    with Website(world, port) as again:
        assert again.port == port


def test_taken_port_is_an_error(world: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        Website(world, taken.getsockname()[1])


def test_connections_are_bounded(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(website, "CONNECTIONS", 2)
    monkeypatch.setattr(website, "WAIT_SECONDS", 0.2)
    with Website(world) as site:
        url, data = picture(world, site, 0)
        held = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(2)]
        with pytest.raises(requests.ConnectionError):
            get(url)
        for connection in held:
            connection.close()
        answers = [get(url).content for _ in range(3)]
        assert answers == [data] * 3


def test_an_empty_folder_has_no_decoy(tmp_path: Path, world: Path) -> None:
    shutil.copytree(world / "photos", tmp_path / "photos")
    (tmp_path / "photos" / "Aaa_Empty").mkdir()
    names = [row.identity for row in website.listed(tmp_path)]
    assert "Aaa_Empty" not in names
