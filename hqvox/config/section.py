"""What every section of hqvox.yaml is made of, and how a stage's section declares its limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A section of hqvox.yaml: unknown keys are errors, values are checked, nothing is coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Limit:
    """A bound on a measure of a stage, and the reason that rows beyond it get.

    Exactly one of ``at_least`` and ``at_most`` is given: the key of the section that holds the
    bound, or a fixed bound. If the key's value is null, the network's threshold is the bound.
    """

    measure: str
    """A number of the stage's table that is shown, see :data:`hqvox.workspace.tables.TABLES`."""
    reason: str
    at_least: str | float | None = None
    at_most: str | float | None = None
    rule: str = ""
    """Limits of one reason that share a rule must all hold; several rules are alternatives."""
    unless: tuple[str, *tuple[str | None, ...]] | None = None
    """Key of the section, and its values with which the limit does not apply."""
    also: tuple[str, ...] = ()
    """Further reasons that rest on the measure, but not on this bound."""

    @property
    def upper(self) -> bool:
        """Whether values above the bound are refused, not those below it."""
        return self.at_most is not None

    @property
    def setting(self) -> str | None:
        """The section's key that holds the bound; None where it cannot be set."""
        bound = self.at_most if self.upper else self.at_least
        return bound if isinstance(bound, str) else None

    def applies(self, section: StageSection) -> bool:
        """Whether the section's other settings leave the limit on."""
        return self.unless is None or getattr(section, self.unless[0]) not in self.unless[1:]

    def bound(self, section: StageSection) -> float | None:
        """The bound; None if the network sets it."""
        if self.setting is not None:
            value: float | None = getattr(section, self.setting)
            return value
        fixed = self.at_most if self.upper else self.at_least
        assert isinstance(fixed, int | float), self
        return fixed


class StageSection(Section):
    """What every stage's section has."""

    limits: ClassVar[tuple[Limit, ...]] = ()
    """The stage's limits. A row gets the reason of the first one that it breaks."""

    enabled: bool = Field(True, description="false: measure, but refuse nobody")

    def idle(self) -> set[str]:
        """Keys that hold only bounds of limits that do not apply: they decide nothing."""
        applied = {limit.setting for limit in self.limits if limit.applies(self)}
        return {
            limit.setting for limit in self.limits if limit.setting and limit.setting not in applied
        }
