"""Public checks for plug-ins and kernels, adversaries, and strategies that draw engines and requests.

Names are loaded when first used, so the adversaries need no torch. The Hypothesis strategy stands in `strategies.py`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from sparsespec.core.spec import SHELVES

if TYPE_CHECKING:
    from sparsespec.testing.adversaries import register_adversaries
    from sparsespec.testing.cases import Ask, Case, case_of, engine_of, model_of
    from sparsespec.testing.chaos import Chaos
    from sparsespec.testing.checks.attention import check_attention
    from sparsespec.testing.checks.kernel import check_kernel
    from sparsespec.testing.checks.length import check_length
    from sparsespec.testing.checks.proposer import check_proposer
    from sparsespec.testing.checks.scheduler import check_scheduler
    from sparsespec.testing.checks.selector import check_selector
    from sparsespec.testing.checks.tiers import check_tiers
    from sparsespec.testing.checks.verifier import check_verifier
    from sparsespec.testing.erratic import Erratic
    from sparsespec.testing.op_cases import kernel_ops
    from sparsespec.testing.ops.op import Bad, Compared, KernelOp

__all__ = [
    "Ask",
    "Bad",
    "Case",
    "Chaos",
    "Compared",
    "Erratic",
    "KernelOp",
    "case_of",
    "check_attention",
    "check_kernel",
    "check_length",
    "check_proposer",
    "check_scheduler",
    "check_selector",
    "check_tiers",
    "check_verifier",
    "engine_of",
    "kernel_ops",
    "model_of",
    "register_adversaries",
]

# the checks stand in a folder of their own, so that no module has the name of its function
_HOMES = {
    "Ask": "cases",
    "Bad": "ops.op",
    "Case": "cases",
    "Chaos": "chaos",
    "Compared": "ops.op",
    "Erratic": "erratic",
    "KernelOp": "ops.op",
    "case_of": "cases",
    **{f"check_{shelf}": f"checks.{shelf}" for shelf in (*SHELVES, "kernel")},
    "engine_of": "cases",
    "kernel_ops": "op_cases",
    "model_of": "cases",
    "register_adversaries": "adversaries",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'sparsespec.testing' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
