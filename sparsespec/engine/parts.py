"""The seven parts of an engine, made from a spec and introduced to one another.

Whatever cannot work together is refused here, once, before anything is allocated.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from sparsespec.core.capabilities import check_capabilities
from sparsespec.core.config import Geometry
from sparsespec.core.protocols import (
    Attention,
    Length,
    Proposer,
    Scheduler,
    Selector,
    Tiers,
    Verifier,
)
from sparsespec.core.registry import make, spec_of
from sparsespec.core.spec import EngineSpec, PartSpec


@dataclass(frozen=True, slots=True)
class Parts:
    """One part of each shelf."""

    selector: Selector
    proposer: Proposer
    length: Length
    scheduler: Scheduler
    tiers: Tiers
    attention: Attention
    verifier: Verifier

    @classmethod
    def make(cls, spec: EngineSpec, instances: dict[str, Any]) -> Parts:
        """Make the parts that `spec` names, `instances` (finished parts by shelf) taking precedence."""
        made = {shelf: make(instances.get(shelf, part)) for shelf, part in spec.parts.items()}
        check_capabilities(made, spec.loop)
        return cls(**made)

    def specs(self) -> dict[str, PartSpec]:
        """Return the specs that make such parts again."""
        return {f.name: spec_of(f.name, getattr(self, f.name)) for f in fields(self)}

    def bind(self, geometry: Geometry) -> None:
        """Let every part allocate, except attention, which also needs the model and the pool."""
        for part in (self.selector, self.proposer, self.length, self.scheduler, self.tiers):
            part.bind(geometry)
        self.verifier.bind(geometry)
