"""What a search API can do wrong: what is tried again, what waits, what is told, what is not."""

from __future__ import annotations

import gzip
import json
import logging
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from hqvox.errors import HqvoxError
from hqvox.workspace.storage import Storage
from pipelines.discover.api import wait_seconds
from pipelines.discover.budget import Budget
from pipelines.discover.secrets import Redactor
from pipelines.discover.source import QuotaSpent, SourceError
from pipelines.discover.stage import DiscoverStage
from tests.helpers.discover_tools import KEYS, make_stage, person, rows_of
from tests.helpers.fake_apis import Asked, FakeApis, Reply, google_error, serving

Make = Callable[..., DiscoverStage]
ONE = ["{name}"]

PASSING = {
    "500": Reply({"error": "oops"}, 500),
    "503 with Retry-After": Reply(b"busy", 503, {"Retry-After": "0"}),
    "429 without Retry-After": Reply({"detail": "Request was throttled."}, 429),
    "429 with a date": Reply({}, 429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    "malformed": Reply(b'{"items": [{"link": "https://a.ex'),
    "not an object": Reply(b"[1, 2, 3]"),
    "no JSON at all": Reply(b"<html>maintenance</html>"),
    "deep nesting": Reply(b"[" * 100_000),
    "cut off": Reply({"items": []}, cut=10),
    "broken gzip": Reply(b"\x1f\x8bnonsense", 200, {"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("fault", PASSING)
def test_what_can_pass_is_tried_again(apis: FakeApis, stage: Make, fault: str) -> None:
    apis.results = 5
    apis.fault = lambda number, asked: PASSING[fault] if number <= 2 else None
    assert len(rows_of(stage("google", queries=ONE))) == 5
    assert len(apis.asked) == 3


@pytest.mark.parametrize("fault", PASSING)
def test_what_does_not_pass_ends_in_one_line(apis: FakeApis, stage: Make, fault: str) -> None:
    apis.fault = lambda number, asked: PASSING[fault]
    with pytest.raises(SourceError, match=r"^openverse .* 3 times; run again later$"):
        rows_of(stage("openverse", queries=ONE))
    assert len(apis.asked) == 3


def test_retry_after_is_waited_for(apis: FakeApis, stage: Make) -> None:
    wait = Reply({}, 429, {"Retry-After": "0.5"})
    apis.fault = lambda number, asked: wait if number == 1 else None
    started = time.monotonic()
    rows_of(stage("brave", queries=ONE))
    assert time.monotonic() - started >= 0.5


def test_retry_after_in_every_form() -> None:
    assert wait_seconds({"Retry-After": "12"}) == 12
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 90 < wait_seconds({"Retry-After": soon}) <= 100
    assert wait_seconds({}) == 0
    never = "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"
    for useless in ("", "soon", "-5", "inf", "nan", "Wed, 21 Oct 2015 07:28:00 GMT", never):
        assert wait_seconds({"Retry-After": useless}) == 0


def test_a_date_counts_from_the_clock_of_the_server() -> None:
    """Its clock is years off; it asks for a minute and is given one."""
    now, then = "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:29:00 GMT"
    assert wait_seconds({"Retry-After": then, "Date": now}) == 60
    assert wait_seconds({"Retry-After": "9" * 5000, "Date": now}) == 0
    assert wait_seconds({"Retry-After": "9" * 300, "Date": now}) == 1e9


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(google_error(400, "Request contains an invalid argument."), 400),
         "google answered 400 (Request contains an invalid argument.); run again later"),
        (Reply(b"", 302, {"Location": "https://elsewhere.example/x"}),
         "sends us to another host (elsewhere.example)"),
        (Reply(b"", 302, {"Location": "/customsearch/v1"}), "sends us in a circle"),
        (Reply(b"", 302, {"Location": "http://[::1"}), "sends us to what is no address"),
        (Reply(gzip.compress(b" " * (40 << 20)), 200, {"Content-Encoding": "gzip"}),
         "answered more than 32 MB"),
    ],
)  # fmt: skip
def test_what_will_not_pass_is_not_tried_again(
    apis: FakeApis, stage: Make, reply: Reply, message: str
) -> None:
    apis.fault = lambda number, asked: reply
    with pytest.raises(SourceError) as error:
        rows_of(stage("google", queries=ONE))
    assert message in str(error.value)
    assert len(apis.asked) == (4 if "circle" in message else 1)


def test_a_redirect_on_the_same_host_is_followed(apis: FakeApis, stage: Make) -> None:
    moved = Reply(b"", 301, {"Location": "/res/v1/images/search?q=moved&count=3"})
    apis.fault = lambda number, asked: moved if number == 1 else None
    assert len(rows_of(stage("brave", queries=ONE))) == 3


def test_a_slow_answer_is_given_up(apis: FakeApis, stage: Make) -> None:
    apis.fault = lambda number, asked: Reply({"items": ["x" * 200]}, slow_seconds=0.05)
    started = time.monotonic()
    with pytest.raises(SourceError, match=r"google did not finish within 0\.3 s; run again later"):
        rows_of(stage("google", queries=ONE, api={"timeout_seconds": 0.3, "retries": 0}))
    assert time.monotonic() - started < 3


def test_an_api_that_is_gone_is_one_line(tmp_path: Path) -> None:
    with serving() as server:
        url = server.url
    made = make_stage(url, tmp_path, ["google"], {"retries": 1}, {"queries": ONE})
    with pytest.raises(SourceError, match="google could not be reached, or broke off 2 times"):
        rows_of(made)


DAILY = "Quota exceeded for quota metric 'Queries' and limit 'Queries per day' of service"
METADATA = {"quota_limit": "DefaultPerDayPerProject"}
SPENT = {
    "google by message": ("google", Reply(google_error(429, DAILY, "rateLimitExceeded"), 429)),
    "google by reason": ("google", Reply(google_error(403, "No.", "dailyLimitExceeded"), 403)),
    "google by details": ("google", Reply(
        {"error": {"code": 429, "message": "No.", "details": [{"metadata": METADATA}]}}, 429)),
    "brave by code": ("brave", Reply(
        {"type": "ErrorResponse", "error": {"code": "QUOTA_LIMITED", "status": 429}}, 429)),
    "brave by headers": ("brave", Reply({}, 429, {
        "X-RateLimit-Limit": "1, 2000", "X-RateLimit-Remaining": "1, 0",
        "X-RateLimit-Reset": "1, 90000"})),
    "openverse by a long wait": ("openverse", Reply(
        {"detail": "Request was throttled. Expected available in 7200 seconds."}, 429,
        {"Retry-After": "7200"})),
}  # fmt: skip


@pytest.mark.parametrize("case", SPENT)
def test_a_spent_quota_stops_at_once_and_is_remembered(
    apis: FakeApis, stage: Make, case: str
) -> None:
    source, reply = SPENT[case]
    apis.fault = lambda number, asked: reply
    words = rf"^quota of {source} spent \(1 today, as it says\); run again after 20.* UTC$"
    with pytest.raises(QuotaSpent, match=words):
        rows_of(stage(source, queries=ONE))
    assert len(apis.asked) == 1
    with pytest.raises(QuotaSpent, match=words):
        rows_of(stage(source, queries=ONE))  # another process, later the same day
    assert len(apis.asked) == 1


def test_too_many_a_second_is_no_spent_quota(apis: FakeApis, stage: Make) -> None:
    per_minute = google_error(429, "limit 'Queries per minute per user'", "rateLimitExceeded")
    second = {"X-RateLimit-Remaining": "0, 1999", "X-RateLimit-Reset": "1, 90000"}
    replies = [
        Reply(per_minute, 429),
        Reply(google_error(403, "slow down", "userRateLimitExceeded"), 403),
    ]
    apis.fault = lambda number, asked: replies[number - 1] if number <= 2 else None
    assert rows_of(stage("google", queries=ONE))
    apis.asked.clear()
    limited = {"type": "ErrorResponse", "error": {"code": "RATE_LIMITED", "status": 429}}
    apis.fault = lambda number, asked: Reply(limited, 429, second) if number == 1 else None
    assert rows_of(stage("brave", queries=ONE))
    assert len(apis.asked) == 2


def test_our_own_budget_stops_before_the_request_and_goes_on_the_next_day(
    apis: FakeApis, stage: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apis.results = 55
    with pytest.raises(QuotaSpent, match=r"quota of google spent \(4 of 4 today\); run again"):
        rows_of(stage("google", queries=ONE, api={"daily_requests": 4}))
    assert [a.parameters["start"] for a in apis.asked] == ["1", "11", "21", "31"]
    tomorrow = datetime.now(UTC) + timedelta(days=1, hours=1)
    made = stage("google", queries=ONE, api={"daily_requests": 4})
    made.sources[0].client.budget.now = lambda: tomorrow  # type: ignore[attr-defined]
    assert len(rows_of(made)) == 55
    assert [a.parameters["start"] for a in apis.asked[4:]] == ["41", "51"]
    record = json.loads((tmp_path / "w/discover/google/quota.json").read_text())
    assert record["requests"] == 2


def test_what_other_sources_answer_is_kept_when_one_is_spent(apis: FakeApis, stage: Make) -> None:
    apis.fault = lambda number, asked: (
        SPENT["google by message"][1] if asked.path == "/customsearch/v1" else None
    )
    made = stage("google", "brave", "openverse", queries=ONE)
    with pytest.raises(QuotaSpent, match="quota of google spent") as error:
        rows_of(made)
    assert {row["source"] for row in error.value.candidates} == {"brave", "openverse"}
    paths = [asked.path for asked in apis.asked]
    assert sorted(set(paths)) == ["/customsearch/v1", "/res/v1/images/search", "/v1/images/"]
    with pytest.raises(QuotaSpent, match="quota of google spent"):
        rows_of(made)
    assert [asked.path for asked in apis.asked] == paths


def test_a_spent_source_alone_gives_no_part_of_its_results(apis: FakeApis, stage: Make) -> None:
    """A small quota finishes shards one by one."""
    apis.results = 25
    with pytest.raises(QuotaSpent) as error:
        rows_of(stage("google", queries=ONE, api={"daily_requests": 1}))
    assert not error.value.candidates


def test_the_day_of_a_budget_begins_in_its_own_time_zone(tmp_path: Path) -> None:
    clock = [datetime(2026, 1, 2, 7, 59, tzinfo=UTC)]
    storage = Storage(tmp_path)
    budget = Budget(storage, "google", 2, "America/Los_Angeles", lambda: clock[0])
    budget.take()
    budget.take()
    with pytest.raises(QuotaSpent, match=r"\(2 of 2 today\); run again after 2026-01-02 08:00 UTC"):
        budget.take()
    clock[0] = datetime(2026, 1, 2, 8, 0, tzinfo=UTC)
    budget.take()
    spent = budget.spend(clock[0] + timedelta(minutes=90))
    assert "run again after 2026-01-02 09:30 UTC" in str(spent)
    clock[0] += timedelta(minutes=89)
    with pytest.raises(QuotaSpent):
        budget.take()
    clock[0] += timedelta(minutes=1)
    budget.take()
    (tmp_path / "discover/google/quota.json").write_text("{")
    with pytest.raises(HqvoxError, match=r"quota\.json: damaged; delete it"):
        budget.take()


def test_requests_keep_their_distance_over_threads(apis: FakeApis, stage: Make) -> None:
    made = stage("brave", queries=ONE, api={"requests_per_second": 20.0})
    threads = [threading.Thread(target=rows_of, args=(made, person(f"id{n}"))) for n in range(8)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(apis.asked) == 8
    assert 7 / 20 <= time.monotonic() - started < 3


def test_what_waits_can_be_stopped(apis: FakeApis, stage: Make) -> None:
    apis.fault = lambda number, asked: Reply({}, 429, {"Retry-After": "100"})
    made = stage("google", "brave", queries=ONE, api={"requests_per_second": 0.01})
    ended: list[str] = []

    def wait(key: str) -> None:
        with pytest.raises(SourceError, match="stopped"):
            rows_of(made, person(key))
        ended.append(key)

    threads = [threading.Thread(target=wait, args=(f"id{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    while not apis.asked:
        time.sleep(0.01)
    made.stop()
    for thread in threads:
        thread.join(10)
    assert sorted(ended) == ["id0", "id1", "id2"]
    assert len(apis.asked) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_must_be_mended(apis: FakeApis, stage: Make, status: int) -> None:
    apis.fault = lambda number, asked: Reply({"error": {"message": "bad token"}}, status)
    with pytest.raises(
        HqvoxError, match=rf"brave refuses us: {status} \(bad token\); check HQVOX_"
    ):
        rows_of(stage("brave", queries=ONE))
    assert len(apis.asked) == 1


@pytest.mark.parametrize(
    ("source", "reply", "line"),
    [
        (
            "brave",
            Reply({"error": {"code": "SUBSCRIPTION_TOKEN_INVALID", "detail": "not valid"}}, 422),
            r"brave refuses us: 422 \(not valid\); check HQVOX_BRAVE_KEY",
        ),
        (
            "google",
            Reply(google_error(400, "API key not valid. Please pass a valid API key."), 400),
            r"google refuses us: 400 \(API key not valid.*\); check HQVOX_GOOGLE_KEY and HQVOX_",
        ),
        (
            "google",
            Reply({"error": {"code": 400, "details": [{"reason": "API_KEY_INVALID"}]}}, 400),
            r"google refuses us: 400; check HQVOX_GOOGLE_KEY",
        ),
    ],
)
def test_a_key_that_is_none_ends_the_build_with_one_line(
    apis: FakeApis, stage: Make, source: str, reply: Reply, line: str
) -> None:
    apis.fault = lambda number, asked: reply
    with pytest.raises(HqvoxError, match=line):
        rows_of(stage(source))
    assert len(apis.asked) == 1


@pytest.mark.parametrize(
    ("source", "reply"),
    [
        ("brave", Reply({"error": {"code": "VALIDATION", "detail": "count is too large"}}, 422)),
        ("google", Reply(google_error(400, "Request contains an invalid argument."), 400)),
    ],
)
def test_another_wrong_parameter_is_no_refused_key(
    apis: FakeApis, stage: Make, source: str, reply: Reply
) -> None:
    apis.fault = lambda number, asked: reply
    with pytest.raises(SourceError, match=f"{source} answered {reply.status}"):
        rows_of(stage(source))


def test_a_missing_key_names_its_variable(
    apis: FakeApis, stage: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in KEYS:
        monkeypatch.delenv(variable)
    made = stage("openverse", "google", "brave")
    assert [line.split(" (")[0] for line in made.missing()] == [
        f"{source}: set the environment variable {variable}"
        for source, variable in zip(("google", "google", "brave"), KEYS, strict=True)
    ]
    with pytest.raises(HqvoxError, match="google: set the environment variable HQVOX_GOOGLE_KEY"):
        rows_of(made)
    assert {asked.path for asked in apis.asked} <= {"/v1/images/"}


def test_a_crawl_without_a_contact_asks_nobody(apis: FakeApis, stage: Make) -> None:
    made = stage("openverse")
    made.sources[0].client.contact = ""  # type: ignore[attr-defined]
    with pytest.raises(HqvoxError, match=r"download\.contact"):
        rows_of(made)
    assert not apis.asked


def forms(secret: str) -> list[str]:
    """How a secret can be written."""
    return [secret, quote(secret), quote(secret, safe=""), quote_plus(secret), json.dumps(secret),
            repr(secret)[1:-1], secret.lower()]  # fmt: skip


def echo(asked: Asked) -> str:
    """An API that says back whatever it was sent, in every spelling."""
    sent = [*asked.parameters.values(), *asked.headers.values()]
    return " ".join(form for text in sent for form in forms(text)[:-1])


@pytest.mark.parametrize("status", [200, 400, 403, 429, 500, 302])
@pytest.mark.parametrize("source", ["google", "brave"])
def test_a_key_that_is_echoed_stays_out_of_everything(
    apis: FakeApis,
    stage: Make,
    source: str,
    status: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def say(number: int, asked: Asked) -> Reply:
        words, where = echo(asked), "https://a.example/?key=" + quote(echo(asked), safe="")
        if status == 302:
            return Reply(b"", 302, {"Location": where})
        result = {"title": words, "url": where, "link": where,
                  "properties": {"url": where}, "image": {"contextLink": where}}  # fmt: skip
        error = {"error": {"message": words, "code": words}} if status >= 400 else {}
        return Reply({"items": [result], "results": [result], words: words, **error}, status)

    apis.fault = say
    caplog.set_level(logging.DEBUG)
    said = ""
    try:
        rows = rows_of(stage(source, queries=ONE))
        assert status == 200
        assert "***" in rows[0]["title"]
        said = repr(rows)
    except (SourceError, HqvoxError) as error:
        said = str(error) + "".join(traceback.format_exception(error, chain=True))
    out, err = capfd.readouterr()
    files = [p for p in (tmp_path / "w").rglob("*") if p.is_file()]
    assert files
    written = "".join(p.read_text("utf-8", "replace") + str(p) for p in files)
    everything = (said + out + err + caplog.text + written).lower()
    assert "urllib3" in caplog.text or "GET" in caplog.text  # the library did log its requests
    for variable in ("HQVOX_GOOGLE_KEY", "HQVOX_BRAVE_KEY"):
        for form in forms(KEYS[variable]):
            assert form.lower() not in everything, variable


def test_a_secret_too_short_to_be_one_is_left_alone() -> None:
    assert Redactor(["", "cx"]).text("excluded") == "excluded"
    assert Redactor(["secret"]).value({"secret": ["a secret", 1]}) == {"***": ["a ***", 1]}


def test_passwords_of_a_netrc_are_not_sent(
    apis: FakeApis, stage: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "netrc"
    file.write_text("machine 127.0.0.1 login me password mine\n")
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))
    monkeypatch.setenv("HQVOX_OPENVERSE_TOKEN", "a-token-of-openverse")
    rows_of(stage("openverse", "brave"))
    sent = {asked.headers.get("Authorization") for asked in apis.asked}
    assert sent == {None, "Bearer a-token-of-openverse"}
