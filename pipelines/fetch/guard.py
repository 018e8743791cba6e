"""Which urls may be requested: http(s), without credentials, at public addresses.

The resolver passes checked addresses to the connector, and nothing asks the DNS again. So the
address that was checked is the one that is connected to.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port to addresses, in the order to try them. Raises OSError."""

URL_CHARACTERS = 4096
"""Longest url that is requested."""
KEPT_SECONDS = 60.0
"""How long an answer of the DNS is used."""

_EMBEDDING = tuple(ipaddress.ip_network(n) for n in ("::/96", "64:ff9b::/96"))
"""IPv4-compatible and NAT64: the last 32 bits are an IPv4 address."""
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
"""All of IPv6 that is assigned (RFC 4291, IANA); the old site-local addresses are outside."""
_METADATA = frozenset(
    ipaddress.ip_address(a) for a in ("168.63.129.16", "192.0.0.192", "fd00:ec2::254")
)
"""Cloud metadata services outside the ranges that are refused in any case."""


class RefusedUrlError(Exception):
    """``reason``: ``bad_url`` or ``refused_address``; ``str()`` says why."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Guard:
    """``allow_hosts``: ``host`` or ``host:port`` that may have any address; IPv6 in brackets."""

    def __init__(self, allow_hosts: Sequence[str] = ()) -> None:
        self._allowed = {entry.strip().lower() for entry in allow_hosts}

    def url(self, text: str) -> URL:
        """The normalised url. Raises RefusedUrlError if it may not be requested.

        A host written as an address is checked here, a host name when it is resolved.
        """
        if len(text) > URL_CHARACTERS:
            raise RefusedUrlError("bad_url", f"longer than {URL_CHARACTERS} characters")
        try:
            url = URL(text.strip())
            host, port = url.raw_host, url.port
        except (ValueError, TypeError, UnicodeError) as error:
            raise RefusedUrlError("bad_url", str(error)) from None
        if url.scheme not in ("http", "https"):
            raise RefusedUrlError("bad_url", f"scheme {url.scheme or 'none'}, not http or https")
        if url.raw_user is not None or url.raw_password is not None:
            raise RefusedUrlError("bad_url", "credentials in the url")
        if not host or not port:
            raise RefusedUrlError("bad_url", "no host")
        address = _literal(host)
        if address is None:
            if host.rstrip(".").rpartition(".")[2].isdigit():
                # 2130706433 and 127.1 are 127.0.0.1 to those who read addresses as C does.
                raise RefusedUrlError("bad_url", f"{host[:100]} is not an address")
            return url
        self.check(host, port, address)
        return url

    def check(self, host: str, port: int, address: Address) -> None:
        """Raise RefusedUrlError if the address is not public and the host is not allowed."""
        name = host.lower().rstrip(".")
        name = f"[{name}]" if ":" in name else name
        if name in self._allowed or f"{name}:{port}" in self._allowed:
            return
        if not is_public(address):
            raise RefusedUrlError(
                "refused_address", f"{host} is at {address}, not a public address"
            )


@lru_cache(maxsize=10_000)
def _literal(host: str) -> Address | None:
    """The address that a host is written as; None where it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_public(address: Address) -> bool:
    """Whether an address is public, and any IPv4 address embedded in it too."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return False
        inner = _inside(address)
        if inner is not None:
            return is_public(inner)
        if address not in _GLOBAL_UNICAST:
            return False
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not address.is_unspecified
        and address not in _METADATA
    )


def _inside(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address embedded in an IPv6 address (mapped, compatible, NAT64, 6to4)."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if any(address in network for network in _EMBEDDING):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


async def system_lookup(host: str, port: int) -> Sequence[str]:
    """Addresses by the system's resolver. Raises OSError."""
    entries = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
    )
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))


class GuardedResolver(AbstractResolver):
    """Resolves names to checked addresses. One refused address refuses the whole name."""

    def __init__(self, guard: Guard, lookup: Lookup = system_lookup) -> None:
        self._guard = guard
        self._lookup = lookup
        self._kept: dict[tuple[str, int], tuple[float, list[ResolveResult]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Checked addresses of a host. Raises OSError, RefusedUrlError."""
        now = time.monotonic()
        kept = self._kept.get((host, port))
        if kept is not None and kept[0] > now:
            return kept[1]
        results = []
        for text in await self._lookup(host, port):
            address = ipaddress.ip_address(text)
            self._guard.check(host, port, address)
            results.append(
                ResolveResult(
                    hostname=host,
                    host=str(address),
                    port=port,
                    family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
                    proto=0,
                    flags=socket.AI_NUMERICHOST,
                )
            )
        if not results:
            raise OSError(None, "no address")
        if len(self._kept) > 10_000:
            self._kept.clear()
        self._kept[host, port] = (now + KEPT_SECONDS, results)
        return results

    async def close(self) -> None:
        """Nothing to close."""
