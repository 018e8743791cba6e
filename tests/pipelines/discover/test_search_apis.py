"""Every search API in its documented shape: what becomes of it, and what is asked how often."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from pipelines.discover.source import SourceError
from pipelines.discover.stage import DiscoverStage
from tests.helpers.discover_tools import APIS, CONTACT, KEYS, person, rows_of
from tests.helpers.fake_apis import PERSON, Asked, FakeApis, Reply, photo

Make = Callable[..., DiscoverStage]
ONE = ["{name}"]


def test_google_fills_every_column_page_by_page(apis: FakeApis, stage: Make) -> None:
    apis.results = 25
    rows = rows_of(stage("google", queries=["{name} face"]))
    assert [row["url"] for row in rows] == [
        photo("google", "Ada Lovelace face", n) for n in range(1, 26)
    ]
    assert [row["candidate"] for row in rows] == [row["rank"] for row in rows] == [*range(25)]
    assert rows[11] == {
        "identity_id": "id1",
        "candidate": 11,
        "face": None,
        "url": photo("google", "Ada Lovelace face", 12),
        "page_url": "https://photos.example/12.html",
        "source": "google",
        "query": "Ada Lovelace face",
        "rank": 11,
        "title": "Ada Lovelace face – 12",
        "licence": None,
        "licence_url": None,
        "author": None,
        "stated_width_px": 600,
        "stated_height_px": 800,
        "restrictions": None,
        "reason": None,
    }
    assert [asked.parameters["start"] for asked in apis.asked] == ["1", "11", "21"]
    first = apis.asked[0]
    assert first.parameters["key"] == KEYS["HQVOX_GOOGLE_KEY"]
    assert first.parameters["cx"] == KEYS["HQVOX_GOOGLE_ENGINE"]
    assert first.parameters["searchType"] == "image"
    assert first.parameters["imgType"] == "face"
    assert first.headers["User-Agent"].startswith("hqvox/")
    assert CONTACT in first.headers["User-Agent"]


def test_google_is_asked_for_no_more_than_a_hundred(apis: FakeApis, stage: Make) -> None:
    apis.results = 1000
    assert len(rows_of(stage("google", queries=ONE))) == 100
    assert apis.asked[-1].parameters["start"] == "91"
    assert len(apis.asked) == 10


def test_brave_answers_in_one_page(apis: FakeApis, stage: Make) -> None:
    apis.results = 500
    rows = rows_of(stage("brave", queries=ONE))
    assert len(rows) == 200
    assert rows[3]["url"] == photo("brave", "Ada Lovelace", 4)
    assert rows[3]["page_url"] == "https://photos.example/4.html"
    assert (rows[3]["stated_width_px"], rows[3]["stated_height_px"]) == (640, 480)
    (asked,) = apis.asked
    assert asked.headers["X-Subscription-Token"] == KEYS["HQVOX_BRAVE_KEY"]
    assert KEYS["HQVOX_BRAVE_KEY"] not in str(asked.parameters)


def test_openverse_tells_licence_and_author(
    apis: FakeApis, stage: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    apis.results = 45
    rows = rows_of(stage("openverse", queries=ONE))
    assert [row["url"] for row in rows] == [
        photo("openverse", "Ada Lovelace", n) for n in range(1, 46)
    ]
    assert rows[0]["licence"] == "CC BY-SA 2.0"
    assert rows[0]["licence_url"] == "https://creativecommons.org/licenses/by-sa/2.0/"
    assert rows[0]["author"] == "José Ñandú"
    assert [asked.parameters["page"] for asked in apis.asked] == ["1", "2", "3"]
    assert "Authorization" not in apis.asked[0].headers
    monkeypatch.setenv("HQVOX_OPENVERSE_TOKEN", "a-bearer-token")
    rows_of(stage("openverse", queries=ONE), person("id2"))
    assert apis.asked[-1].headers["Authorization"] == "Bearer a-bearer-token"


def test_wikimedia_goes_from_the_item_to_its_pictures_and_category(
    apis: FakeApis, stage: Make
) -> None:
    apis.results = 0
    woman = PERSON | {"P21": ["Q6581072"]}
    apis.items = {
        # A ship, a man, a longer name, and two women of whom the singer is wanted.
        "Q1": {"name": "Ada Lovelace", "claims": {"P31": ["Q11446"], "P18": ["Ship.jpg"]}},
        "Q2": {"name": "Ada Lovelace", "claims": PERSON | {"P18": ["Man.jpg"]}},
        "Q3": {"name": "Ada Lovelace Smith", "claims": woman | {"P18": ["Smith.jpg"]}},
        "Q4": {
            "name": "Ada Lovelace",
            "claims": woman | {"P18": ["Known.jpg"]},
            "sitelinks": ["enwiki", "dewiki", "frwiki"],
        },
        "Q5": {
            "name": "Ada Lovelace",
            "claims": woman | {"P18": ["Ada L.jpg"], "P106": ["Q177220"], "P373": ["Ada L"]},
            "sitelinks": ["enwiki"],
        },
    }
    apis.categories = {"Ada L": 120}
    rows = rows_of(stage("wikimedia"))
    assert rows[0]["url"] == "https://upload.example/Ada_L.jpg"
    assert rows[0]["page_url"] == "https://commons.example/wiki/File:Ada_L.jpg"
    assert rows[0]["licence"] == "CC BY-SA 4.0"
    assert rows[0]["licence_url"] == "https://creativecommons.org/licenses/by-sa/4.0"
    assert rows[0]["author"] == "José Photo"
    assert rows[0]["query"] == "Wikidata: Ada Lovelace"
    pictures = [n for n in range(120) if n % 7 != 6]  # the rest are PDFs
    assert [row["url"] for row in rows[1:]] == [
        f"https://upload.example/Ada_L_{n}.jpg" for n in pictures
    ]
    looked_at = next(a for a in apis.asked if a.parameters["action"] == "wbgetentities")
    assert looked_at.parameters["ids"] == "Q1|Q2|Q4|Q5"


@pytest.mark.parametrize(("width", "scaled"), [(960, True), (1920, False), (None, False)])
def test_wikimedia_is_asked_for_the_size_that_is_needed(
    apis: FakeApis, stage: Make, width: int | None, scaled: bool
) -> None:
    """Photographs of 1200 × 1600 pixels: those narrower than asked for come as they are."""
    apis.items = {"Q7259": {"name": "Countess", "claims": PERSON | {"P18": ["C.jpg"]}}}
    rows = rows_of(stage("wikimedia", wikimedia={"width_px": width}), person("Q7259"))
    urls = {True: "https://upload.example/thumb/C.jpg/960px-C.jpg"}
    assert rows[0]["url"] == urls.get(scaled, "https://upload.example/C.jpg")
    sizes = (rows[0]["stated_width_px"], rows[0]["stated_height_px"])
    assert sizes == ((960, 1280) if scaled else (1200, 1600))


def test_wikimedia_states_restrictions_and_the_attribution_asked_for(
    apis: FakeApis, stage: Make
) -> None:
    apis.items = {"Q7259": {"name": "Countess", "claims": PERSON | {"P18": ["C.jpg"]}}}
    stated = {"Restrictions": {"value": "personality|trademarked"}}
    stated |= {"Attribution": {"value": "© <b>Jo</b> via Commons"}}

    def with_stated(number: int, asked: Asked) -> Reply | None:
        reply = apis.usual(asked)
        if "titles" in asked.parameters:
            reply.body["query"]["pages"][0]["imageinfo"][0]["extmetadata"] |= stated
        return reply

    apis.fault = with_stated
    rows = rows_of(stage("wikimedia"), person("Q7259"))
    assert rows[0]["restrictions"] == "personality|trademarked"
    assert rows[0]["author"] == "© Jo via Commons"
    assert {row["restrictions"] for row in rows[1:]} == {None}


def test_wikimedia_takes_an_items_id_and_searches_commons(apis: FakeApis, stage: Make) -> None:
    apis.results = 60
    apis.items = {"Q7259": {"name": "Countess", "claims": PERSON | {"P18": ["C.jpg"]}}}
    rows = rows_of(stage("wikimedia"), person("Q7259"))
    assert rows[0]["url"] == "https://upload.example/C.jpg"
    assert "wbsearchentities" not in {asked.parameters["action"] for asked in apis.asked}
    found = [row for row in rows if row["query"] == "Ada Lovelace"]
    assert [row["rank"] for row in found] == [*range(len(found))]
    assert found[0]["url"].endswith("/filetype:bitmap_Ada_Lovelace_0.jpg")  # in the search's order
    assert len(found) == len([n for n in range(60) if n % 7 != 6])


@pytest.mark.parametrize("source", APIS)
def test_nothing_found_is_no_candidates_and_no_error(
    apis: FakeApis, stage: Make, source: str
) -> None:
    apis.results = 0
    assert rows_of(stage(source)) == []
    asked = len(apis.asked)
    assert rows_of(stage(source)) == []
    assert len(apis.asked) == asked  # that there is nothing is kept too


def test_sources_and_queries_take_turns_until_the_limit(apis: FakeApis, stage: Make) -> None:
    apis.results = 30
    made = stage("openverse", "google", "brave", queries=ONE, limit=8)
    assert [row["source"] for row in rows_of(made)] == ["openverse", "google", "brave"] * 2 + [
        "openverse",
        "google",
    ]
    assert len(apis.asked) == 3  # one page each is enough
    made = stage("brave", queries=["{name}", "{gender} {nationality} {name}"], limit=4)
    rows = rows_of(made, person("id2", gender="m", nationality=None))
    assert [row["query"] for row in rows] == ["Ada Lovelace", "male Ada Lovelace"] * 2
    assert [row["rank"] for row in rows] == [0, 0, 1, 1]


def test_a_url_that_was_named_before_is_passed_over(apis: FakeApis, stage: Make) -> None:
    links = ["https://a.example/1.jpg", "HTTPS://A.example:443/1.jpg#top", "https://a.example/%7e",
             "https://a.example/~", "https://b.example/1.jpg"]  # fmt: skip
    apis.fault = lambda number, asked: Reply({"items": [{"link": link} for link in links]})
    rows = rows_of(stage("google", queries=["{name}", "{name} face"]))
    assert [row["url"] for row in rows] == [links[0], links[2], links[4]]


WRONG: dict[str, Any] = {
    "no list": {"items": 5, "results": 5, "query": 5},
    "no objects": {"items": [1, None, "x"], "results": [1, None, "x"], "query": {"pages": [1]}},
    "wrong types": {
        "items": [{"link": 5}, {"link": "no url"}, {"link": "https://a.example/1", "image": []}],
        "results": [
            {"url": ["x"], "properties": None},
            {"url": "https://a.example/1", "title": 7, "width": "wide", "license": {},
             "properties": {"url": "https://a.example/1", "width": 2**40, "height": -3}},
        ],
        "page_count": "many",
        "queries": {"nextPage": "next"},
        "continue": 3,
        "search": [{"id": 3}],
        "query": {"pages": {"3": {"title": 5, "imageinfo": [
            {"url": "https://a.example/1", "mime": "image/png", "extmetadata": 4,
             "width": True, "height": 1e99}]}}},
    },
}  # fmt: skip


@pytest.mark.parametrize("source", APIS)
@pytest.mark.parametrize("wrong", WRONG)
def test_what_has_the_wrong_type_is_left_out(
    apis: FakeApis, stage: Make, source: str, wrong: str
) -> None:
    apis.fault = lambda number, asked: Reply(WRONG[wrong])
    rows = rows_of(stage(source))
    assert [row["url"] for row in rows] == (["https://a.example/1"] * (wrong == "wrong types"))
    for row in rows:
        assert row["title"] is row["licence"] is row["author"] is None
        assert row["stated_width_px"] is row["stated_height_px"] is None


def test_texts_come_as_one_printable_line(apis: FakeApis, stage: Make) -> None:
    title = "Zo\u00eb\nO\u2028’Neil\x1b[31m \ud83d\ude00 \\ud800 " + "x" * 9000
    body = '{"items": [{"link": "https://a.example/1.jpg", "title": "\\ud800 a\\u2028b"}]}'
    apis.fault = lambda number, asked: (
        Reply(body.encode())
        if number == 1
        else Reply({"items": [{"link": "https://a.example/2.jpg", "title": title}]})
    )
    made = stage("google", queries=["{name}", "{name} face"])
    first, second = rows_of(made)
    assert first["title"] == "a b"
    assert second["title"].startswith("Zoë O ’Neil [31m")
    assert len(second["title"]) <= 2000
    assert rows_of(made) == [first, second]
    assert len(apis.asked) == 2


def test_names_of_any_script_are_asked_for_as_they_are(apis: FakeApis, stage: Make) -> None:
    for number, name in enumerate(["Štefan_Füle", "周杰倫", "O'Neil & “Sons” 100%", "a/b?c=d#e"]):
        rows_of(stage("google", queries=["{name} face"], limit=1), person(f"id/{number}", name))
        assert apis.asked[-1].parameters["q"] == name.replace("_", " ") + " face"


@pytest.mark.parametrize("source", APIS)
def test_a_page_is_asked_for_once_whatever_happens_between(
    apis: FakeApis, stage: Make, source: str
) -> None:
    """The server dies in mid-paging, again and again; in the end nothing was asked twice."""
    apis.results = 130
    apis.items = {"Q5": {"name": "Ada Lovelace", "claims": {"P31": ["Q5"], "P373": ["Ada"]}}}
    apis.categories = {"Ada": 130}
    whole = rows_of(stage(source, limit=9999), person("other"))
    needed = len(apis.asked)
    apis.asked.clear()
    answered: Counter[tuple[str, ...]] = Counter()

    def fault(number: int, asked: Asked) -> Reply | None:
        if number % 2 == 0:
            return Reply({"detail": "gone"}, 404)
        answered[asked.what] += 1
        return None

    apis.fault = fault
    made = stage(source, limit=9999)
    for _ in range(needed):
        with contextlib.suppress(SourceError):
            rows = rows_of(made)
            break
    assert [row["url"] for row in rows] == [row["url"] for row in whole]
    assert len(answered) == needed
    assert set(answered.values()) == {1}


def test_listing_changes_with_what_is_asked_and_nothing_else(stage: Make) -> None:
    made = stage("google", "wikimedia")
    listed = made.listings([person()])
    assert listed == made.listings([person(row=7, folder="x", shard="00009")])
    assert listed != made.listings([person(name="Ada_King")])
    changed = stage("google", "wikimedia", queries=["{name} smiling"])
    assert listed != changed.listings([person()])
    assert made.settings() == changed.settings()
    slower = stage("google", "wikimedia", api={"requests_per_second": 1.5, "daily_requests": 7})
    assert slower.settings() == made.settings()
    assert stage("google", "wikimedia", limit=7).settings() != made.settings()
    assert stage("google").settings() != made.settings()
