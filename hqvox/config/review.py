"""The section ``review`` of hqvox.yaml: how people are given identities to decide on."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from hqvox.config.section import Section

Policy = Literal["most_candidates", "least_certain", "random"]


class ReviewConfig(Section):
    """The queue of the review UI, and where decisions are kept."""

    store: str = Field(
        "",
        description="file or PostgreSQL url of the decisions; empty: reviews.sqlite in the "
        "workspace; HQVOX_REVIEW_STORE goes first",
    )
    policy: Policy = Field(
        "most_candidates", description="which identity comes first, if the annotator does not say"
    )
    seed: int = Field(
        0, ge=0, le=2**31 - 1, description="of the random policy, and of who is reviewed twice"
    )
    lease_seconds: float = Field(
        600.0,
        ge=5,
        le=86_400,
        description="how long an identity is held for an annotator who does nothing (house)",
    )
    second_fraction: float = Field(
        0.1, ge=0, le=1, description="share of identities that go to a second annotator (house)"
    )
    min_overlap: float = Field(
        0.5,
        ge=0,
        le=1,
        description="two choices agree from here on: faces that both chose over faces that either "
        "chose (house)",
    )

    allow: dict[str, Literal["annotator", "lead"]] = Field(
        {},
        description="e-mail address of an OpenID Connect account: its role; nobody else gets in",
    )

    @field_validator("store")
    @classmethod
    def _has_no_password(cls, store: str) -> str:
        try:
            password = urlsplit(store).password if "://" in store else None
        except ValueError:
            raise ValueError("a file, or an address like postgresql://user@host/name") from None
        if password:
            raise ValueError(
                "an address without a password: keep that in ~/.pgpass, or put the whole address "
                "into the environment variable HQVOX_REVIEW_STORE"
            )
        return store
