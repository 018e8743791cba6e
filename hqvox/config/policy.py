"""The section ``policy`` of hqvox.yaml: which reservations of rights refuse a photograph."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hqvox.config.section import Section

Reservation = Literal["tdm_header", "tdm_file", "metadata", "c2pa", "personality"]
"""Where it is stated: the header tdm-reservation, /.well-known/tdmrep.json, the picture's IPTC or
XMP fields, its Content Credentials, or Commons' field Restrictions."""


class PolicyConfig(Section):
    """Reservations of rights. robots.txt and X-Robots-Tag are in the section download."""

    respect: list[Reservation] = Field(
        ["tdm_header", "tdm_file", "metadata", "c2pa", "personality"],
        description="reservations that refuse a photo of the network; what was seen in header, "
        "picture and Commons is recorded in any case (house)",
    )
