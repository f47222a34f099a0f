"""Rounds that are recorded once per shape: steps are padded to few shapes, and say what they say without padding."""

from __future__ import annotations

from functools import cache

import pytest

from sparsespec.core.loops import LOOPS as NUMBERS
from sparsespec.core.plan import Phase, Placed, Row, Rows
from sparsespec.core.spec import PRESETS
from sparsespec.engine.engine import Engine
from sparsespec.engine.graph_runner import GraphRunner
from sparsespec.engine.graph_shapes import SHORT, StepShape, decoding_shapes, padded
from sparsespec.engine.pack import PackedStep, pack
from sparsespec.engine.request_table import RequestTable
from sparsespec.testing.cases import model_of
from sparsespec.testing.checks.stage import small_geometry
from tests.engine.running import KEY, LOOPS, SPARSE, compose, greedy, prompt_of, run, sampled, small


def outputs(engine: Engine) -> dict[tuple[int, int], tuple[int, ...]]:
    for j, params in enumerate((greedy(24), sampled(24, seed=3, logprobs=1), greedy(9), sampled(30, seed=4, n=2))):
        engine.add(prompt_of(20 + 7 * j, j), params)
    done = run(engine)
    assert not any(each.error for each in done.values())
    return {key: each.token_ids for key, each in done.items()}


@cache
def plain() -> dict[tuple[int, int], tuple[int, ...]]:
    """Return what unpadded steps of dense say, and so of every preset in every loop."""
    return outputs(compose(small("dense"), graphs=False))


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", PRESETS)
def test_padded_steps_say_the_same(name: str, loop: str) -> None:
    spec = small(name).replace(loop=loop)
    padding = Engine.compose(model_of(KEY), spec.replace(engine={**spec.engine, "graphs": True}))
    assert outputs(padding) == plain()


def test_a_shape_is_recorded_once_and_then_replayed() -> None:
    engine = compose(graphs=True, **SPARSE)
    runner: GraphRunner = engine._executor._runner
    fresh, seen = 0, list[StepShape]()
    honest = runner._replay

    def replay(shape: StepShape) -> None:
        nonlocal fresh
        fresh += shape not in runner._recorded
        seen.append(shape)
        honest(shape)

    runner._replay = replay  # type: ignore[method-assign]
    engine.add(prompt_of(30), greedy(20))
    run(engine)
    assert fresh == len(set(seen)) < len(seen)
    assert {shape.n_rows for shape in seen} == {3}


def test_warming_up_records_every_step_without_prefill() -> None:
    engine = compose(graphs=True, **SPARSE)
    collected = list[tuple[int, int]]()
    engine.warm_up(lambda done, total: collected.append((done, total)))
    known = set(engine._executor._runner._recorded)
    assert collected == [(j, len(known)) for j in range(len(known) + 1)]
    for j in range(5):
        engine.add(prompt_of(9 + 5 * j, j), sampled(20, seed=j))
    done = run(engine)
    assert not any(each.error for each in done.values())
    later = set(engine._executor._runner._recorded) - known
    assert all(shape.n_tokens > shape.n_logits for shape in later)


@pytest.mark.parametrize(("tiers", "directions"), [("host", 2), ("gpu", 0)])
def test_warming_up_records_copies_where_there_will_be_any(tiers: str, directions: int) -> None:
    engine = compose(graphs=True, tiers=tiers)
    engine.warm_up()
    assert len(engine._executor._mover._gathers) == directions


@pytest.mark.slow
def test_warming_up_changes_nothing() -> None:
    engine = compose(graphs=True, **SPARSE)
    engine.warm_up()
    assert outputs(engine) == plain()
    unrecorded = compose(**SPARSE)
    unrecorded.warm_up()
    assert not unrecorded._executor._runner._recorded


@pytest.mark.parametrize("n", [0, 1, 5, 16, 17, 121, 129, 300, 513, 2000])
@pytest.mark.parametrize("filling", [0, 1, SHORT, SHORT + 1, 200])
def test_a_shape_holds_its_step_and_is_its_own(n: int, filling: int) -> None:
    shape = padded(StepShape(2, n + filling, n), 7)
    assert shape.n_rows == 7
    assert n <= shape.n_logits
    assert n + filling <= shape.n_tokens
    assert padded(shape, 7) == shape
    if n and filling <= SHORT:
        assert shape == padded(StepShape(2, n + filling, n + filling), 7)
    else:
        assert shape.n_logits <= 1.25 * n + 63
        assert filling <= shape.n_tokens - shape.n_logits <= max(64, 2 * filling)
        assert (shape.n_tokens > shape.n_logits) == bool(filling)


def test_decoding_shapes_are_those_that_steps_are_padded_to() -> None:
    shapes = list(decoding_shapes(6, 9))
    met = {padded(StepShape(6, n, n), 6) for n in range(1, 55 + SHORT)}
    assert set(shapes) == met
    assert met == {padded(StepShape(6, n + m, n), 6) for n in range(1, 55) for m in range(SHORT + 1)}
    assert shapes == sorted(shapes, reverse=True)
    plain = list(decoding_shapes(6, 2, plain=True))
    assert set(plain) == {padded(StepShape(6, n, n, True), 6) for n in range(1, 13)}
    assert plain == sorted(plain, reverse=True)


def packed(*rows: Row, drafts: bool = True) -> PackedStep:
    geometry = small_geometry(n_seats=3, max_draft=3 if drafts else 0)
    return pack(Placed(Rows(rows)), RequestTable(geometry, NUMBERS["sync"]), 0, geometry)


def test_a_packed_step_has_decoding_rows_first_and_counts_what_samples() -> None:
    rows = (Row(0, Phase.VERIFY, 4, 3), Row(1, Phase.PREFILL, 50, 0), Row(2, Phase.DRAFT, 1, 3))
    step = packed(*rows)
    assert step.rows == (rows[0], rows[2], rows[1])
    assert step.decoding == (rows[0], rows[2])
    assert step.shape == StepShape(3, 55, 5)


def test_a_step_is_plain_where_no_row_drafts_is_judged_or_is_filled() -> None:
    plain = Row(0, Phase.VERIFY, 1, 0)
    others = (Row(1, Phase.VERIFY, 1, 3), Row(1, Phase.DRAFT, 1, 3), Row(1, Phase.PREFILL, 5, 0))
    assert packed(plain).shape.plain
    assert not packed(plain, drafts=False).shape.plain, "an engine that never drafts has steps of one kind"
    for other in others:
        assert not packed(plain, other).shape.plain


def test_a_cpu_records_nothing_unless_asked_to() -> None:
    assert compose().spec.engine["graphs"] is False
    assert compose(graphs=True).spec.engine["graphs"] is True
