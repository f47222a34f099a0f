"""Times what the host takes for a step: an engine on a model so small that its device has next to nothing to do.

It is an upper bound: on a CPU the small model's own forward is in it, and on a GPU, if a step's many small kernels take
longer than the host, their time is what is seen.
"""

from __future__ import annotations

import statistics
import time

import torch

from sparsespec.core.params import SamplingParams
from sparsespec.engine.engine import Engine
from sparsespec.engine.profile.sample import Plan, Sample
from sparsespec.models.tiny import tiny

PRESET = "sparsespec"
WARM_UP, STEPS = 30, 40
CONTEXT = 512


def host_sample(dtype: torch.dtype, device: torch.device, backend: str, plan: Plan) -> Sample:
    """Return the median time of a step of the preset `sparsespec`, all rows decoding."""
    # the smallest heads that every backend takes
    model = tiny(n_layers=1, hidden=64, head_dim=16, max_model_len=CONTEXT, dtype=dtype).to(dtype, device)
    engine = Engine.compose(model, PRESET, attention=backend, max_num_seqs=plan.host_rows, max_model_len=CONTEXT)
    took: list[float] = []
    try:
        for row in range(plan.host_rows):
            engine.add(list(range(8)), SamplingParams(max_tokens=CONTEXT - 8, ignore_eos=True, seed=row))
        for _ in range(WARM_UP + STEPS):
            start = time.perf_counter()
            engine.step()
            took.append(time.perf_counter() - start)
    finally:
        engine.close()
    return Sample("host", f"step of {plan.host_rows} rows", (plan.host_rows,), statistics.median(took[WARM_UP:]))
