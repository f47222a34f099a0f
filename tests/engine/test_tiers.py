"""Memory under pressure: wherever KV goes, the tokens are those of ample memory, and the numbers are right."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsespec.core.errors import BadRequest
from sparsespec.core.plan import Phase
from sparsespec.engine.outputs import StepResult
from tests.engine.pressure import HOST, PAIR, PARAMS, TIERS, TIGHT, ask, tight
from tests.engine.running import (
    EVERY,
    SPARSE,
    assert_dense,
    assert_empty,
    compose,
    finish,
    prompt_of,
    run,
    until,
)
from tests.quick import quick_last


@pytest.mark.parametrize("loop", EVERY)
@pytest.mark.parametrize("tiers", TIERS)
def test_tokens_are_those_of_ample_memory(tiers: str, loop: str) -> None:
    ended = list[dict[Any, Any]]()
    seen = Counter[str]()
    for n_pages in (TIGHT, 200):
        engine = tight(tiers, loop, num_gpu_blocks=n_pages, max_num_seqs=4)
        ask(engine)
        engine.add(prompt_of(13, 9), PAIR)

        def count(result: StepResult) -> None:
            seen["spilled"] += result.info.n_spilled
            seen["restored"] += result.info.n_restored
            seen["preempted"] += len(result.info.placed.preempted)

        done = run(engine, count)
        for (request, _), completion in done.items():
            assert_dense(completion, PAIR if request == 4 else PARAMS)
        assert_empty(engine)
        ended.append({key: completion.token_ids for key, completion in done.items()})
        if n_pages == TIGHT:
            expected = {"gpu": (False, True), "reserve": (False, False), HOST: (True, False)}.get(tiers, (True, True))
            assert (seen["spilled"] > 0, seen["preempted"] > 0) == expected
            assert seen["spilled"] >= seen["restored"] >= (seen["spilled"] > 0 and tiers == HOST)
            before = seen.copy()
    assert ended[0] == ended[1]
    assert seen == before, "with ample memory nobody gives way"


@pytest.mark.parametrize("loop", EVERY)
def test_pages_come_back_as_they_left(loop: str) -> None:
    engine = tight(loop=loop)
    ask(engine)
    engine.add(prompt_of(20, 7), PAIR)
    kept: dict[int, tuple[Tensor, ...]] = {}
    compared = 0

    def contents(page: int) -> tuple[Tensor, ...]:
        return tuple(pool[:, page].view(torch.int64).clone() for pool in (engine._pool.k, engine._pool.v))

    def look(result: StepResult) -> None:
        nonlocal compared
        # a test may look at device state once everything launched has run, and only then
        for stream in ("main", "side"):
            engine._device.wait(engine._device.launch(lambda: None, stream))
        for move in result.info.moves:
            if move.out:
                kept[move.host_page] = contents(move.page)
            else:
                compared += 1
                assert all(map(torch.equal, contents(move.page), kept[move.host_page]))

    run(engine, look)
    assert compared > 5
    assert_empty(engine)


@pytest.mark.parametrize("tiers", TIERS)
def test_a_request_larger_than_the_pool_is_refused_with_the_numbers(tiers: str) -> None:
    engine = tight(tiers, num_gpu_blocks=9)
    with pytest.raises(BadRequest, match="need 9 KV pages and the pool has 8; lower max_tokens to at most 13"):
        engine.add(prompt_of(20), PARAMS)
    engine.add(prompt_of(17), PARAMS)
    finish(engine, PARAMS)


def _filled(result: StepResult) -> list[tuple[int, int]]:
    rows = result.info.placed.rows
    return [(row.seat, row.n_query) for row in rows if row.phase is Phase.PREFILL]


@pytest.mark.parametrize("loop", EVERY)
@pytest.mark.parametrize("tiers", TIERS)
@pytest.mark.parametrize("chunk", quick_last([512, 4]))
def test_recomputed_tokens_are_those_filled_more_than_once(chunk: int, tiers: str, loop: str) -> None:
    # in small chunks some lose their pages before the prompt is filled for the first time
    engine = tight(tiers, loop, scheduler=f"staggered(chunk={chunk})", num_gpu_blocks=18)
    ask(engine)
    filled, again = Counter[int](), Counter[int]()
    sitting: dict[int, int] = {}

    def look(result: StepResult) -> None:
        sitting.update({seat: request.group for seat, request in engine._table.requests.items()})
        for seat, n in _filled(result):
            filled[sitting[seat]] += n

    done = run(engine, look)
    for (request, _), completion in done.items():
        again[request] = completion.metrics.num_recomputed_tokens
    assert {request: filled[request] - 19 for request in range(4)} == again
    preempted = {request for (request, _), c in done.items() if c.metrics.num_preemptions}
    assert {request for request in again if again[request]} <= preempted
    assert bool(preempted) == (tiers == "gpu" or "size" in tiers)


def test_the_ledger_counts_what_copies_take() -> None:
    engine = tight()
    held = dict(engine.ledger.entries)
    assert (held["pinned host"], held["copies"]) == (0, 0)
    ask(engine)
    run(engine)
    ledger = engine.ledger
    held = dict(ledger.entries)
    assert held["pinned host"] == sum(piece.nbytes for piece in engine._executor._mover._host.pieces.values()) > 0
    assert held["copies"] == sum(x.nbytes for x in engine._executor._mover._staged or ()) > 0
    assert ledger.total == sum(held.values())
    assert held["KV"] == engine._pool.n_bytes


@pytest.mark.parametrize("loop", EVERY)
def test_every_step_tells_where_pages_are(loop: str) -> None:
    engine = tight(loop=loop)
    ask(engine)
    on_host = 0
    peak = Counter[str]()

    def look(result: StepResult) -> None:
        nonlocal on_host
        info, part = result.info, engine._parts.tiers
        assert (info.free_pages, info.host_pages, info.moving_pages) == (
            part.free_pages(),
            part.host_pages(),
            part.moving_pages(),
        )
        assert info.n_spilled + info.n_restored == len(info.moves)
        peak.update({"host": info.host_pages, "moving": info.moving_pages, "spilled": info.n_spilled})
        assert info.host_pages <= on_host + info.n_spilled - info.n_restored
        on_host = info.host_pages

    run(engine, look)
    assert min(peak[name] for name in ("host", "moving", "spilled")) > 0
    assert on_host == 0


def test_queueing_is_counted_until_a_seat_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    for module in ("request_queue", "output_processor"):
        monkeypatch.setattr(f"sparsespec.engine.{module}.perf_counter", lambda: now)
    engine = compose(max_num_seqs=1, **SPARSE)
    ask(engine, 3)
    for request in engine._queue.waiting:
        request.added_at = 100.0

    def seated(_: StepResult) -> bool:
        nonlocal now
        now += len(engine._queue.waiting) > 1
        return len(engine._queue.waiting) == 1

    done = until(engine, seated)
    at = now
    now += 7.0
    engine.abort(2)
    done |= run(engine)
    assert at > 105.0
    assert [done[i, 0].queue_seconds for i in range(3)] == [0.0, at - 100.0, at - 93.0]
