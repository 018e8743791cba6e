"""What every section of hqvox.yaml is made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A section of hqvox.yaml: unknown keys are errors, values are checked, nothing is coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class StageSection(Section):
    """What every stage's section has."""

    enabled: bool = Field(True, description="false: measure, but refuse nobody")
