"""Where KV pages were over the steps of a run, and how many were copied between the device and the host."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol


class StepPages(Protocol):
    """What a step says about pages, as `StepInfo` does."""

    @property
    def free_pages(self) -> int:
        """Pages that nobody holds."""
        ...

    @property
    def moving_pages(self) -> int:
        """Pages of the device that are being copied."""
        ...

    @property
    def host_pages(self) -> int:
        """Pages in the host tier."""
        ...

    @property
    def n_spilled(self) -> int:
        """Pages that began to be copied to the host."""
        ...

    @property
    def n_restored(self) -> int:
        """Pages that began to be copied back."""
        ...


@dataclass(slots=True)
class PageMetrics:
    """Pages by step, and what was copied; bytes are those of whole pages."""

    n_pages: int  #: pages of the device that anybody may hold
    page_bytes: int  #: bytes of a page
    free: list[int] = field(default_factory=list[int])  #: pages nobody held, by step
    moving: list[int] = field(default_factory=list[int])  #: pages of the device that were being copied, by step
    host: list[int] = field(default_factory=list[int])  #: pages in the host tier, by step
    num_spilled: int = 0  #: pages that were copied to the host
    num_restored: int = 0  #: pages that were copied back

    def add(self, step: StepPages) -> None:
        """Add a step."""
        self.free.append(step.free_pages)
        self.moving.append(step.moving_pages)
        self.host.append(step.host_pages)
        self.num_spilled += step.n_spilled
        self.num_restored += step.n_restored

    @property
    def most_used(self) -> float:
        """The largest share of pages that were held or being copied in a step; 0 without steps."""
        return 1 - min(self.free, default=self.n_pages) / self.n_pages

    def to_dict(self) -> dict[str, Any]:
        """Return sums as plain JSON values."""
        return {
            "pages": self.n_pages,
            "most_used": self.most_used,
            "most_on_host": max(self.host, default=0),
            "spilled_bytes": self.num_spilled * self.page_bytes,
            "restored_bytes": self.num_restored * self.page_bytes,
        }
