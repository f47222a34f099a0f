"""Puts `chaos` and `erratic` on their shelves, so that specs can name them."""

from __future__ import annotations

from sparsespec.core import registry

_ADVERSARIES = {
    ("scheduler", "chaos"): "sparsespec.testing.chaos:Chaos",
    ("length", "erratic"): "sparsespec.testing.erratic:Erratic",
}


def register_adversaries() -> None:
    """Register the adversaries for this process; calling it again changes nothing."""
    for (shelf, name), target in _ADVERSARIES.items():
        if name not in registry.names(shelf):
            registry.register(shelf, name, target)
