"""Engines around an engine: the check that nothing parted from dense, and the trace of every step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from sparsespec.core.errors import EngineClosed, NotLossless
from sparsespec.core.spec import PRESETS
from sparsespec.engine.engine import Engine
from sparsespec.engine.wrappers import CheckLossless, RecordTrace
from sparsespec.kernels.verify_inputs.api import per_logit_row
from sparsespec.sampling.shared_noise import SharedNoise
from tests.engine.decoders import Letters
from tests.engine.running import (
    SPARSE,
    assert_dense,
    compose,
    greedy,
    prompt_of,
    run,
    sampled,
    small,
    until,
)
from tests.quick import quick_last


class Liar(SharedNoise):
    """Accepts every candidate."""

    def verify(self, logits: Any, rows: Any, q: Any) -> Any:
        at = per_logit_row(rows, len(logits), impl="reference")
        tokens = torch.where(at.judges, at.candidate, self.sample(logits, at, self.key(at)))
        return super().verify(torch.nn.functional.one_hot(tokens, logits.shape[1]) * 1e9, rows, q)


def _constant(word: str) -> NoReturn:
    raise AssertionError(f"{word} is not JSON")


@pytest.mark.parametrize("name", quick_last(list(PRESETS)))
def test_every_preset_passes_the_check(name: str) -> None:
    checked = CheckLossless(compose(small(name)), compose())
    prompts = 3
    for shift in range(prompts):
        checked.add(prompt_of(34, shift), [greedy(8), sampled(8), sampled(6, n=2)][shift])
    done = run(checked)
    assert checked.n_checked == len(done) == prompts + 1
    if name != "dense":
        assert sum(c.metrics.num_rejected_tokens for c in done.values()) > 0


@pytest.mark.parametrize("loop", quick_last(("sync", "resident")))
def test_a_verifier_that_lies_is_caught_and_the_place_is_named(loop: str) -> None:
    engine = compose(loop=loop, verifier=Liar(), **SPARSE)
    checked = CheckLossless(engine, compose())
    checked.add(prompt_of(34), greedy(16))
    with pytest.raises(NotLossless, match=r"request 0, sample 0, parts from dense decoding at output token \d+: ") as e:
        run(checked)
    assert "instead of" in str(e.value)
    assert checked.n_checked == 0


def test_a_lie_shows_without_the_check_only_if_somebody_looks() -> None:
    engine = compose(verifier=Liar(), **SPARSE)
    engine.add(prompt_of(34), greedy(16))
    (done,) = run(engine).values()
    assert done.metrics.num_rejected_tokens == 0
    with pytest.raises(AssertionError):
        assert_dense(done, greedy(16))


def test_an_output_that_stops_too_early_parts_where_it_ends() -> None:
    class Short(Engine):
        def step(self) -> Any:
            result = super().step()
            events = tuple(
                e._replace(completion=e.completion and replace(e.completion, token_ids=e.completion.token_ids[:3]))
                for e in result.events
            )
            return replace(result, events=events)

    engine = compose()
    engine.__class__ = Short
    checked = CheckLossless(engine, compose())
    checked.add(prompt_of(), greedy(6))
    with pytest.raises(NotLossless, match=r"at output token 3: the end instead of \[\d+"):
        run(checked)


def test_equal_tokens_with_another_text_are_caught() -> None:
    class Mute(Letters):
        def push(self, token: int) -> str:
            return ""

    checked = CheckLossless(compose(decoder=Letters), compose(decoder=Mute))
    checked.add(prompt_of(), greedy(6))
    with pytest.raises(NotLossless, match=r"request 0, sample 0, has dense decoding's tokens and another text, '\S+'"):
        run(checked)


def test_the_dense_engine_takes_over_seed_stops_and_text() -> None:
    checked = CheckLossless(compose(decoder=Letters, seed=3, **SPARSE), compose(decoder=Letters, seed=4))
    checked.add(prompt_of(20), sampled(10))
    (whole,) = run(checked).values()
    checked.add(prompt_of(20), sampled(10, seed=whole.seed, stop=whole.text[4:6]))
    (cut,) = run(checked).values()
    assert cut.finish_reason == "stop"
    assert checked.n_checked == 2
    checked.reset()
    assert checked.n_checked == 0
    checked.add(prompt_of(20), sampled(10))
    assert run(checked)[0, 0].token_ids == whole.token_ids


def test_what_was_aborted_or_broke_is_not_checked() -> None:
    checked = CheckLossless(compose(**SPARSE), compose())
    request = checked.add(prompt_of(20), sampled(10))
    for _ in range(4):
        checked.step()
    checked.abort(request)
    assert run(checked)[request, 0].finish_reason == "abort"
    assert checked.n_checked == 0


@pytest.mark.parametrize("loop", quick_last(("sync", "delayed")))
def test_a_trace_has_one_line_of_strict_json_per_step(tmp_path: Path, loop: str) -> None:
    path = tmp_path / "trace.jsonl"
    traced = RecordTrace(compose(loop=loop, num_gpu_blocks=14, **SPARSE), path)
    for shift in range(3):
        traced.add(prompt_of(16, shift), sampled(8, logprobs=1))
    steps = list[Any]()
    done = run(traced, steps.append)
    traced.close()
    lines = [json.loads(line, parse_constant=_constant) for line in path.read_text("utf-8").splitlines()]
    assert lines == json.loads(json.dumps(traced.steps))
    assert [line["step"] for line in lines] == list(range(len(steps)))
    for line, step in zip(lines, steps, strict=True):
        assert [(r["seat"], r["phase"], r["n_query"], r["k"]) for r in line["placed"]] == [
            (r.seat, r.phase.name, r.n_query, r.k) for r in step.info.placed.rows
        ]
        assert line["free_pages"] == step.info.free_pages
        assert line["preempted"] == list(step.info.placed.preempted)
    collected = [token for line in lines for r in line["collected"] if r["phase"] == "VERIFY" for token in r["tokens"]]
    assert sorted(collected) == sorted(token for c in done.values() for token in c.token_ids)
    assert any(line["preempted"] for line in lines)


def test_a_trace_without_a_file_stays_in_memory_and_reset_clears_it() -> None:
    traced = RecordTrace(compose())
    traced.add(prompt_of(), greedy(3))
    run(traced)
    assert len(traced.steps) == 4
    traced.reset()
    assert traced.steps == []
    traced.add(prompt_of(), greedy(3))
    run(traced)
    assert [step["step"] for step in traced.steps] == [0, 1, 2, 3]


def test_a_trace_is_appended_to_what_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    for _ in range(2):
        traced = RecordTrace(compose(), path)
        traced.add(prompt_of(), greedy(2))
        run(traced)
        traced.close()
        traced.close()
    assert len(path.read_text("utf-8").splitlines()) == 6


@pytest.mark.parametrize("order", ["check outside", "trace outside"])
def test_wrappers_compose_in_any_order(order: str) -> None:
    inner = compose(loop="resident", **SPARSE)
    if order == "check outside":
        trace = RecordTrace(inner)
        check = outer = CheckLossless(trace, compose())
    else:
        check = CheckLossless(inner, compose())
        trace = outer = RecordTrace(check)
    request = outer.add(prompt_of(30), sampled(8))
    assert outer.has_work
    done = run(outer)
    assert_dense(done[request, 0], sampled(8))
    assert check.n_checked == 1
    assert len(trace.steps) == inner._step
    outer.reset()
    assert (check.n_checked, trace.steps) == (0, [])
    outer.close()
    with pytest.raises(EngineClosed):
        outer.step()


def test_a_wrapped_engine_is_aborted_through_its_wrapper() -> None:
    traced = RecordTrace(compose(**SPARSE))
    first, second = (traced.add(prompt_of(20, shift), sampled(9)) for shift in range(2))
    until(traced, lambda result: result.info.step >= 3)  # type: ignore[arg-type]
    traced.abort(first)
    done = run(traced)
    assert done[first, 0].finish_reason == "abort"
    assert_dense(done[second, 0], sampled(9))
