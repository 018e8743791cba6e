"""What a request needs to reach the review, and what every answer carries."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from annotator.log.access import Actor, TokenFile
from hqvox.errors import HqvoxError
from hqvox.workspace.identities import to_table
from hqvox.workspace.layout import Workspace

pytest.importorskip("streamlit")

from annotator.server import credentials as credentials_module
from annotator.server import guard
from annotator.server.credentials import Credentials, entrance
from annotator.server.launch import Options

HOST = "127.0.0.1:8501"
OWN = f"http://{HOST}"
PAGE = {"accept": "text/html,*/*"}


@dataclass
class Answer:
    """What came back: of a page, or of a websocket (status 101 where it was let through)."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: str = ""

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")


class Browser:
    """Sends requests through a guard, and keeps its cookie."""

    def __init__(self, known: Credentials, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(guard, "credentials", lambda: known)
        monkeypatch.setattr(guard, "REFUSAL_SECONDS", 0.0)
        self.known, self.cookie = known, ""

    def get(self, path: str, **headers: str) -> Answer:
        return self._ask("GET", path, PAGE | headers)

    def post(self, path: str, origin: str = OWN, **form: str) -> Answer:
        return self._ask("POST", path, {"origin": origin}, urlencode(form).encode())

    def websocket(self, origin: str = OWN) -> Answer:
        return self._ask("websocket", "/_stcore/stream", {"origin": origin} if origin else {})

    def _ask(self, method: str, target: str, headers: dict[str, str], body: bytes = b"") -> Answer:
        path, _, query = target.partition("?")
        sent = {"host": HOST, **headers} | ({"cookie": self.cookie} if self.cookie else {})
        scope: dict[str, Any] = {
            "type": "websocket" if method == "websocket" else "http",
            "method": method,
            "scheme": "http",
            "path": path,
            "query_string": query.encode(),
            "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in sent.items()],
        }
        messages: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            messages.append(message)

        asyncio.run(guard.Guard(_streamlit)(scope, receive, send))
        answer = _answer_of(messages)
        given = answer.header("set-cookie")
        if given.startswith("hqvox"):
            self.cookie = "" if "Max-Age=0" in given else given.split(";")[0]
        return answer


async def _streamlit(scope: Any, receive: Any, send: Any) -> None:
    """The app behind the guard."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    headers = [(b"set-cookie", b"_streamlit_xsrf=1; Path=/")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"the review"})


def _answer_of(messages: list[Any]) -> Answer:
    first = messages[0]
    if first["type"].startswith("websocket"):
        return Answer(101 if first["type"] == "websocket.accept" else 403)
    headers = [(k.decode().lower(), v.decode()) for k, v in first["headers"]]
    return Answer(first["status"], headers, b"".join(m["body"] for m in messages[1:]).decode())


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return made(tmp_path / "work")


def made(folder: Path) -> Workspace:
    """A workspace that nothing is built in."""
    person = {"identity_id": "id0", "name": "Ada", "subset": "custom", "row": 0, "folder": "Ada"}
    photos = yaml.safe_dump({"discover": {"photos": str(folder)}})
    return Workspace.create(
        folder, photos, to_table([person | {"gender": None, "nationality": None}])
    )


@pytest.fixture
def local(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Browser:
    """A browser at the machine's own address."""
    return Browser(Credentials(Options(workspace.url, "ada"), "127.0.0.1", 8501), monkeypatch)


@pytest.fixture
def team(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Browser:
    """A browser where people sign in."""
    return Browser(Credentials(Options(workspace.url), "0.0.0.0", 8501), monkeypatch)


def test_nothing_is_answered_without_the_token(local: Browser) -> None:
    for path in ("/", "/history", "/explore", "/media/picture.jpg", "/static/js/index.js"):
        answer = local.get(path)
        assert answer.status == 401
        assert "the review" not in answer.body
    assert "Open the address that hqvox review printed" in local.get("/").body
    assert local.get("/media/picture.jpg", accept="image/*").body == "not available\n"
    assert local.websocket().status == 403
    assert local.get("/_stcore/health").status == 200  # tells that a server is there, no more


@pytest.mark.parametrize("path", ["/_stcore/health/x", "/_stcore/health/../../media/a.png"])
def test_only_the_health_check_itself_is_open(local: Browser, path: str) -> None:
    assert local.get(path).status == 401
    assert local.get(f"/media{path}").status == 401


def test_the_printed_address_becomes_a_cookie(local: Browser) -> None:
    path = entrance("", local=True)
    answer = local.get(path.replace("/?", "/history?a=1&"))
    assert (answer.status, answer.header("location")) == (303, "/history?a=1")
    cookie = answer.header("set-cookie")
    assert cookie.startswith("hqvox_review_8501=")
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert credentials_module.LOCAL_TOKEN not in cookie
    assert local.get("/").body == "the review"
    assert local.get("/history").body == "the review"
    assert local.websocket().status == 101
    assert local.get("/?token=old").status == 303  # a bookmark; already inside
    actor = local.known.actor({"hqvox_review_8501": local.cookie.partition("=")[2]})
    assert actor == Actor("ada", "lead")


def test_a_wrong_token_opens_nothing(local: Browser) -> None:
    answer = local.get("/?token=guessed")
    assert answer.status == 401
    assert "not valid any more" in answer.body
    pasted = local.post("/sign-in", token="guessed")
    assert pasted.status == 401
    for page in (answer, pasted):
        assert "Open the address that hqvox review printed" in page.body
        assert "made it for you" not in page.body
        assert "ask for a new one" not in page.body
    assert local.cookie == ""
    local.cookie = "hqvox_review_8501=guessed"
    assert local.get("/").status == 401
    assert local.websocket().status == 403


@pytest.mark.parametrize("path", ["//evil.example", "//evil.example/history", "/a//evil"])
def test_the_printed_address_leads_to_no_other_site(local: Browser, path: str) -> None:
    address = entrance("", local=True)
    for answer in (local.get(f"{path}{address[1:]}"), local.get(f"{path}?token=old")):
        assert (answer.status, answer.header("location")) == (303, "./")


def test_the_cookie_outlives_the_server(
    local: Browser, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.get(entrance("", local=True))
    again = Browser(Credentials(Options(workspace.url), "127.0.0.1", 8501), monkeypatch)
    again.cookie = local.cookie
    assert again.websocket().status == 101
    other = made(Path(f"{workspace.url}-other"))
    elsewhere = Browser(Credentials(Options(other.url), "127.0.0.1", 8501), monkeypatch)
    elsewhere.cookie = local.cookie
    assert elsewhere.websocket().status == 403


def test_the_address_on_a_command_line_works_once(
    local: Browser, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials_module, "_BROWSER_TOKENS", {"once"})
    address = entrance("", local=True, once=True)
    assert "once" in address
    assert local.get(address).status == 303
    second = Browser(Credentials(Options(workspace.url), "127.0.0.1", 8501), monkeypatch)
    assert second.get(address).status == 401


@pytest.mark.parametrize(
    "origin",
    ["", "null", "http://127.0.0.1:9999", "http://localhost:8501", "http://evil.example"],
)
def test_pages_of_others_open_no_websocket(local: Browser, origin: str) -> None:
    local.get(entrance("", local=True))
    assert local.websocket(origin).status == 403


def test_a_named_token_signs_in_until_it_is_removed(team: Browser, workspace: Workspace) -> None:
    tokens = TokenFile(workspace)
    assert "hqvox review token add" in team.get("/").body
    assert workspace.url not in team.get("/").body
    token = tokens.add("ada", "lead")
    assert "Whoever runs this review" in team.get("/history").body
    assert team.post("/sign-in", token="hqv_wrong").status == 401
    assert team.cookie == ""
    answer = team.post("/sign-in", token=f" {token} ", next="/history")
    assert (answer.status, answer.header("location")) == (303, "/history")
    assert team.get("/explore").body == "the review"
    assert team.websocket().status == 101
    tokens.remove("ada")
    assert team.get("/").status == 401
    assert team.websocket().status == 403
    again = tokens.add("ada", "annotator")
    assert team.get("/").status == 401  # the old token stays removed
    assert team.post("/sign-in", token=again).status == 303
    assert team.get("/sign-out").status == 303
    assert team.get("/").status == 401


def test_the_sign_in_is_no_way_for_other_sites(team: Browser, workspace: Workspace) -> None:
    token = TokenFile(workspace).add("ada", "lead")
    assert team.post("/sign-in", "http://evil.example", token=token).status == 403
    assert team.cookie == ""
    for wanted in ("//evil.example", "https://evil.example", "/a//evil", "/\\evil", '/"><b>'):
        answer = team.post("/sign-in", token=token, next=wanted)
        assert answer.header("location") == "./", wanted
    team.cookie = ""
    assert "<b>" not in team.get('/"><b>').body
    assert team.post("/sign-in", token="x" * 10_000).status == 401


@pytest.mark.parametrize(
    "path", ["metrics", "upload_file/a/b", "agent/interact", "agent/mcp", "script-health-check"]
)
def test_what_the_review_does_not_use_is_closed(local: Browser, path: str) -> None:
    local.get(entrance("", local=True))
    assert local.get(f"/_stcore/{path}").status == 404
    assert local.get(f"/under/a/path/_stcore/{path}").status == 404


def test_every_answer_has_the_headers(local: Browser) -> None:
    outside = local.get("/")
    local.get(entrance("", local=True))
    for answer in (outside, local.get("/"), local.get("/_stcore/metrics")):
        policy = answer.header("content-security-policy")
        assert "frame-ancestors 'none'" in policy
        assert f"ws://{HOST}" in policy
        assert "'unsafe-inline'" not in policy.split("style-src")[0]
        assert answer.header("x-content-type-options") == "nosniff"
        assert answer.header("referrer-policy") == "same-origin"
    strange = local.get("/", host="a; script-src *")
    assert "script-src *" not in strange.header("content-security-policy")


def test_cookies_are_secure_behind_tls(team: Browser, workspace: Workspace) -> None:
    token = TokenFile(workspace).add("ada", "lead")
    plain = team.post("/sign-in", token=token).header("set-cookie")
    assert "Secure" not in plain
    theirs = team.get("/").header("set-cookie")
    assert theirs == "_streamlit_xsrf=1; Path=/; SameSite=Lax; HttpOnly"
    assert team.get("/", x_forwarded_proto="https").header("set-cookie").endswith("; Secure")
    out = team.get("/sign-out", x_forwarded_proto="https").header("set-cookie")
    assert "Secure" in out


def test_with_accounts_streamlit_shows_the_sign_in(team: Browser, workspace: Workspace) -> None:
    folder = Path(workspace.url)
    (folder / ".streamlit").mkdir()
    (folder / ".streamlit/secrets.toml").write_text('[auth]\nclient_id = "a"\n')
    assert team.get("/").status == 401  # a provider, but nobody is allowed
    with (folder / "hqvox.yaml").open("a") as file:
        file.write("review: {allow: {ada@example.org: lead}}\n")
    answer = team.get("/history")
    assert answer.body == "the review"
    assert answer.header("set-cookie") == "_streamlit_xsrf=1; Path=/; SameSite=Lax"
    assert team.websocket().status == 101
    assert team.websocket("http://evil.example").status == 403
    assert team.get("/_stcore/metrics").status == 404


def test_a_damaged_file_of_tokens_lets_nobody_in(team: Browser, workspace: Workspace) -> None:
    token = TokenFile(workspace).add("ada", "lead")
    team.post("/sign-in", token=token)
    (Path(workspace.url) / "review-tokens.json").write_text("{")
    answer = team.get("/")
    assert answer.status == 503
    assert "damaged" in answer.body
    assert workspace.url not in answer.body
    assert team.websocket().status == 403
    with pytest.raises(HqvoxError, match="damaged"):
        team.known.actor({"hqvox_review_8501": token})
