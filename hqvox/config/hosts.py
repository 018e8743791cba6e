"""``hosts.yaml`` of a workspace: pace, connections, pauses and a blocklist, host by host.

The operator of a crawl writes it; a running crawl rereads it.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationError

from hqvox.config.explain import explain, read_yaml
from hqvox.config.section import Section
from hqvox.errors import HqvoxError


class HostConfig(Section):
    """What holds for a host and the hosts below its name."""

    requests_per_second: float | None = Field(
        None,
        gt=0,
        le=10_000,
        description="null: download.host_requests_per_second; a longer Crawl-delay counts",
    )
    connections: int | None = Field(
        None, ge=1, le=256, description="at once; null: download.host_connections"
    )
    pause: bool = Field(False, description="make no request until this is false again")
    block: bool = Field(False, description="refuse its photos with the reason host_blocked")


class HostsConfig(Section):
    """The file as a whole."""

    pause: bool = Field(False, description="make no request to any host")
    hosts: dict[str, HostConfig] = Field({}, description="by name, or name:port")

    def of(self, name: str) -> HostConfig:
        """What holds for the host ``name`` or ``name:port``: the entry with the longest name."""
        bare = name.rpartition(":")[0] if name.rpartition(":")[2].isdigit() else name
        parts = bare.split(".")
        above = [".".join(parts[start:]) for start in range(len(parts))]
        entry = next((self.hosts[key] for key in (name, *above) if key in self.hosts), None)
        entry = entry or HostConfig()
        return entry.model_copy(update={"pause": True}) if self.pause else entry


def load_hosts(text: str, where: str) -> HostsConfig:
    """The file's content. Raises HqvoxError with the line and the nearest right key."""
    written, lines = read_yaml(text, where)
    entries = written.get("hosts")
    parts: list[tuple[type[Section], Any, str]] = [(HostsConfig, written, where)]
    if isinstance(entries, dict):  # one by one, so that the line names the host
        named = {name: entry for name, entry in entries.items() if isinstance(entry, dict)}
        parts[:0] = [(HostConfig, entry, f"{where}: {name}") for name, entry in named.items()]
    for model, values, place in parts:
        try:
            valid = model.model_validate(values)
        except ValidationError as error:
            known = lines if model is HostsConfig else None
            hint = "see docs/crawling.md"
            raise HqvoxError(explain(error.errors()[0], model, place, known, {}, hint)) from None
    assert isinstance(valid, HostsConfig)
    return valid
