"""Lossless self-speculative decoding with sparse attention, out of pluggable parts.

Public names are loaded when first used (PEP 562), so `import sparsespec` imports no torch,
initialises no device, reads no environment and patches nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparsespec.comparison.compare import compare
    from sparsespec.core.errors import SparseSpecError
    from sparsespec.core.params import SamplingParams
    from sparsespec.core.registry import make
    from sparsespec.core.spec import PRESETS, EngineSpec
    from sparsespec.engine.engine import Engine
    from sparsespec.engine.wrappers import CheckLossless, RecordTrace
    from sparsespec.llm import LLM

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "PRESETS",
    "CheckLossless",
    "Engine",
    "EngineSpec",
    "RecordTrace",
    "SamplingParams",
    "SparseSpecError",
    "__version__",
    "compare",
    "make",
]

_HOMES = {
    "LLM": "sparsespec.llm",
    "PRESETS": "sparsespec.core.spec",
    "CheckLossless": "sparsespec.engine.wrappers",
    "Engine": "sparsespec.engine.engine",
    "EngineSpec": "sparsespec.core.spec",
    "RecordTrace": "sparsespec.engine.wrappers",
    "SamplingParams": "sparsespec.core.params",
    "SparseSpecError": "sparsespec.core.errors",
    "compare": "sparsespec.comparison.compare",
    "make": "sparsespec.core.registry",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use; later uses find it in the module."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sparsespec' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
