"""Two thousand requests over a third of the memory they want: all end as they would have, and nothing is left over.

Lengths are drawn like the outputs of the paper on AIME (13,185 tokens, deviation 7,626), divided by 2,000.
"""

from __future__ import annotations

import gc
import random
import resource
from collections import Counter

import pytest

from sparsespec.core.params import SamplingParams
from sparsespec.engine.engine import Engine
from sparsespec.engine.outputs import Completion
from sparsespec.models.tiny import tiny
from tests.engine.running import assert_empty

N, BATCH, PAGE, CONTEXT = 2000, 32, 2, 64
SAMPLE = 500
"""Requests that are decoded again with ample memory."""
MODEL = tiny(n_layers=1, max_model_len=CONTEXT)
Asked = tuple[tuple[int, ...], SamplingParams]


def _requests() -> list[Asked]:
    dice = random.Random(20)
    asked: list[Asked] = []
    for i in range(N):
        prompt = tuple(dice.randrange(60) for _ in range(dice.randint(1, 8)))
        length = min(max(2, round(dice.gauss(6.6, 3.8))), CONTEXT - len(prompt))
        asked.append((prompt, SamplingParams(temperature=0.8, max_tokens=length, ignore_eos=True, seed=i)))
    return asked


def _peak(asked: list[Asked]) -> int:
    """Return the pages that a full batch holds when all of it has said everything, on average."""
    pages = [-(-(len(prompt) + params.max_tokens - 1) // PAGE) for prompt, params in asked]
    return BATCH * sum(pages) // N


def _memory() -> tuple[int, int]:
    """Return the objects that are alive, and the most kilobytes that the process ever had."""
    gc.collect()
    return len(gc.get_objects()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.slow
def test_two_thousand_requests_over_a_third_of_the_memory_they_want() -> None:
    asked = _requests()
    n_pages = 1 + max(_peak(asked) // 3, -(-CONTEXT // PAGE))
    parts = {"selector": "pillar(budget=0.1,min_budget=4)", "length": "fixed(draft=3)", "max_num_seqs": BATCH}
    tiers = "host(size=0.25,low=0.0,high=0.05,chunk=16)"
    engine = Engine.compose(MODEL, "sparsespec", **parts, tiers=tiers, num_gpu_blocks=n_pages, block_size=PAGE)
    tokens: dict[int, tuple[int, ...]] = {}
    counts, marks = Counter[str](), dict[int, tuple[int, int]]()
    left = list(enumerate(asked))
    while left or engine.has_work:
        # as many wait as run, so that the queue itself does not shrink what is alive
        while left and len(engine._queue.waiting) < BATCH:
            number, (prompt, params) = left.pop(0)
            assert engine.add(prompt, params) == number
        result = engine.step()
        counts["spilled"] += result.info.n_spilled
        counts["restored"] += result.info.n_restored
        for event in result.events:
            if event.completion is not None:
                _take(event.completion, tokens, counts)
        for share in (1, 2):
            if len(tokens) >= share * N // 3 and share not in marks:
                marks[share] = _memory()
    assert_empty(engine)
    assert len(tokens) == N
    assert min(counts[what] for what in ("spilled", "restored", "recomputed")) > 50, counts
    # what was said is kept here, and nothing else may grow with it: less than one object in two requests
    (objects_before, most_before), (objects_after, most_after) = marks[1], marks[2]
    assert objects_after - objects_before < N // 6, (marks, counts)
    assert most_after - most_before < 32 * 1024, (marks, counts)
    _compare(asked, tokens)


def _take(done: Completion, tokens: dict[int, tuple[int, ...]], counts: Counter[str]) -> None:
    assert done.finish_reason == "length", done
    tokens[done.request_id] = done.token_ids
    counts["recomputed"] += done.metrics.num_recomputed_tokens
    counts["preempted"] += done.metrics.num_preemptions


def _compare(asked: list[Asked], tokens: dict[int, tuple[int, ...]]) -> None:
    """Decode every fourth request again, plainly and with ample memory, and compare."""
    dense = Engine.compose(MODEL, "dense", max_num_seqs=64, block_size=16)
    numbers = range(0, N, N // SAMPLE)
    for number in numbers:
        dense.add(*asked[number])
    compared = 0
    while dense.has_work:
        for event in dense.step().events:
            if event.completion is not None:
                assert event.completion.token_ids == tokens[numbers[event.request_id]]
                compared += 1
    assert compared == SAMPLE
