"""Requests to a search API: paced, within a budget, retried, without showing the keys."""

from __future__ import annotations

import json
import random
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from hqvox.config.discover import ApiConfig
from hqvox.errors import HqvoxError
from pipelines.discover.budget import Budget, RequestPace
from pipelines.discover.secrets import Redactor
from pipelines.discover.source import SourceError
from pipelines.fetch.client import user_agent
from pipelines.fetch.headers import retry_after_seconds

MAX_BYTES = 32 << 20
"""Largest response, decompressed: fifty times the largest that any of the APIs sends."""
MAX_REDIRECTS = 3
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses of transient failures: a later try may not meet them."""
DETAIL_CHARACTERS = 160


@dataclass(frozen=True)
class ApiResponse:
    """A response of an API."""

    status: int
    headers: Mapping[str, str]
    """Header names in any case."""
    body: Any
    """Parsed JSON without secrets; None where it is not JSON."""


@dataclass(frozen=True)
class Failure:
    """Why a response cannot be used, and whether to retry."""

    what: str
    again: bool = True
    wait_seconds: float = 0.0
    """Seconds that the API asks us to wait before."""


@dataclass(frozen=True)
class KeyRefused:
    """The API does not accept the key."""


@dataclass(frozen=True)
class Spent:
    """The quota is used up until this time; None: until the source's next day."""

    until: datetime | None = None


class ApiClient:
    """One source's API; safe to use from several threads."""

    def __init__(
        self,
        source: str,
        config: ApiConfig,
        contact: str,
        budget: Budget,
        keys: Mapping[str, str],
        classify: Callable[[ApiResponse], Failure | KeyRefused | Spent | None],
        stopping: threading.Event,
    ) -> None:
        """``keys``: environment variable to its secret. ``stopping``: ends all waits.

        ``classify``: the source's own reading of a response: a failure, a key that is not accepted
        or a spent quota, whatever its status; None leaves it to the status.
        """
        self.source = source
        self.config = config
        self.contact = contact
        self.budget = budget
        self.variables = list(keys)
        self.classify = classify
        self.redactor = Redactor(keys.values())
        self.stopping = stopping
        self._pace = RequestPace(config.requests_per_second, stopping)
        self._local = threading.local()

    def work_for(self, shard: str) -> None:
        """This thread's next requests are for that shard; requests of earlier shards go first."""
        self._local.shard = shard

    def get(
        self,
        url: str,
        parameters: Mapping[str, Any],
        secret_parameters: Mapping[str, str] | None = None,
        secret_headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The JSON object of the response, without secrets.

        Raises QuotaSpent; SourceError if it still fails after the retries; HqvoxError if the API
        refuses the key. Their messages hold no secrets.
        """
        sent = {**parameters, **(secret_parameters or {})}
        headers = {
            "User-Agent": user_agent(self.contact),
            "Accept": "application/json",
            **(secret_headers or {}),
        }
        failure = Failure("was not asked")
        for attempt in range(self.config.retries + 1):
            self._pace.wait(getattr(self._local, "shard", ""))
            self.budget.take()
            answer = self._ask(url, sent, headers)
            if isinstance(answer, dict):
                return answer
            failure = answer
            pause = self.config.backoff_seconds * 2**attempt * random.uniform(0.5, 1.0)
            pause = max(failure.wait_seconds, min(pause, self.config.longest_wait_seconds))
            if not failure.again or attempt == self.config.retries:
                break
            if self.stopping.wait(pause):
                raise SourceError("stopped")
        tries = f" {attempt + 1} times" if failure.again and attempt else ""
        raise SourceError(
            f"{self.source} {self.redactor.text(failure.what)}{tries}; run again later"
        )

    def _ask(
        self, url: str, parameters: Mapping[str, Any], headers: Mapping[str, str]
    ) -> dict[str, Any] | Failure:
        answer = self._send(url, parameters, headers)
        if isinstance(answer, Failure):
            return answer
        problem = self.classify(answer)
        if isinstance(problem, Spent):
            raise self.budget.spend(problem.until or self.budget.next_day())
        if isinstance(problem, Failure):
            return problem
        detail = _detail(answer.body)
        if problem is not None or answer.status in (401, 403):
            named = " and ".join(self.variables)
            remedy = f"check {named}" if named else "check download.contact and the terms of use"
            raise HqvoxError(
                f"{self.source} refuses us: {answer.status}{self.redactor.text(detail)}; {remedy}"
            )
        if 200 <= answer.status < 300:
            if isinstance(answer.body, dict):
                return answer.body
            return Failure("answered with something that is not a JSON object")
        if answer.status in TRANSIENT:
            seconds = wait_seconds(answer.headers)
            if seconds > self.config.longest_wait_seconds:
                if answer.status == 429:
                    raise self.budget.spend(datetime.now(UTC) + timedelta(seconds=seconds))
                return Failure(f"answered {answer.status}{detail} and asks for a long wait", False)
            return Failure(f"answered {answer.status}{detail}", wait_seconds=seconds)
        return Failure(f"answered {answer.status}{detail}", again=False)

    def _send(
        self, url: str, parameters: Mapping[str, Any], headers: Mapping[str, str]
    ) -> ApiResponse | Failure:
        """One request. Errors of the library get our own words: its messages hold the url."""
        try:
            for _ in range(MAX_REDIRECTS + 1):
                with self._session().get(
                    url,
                    params=dict(parameters),
                    headers=dict(headers),
                    timeout=self.config.timeout_seconds,
                    allow_redirects=False,
                    stream=True,
                ) as response:
                    location = response.headers.get("Location")
                    if response.status_code in (301, 302, 303, 307, 308) and location:
                        target = urljoin(url, location)
                        if urlsplit(target)[:2] != urlsplit(url)[:2]:
                            host = urlsplit(target).hostname
                            return Failure(f"sends us to another host ({host})", again=False)
                        url, parameters = target, {}
                        continue
                    data = self._body(response)
                    if isinstance(data, Failure):
                        return data
                    return ApiResponse(response.status_code, response.headers, self._parsed(data))
            return Failure("sends us in a circle", again=False)
        except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError):
            return Failure(f"did not answer within {self.config.timeout_seconds:g} s")
        except (requests.exceptions.SSLError, ssl.SSLError):
            return Failure("has no valid TLS certificate", again=False)
        except (OSError, urllib3.exceptions.HTTPError):  # requests' own are OSErrors
            return Failure("could not be reached, or broke off")
        except ValueError:
            return Failure("sends us to what is no address", again=False)

    def _body(self, response: requests.Response) -> bytes | Failure:
        """The response's bytes, within the limits of size and time."""
        parts: list[bytes] = []
        size = 0
        deadline = time.monotonic() + self.config.timeout_seconds
        while part := response.raw.read1(1 << 16, decode_content=True):
            parts.append(part)
            size += len(part)
            if size > MAX_BYTES:
                return Failure(f"answered more than {MAX_BYTES >> 20} MB", again=False)
            if time.monotonic() > deadline:
                return Failure(f"did not finish within {self.config.timeout_seconds:g} s")
        announced = response.headers.get("Content-Length", "")
        whole = "Content-Encoding" in response.headers or not announced.isdigit()
        if not whole and size < int(announced):
            return Failure("broke off")
        return b"".join(parts)

    def _parsed(self, data: bytes) -> Any:
        try:
            return self.redactor.value(json.loads(data))
        except (ValueError, RecursionError):
            return None

    def _session(self) -> requests.Session:
        """This thread's session: sessions cannot be shared between threads."""
        session = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
            session.auth = lambda request: request  # else a ~/.netrc overrides our header
        return session


def wait_seconds(headers: Mapping[str, str]) -> float:
    """Seconds that the headers ask us to wait; 0 if they do not say."""
    return retry_after_seconds(headers.get("Retry-After"), headers.get("Date")) or 0.0


def _detail(body: Any) -> str:
    """The API's own error message, in brackets; looked up under the usual keys."""
    message = body
    for key in ("error", "message", "detail", "info"):
        if isinstance(message, dict) and key in message:
            message = message[key]
            if key == "error" and isinstance(message, dict):
                inner = ("message", "detail", "info")
                message = next((message[k] for k in inner if k in message), None)
                break
    if not isinstance(message, str):
        return ""
    line = "".join(c if c.isprintable() else " " for c in message)
    return f" ({' '.join(line.split())[:DETAIL_CHARACTERS]})"
