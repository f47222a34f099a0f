"""`sparsespec.compare`: rows beside dense decoding, what an equality proves, and what a failure costs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparsespec import PRESETS, EngineSpec, SparseSpecError, compare
from sparsespec.comparison.row import ComparisonRow
from sparsespec.core import registry
from sparsespec.core.errors import BadOption, BadRequest, UnknownName
from sparsespec.core.plan import StepPlan
from sparsespec.core.view import View
from sparsespec.llm import LLM
from sparsespec.models.tiny import tiny
from sparsespec.sched.lockstep import Lockstep
from sparsespec.testing.adversaries import register_adversaries
from tests.engine.running import is_sentence

PROMPTS = [[(7 * i * i + 3 * i + shift) % 61 for i in range(70)] for shift in range(2)]
QUICK: dict[str, Any] = {"max_tokens": 8, "min_budgets": [8]}
MODEL = tiny(dtype="float32")


def quick(compositions: Any, prompts: Any = PROMPTS, **changes: Any) -> list[ComparisonRow]:
    return compare(MODEL, compositions, prompts, **{**QUICK, **changes})


@pytest.fixture(scope="module")
def presets() -> list[ComparisonRow]:
    return quick(None, temperatures=[0.0, 0.8], seeds=[1, 2])


def of(rows: Sequence[ComparisonRow], name: str) -> ComparisonRow:
    return next(row for row in rows if row.composition == name and row.setting.temperature)


def test_every_preset_has_a_row_under_every_setting(presets: list[ComparisonRow]) -> None:
    samplings = [(0.0, None), (0.8, 1), (0.8, 2)]
    assert [(row.composition, row.setting.temperature, row.setting.seed) for row in presets] == [
        (name, *sampling) for name in PRESETS for sampling in samplings
    ]
    assert {row.setting.n_prompts for row in presets} == {2}
    assert all(row.tokens == 16 and row.error is None for row in presets)


def test_identical_is_said_only_where_drafts_were_rejected(presets: list[ComparisonRow]) -> None:
    for row in presets:
        if row.composition == "dense":
            assert (row.verdict, row.drafts, row.rejected) == ("baseline", 0, 0)
        else:
            assert row.n_identical == 2
            assert row.verdict == ("identical" if row.rejected else "equal, proves nothing")
    sparse = [row for row in presets if row.draft_kv_share is not None]
    assert {row.composition for row in sparse} == PRESETS.keys() - {"dense", "ngram"}
    assert all(row.rejected and row.rejected >= 0.05 * (row.drafts or 0) for row in sparse)
    assert all(row.draft_kv_share and row.draft_kv_share < 0.5 for row in sparse)


def test_figures_are_those_of_the_counts(presets: list[ComparisonRow]) -> None:
    dense, sparse = of(presets, "dense"), of(presets, "sparsespec")
    assert (dense.forwards_per_token, dense.kv_of_dense, dense.speed_of_dense) == (1.0, 1.0, 1.0)
    assert dense.mean_acceptance_length is None and dense.draft_kv_share is None
    # float32: 2 layers, K and V of 2 heads of 8; contexts from 70 to 77
    assert dense.kv_bytes_per_token == pytest.approx(2 * 2 * 2 * 8 * 4 * 73.5)
    assert sparse.seconds and sparse.tokens and sparse.tokens_per_second == sparse.tokens / sparse.seconds
    assert sparse.speed_of_dense == pytest.approx(sparse.tokens_per_second / (dense.tokens_per_second or 0))
    assert sparse.kv_bytes_per_token == pytest.approx((sparse.kv_of_dense or 0) * dense.kv_bytes_per_token)
    first = sparse.by_position[0]
    assert first.at == 1 and first.verified >= first.accepted
    # every round that verifies drafts verifies its first one; the bonus token of each is counted too
    accepted = (sparse.drafts or 0) - (sparse.rejected or 0)
    assert sparse.mean_acceptance_length == pytest.approx(1 + accepted / first.verified)
    for curve in (sparse.by_position, sparse.by_context):
        assert sum(one.verified for one in curve) == sparse.drafts
        assert sum(one.accepted for one in curve) == (sparse.drafts or 0) - (sparse.rejected or 0)


def test_a_row_is_what_an_engine_of_its_own_says(presets: list[ComparisonRow]) -> None:
    row = of(presets, "vegas")
    assert row.spec is not None and row.spec.selector.options["min_budget"] == 8
    spec = EngineSpec.from_dict(json.loads(json.dumps(row.to_dict()))["spec"])
    assert spec == row.spec
    with LLM(MODEL, spec) as llm:
        assert llm.engine.geometry.n_seats == row.setting.max_num_seqs == 8
        assert llm.engine.geometry.max_model_len == 70 + 8


@pytest.mark.slow
def test_a_repeated_comparison_counts_the_same() -> None:
    once, again = (quick(["sparsespec"], temperatures=[0.8]) for _ in range(2))
    assert [(r.tokens, r.drafts, r.rejected, r.by_position) for r in once] == [
        (r.tokens, r.drafts, r.rejected, r.by_position) for r in again
    ]


@pytest.mark.slow
def test_budgets_are_an_axis_of_those_that_have_one() -> None:
    rows = quick(["ngram", "magicdec"], budgets=[0.1, 0.5], min_budgets=[4, 16])
    assert [(row.composition, row.budget, row.min_budget) for row in rows] == [
        ("dense", None, None),
        ("ngram", None, None),
        *[("magicdec", a, b) for a in (0.1, 0.5) for b in (4, 16)],
    ]
    shares = [row.draft_kv_share for row in rows if row.draft_kv_share]
    assert len(set(shares)) >= 3 and min(shares) < 0.3 < max(shares)


def test_an_equality_without_a_rejection_proves_nothing() -> None:
    full = quick(["sparsespec:selector=full"], min_budgets=[])[1]
    assert (full.verdict, full.n_identical, full.rejected) == ("equal, proves nothing", 2, 0)
    # plain decoding in another loop judges nothing at all
    assert quick(["dense:loop=delayed"], min_budgets=[])[1].verdict == "equal, proves nothing"


def test_a_verifier_that_keeps_the_distribution_only_is_not_compared_by_tokens() -> None:
    greedy, sampled = quick(["sparsespec:verifier=rejection"], temperatures=[0.0, 0.8])[2:]
    assert greedy.verdict == "identical"
    assert (sampled.verdict, sampled.error) == ("not compared", None)


def test_tokens_that_part_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparsespec.comparison import runner

    honest = runner._run

    def shorter(llm: LLM, *rest: Any) -> Any:
        run = honest(llm, *rest)
        return run if not llm.engine.geometry.max_draft else replace(run, tokens=tuple(t[:-1] for t in run.tokens))

    monkeypatch.setattr(runner, "_run", shorter)
    row = quick(["sparsespec"])[1]
    assert (row.verdict, row.n_identical) == ("parted", 0)
    assert "prompt 0 parts from dense decoding at output token 7: the end instead of [" in row.parted[0]
    assert "instead of" in row.parted[0] and "(lengths 7 and 8)" in row.parted[0]


class Stuck(Lockstep):
    """A scheduler that breaks down in the middle of its work."""

    def plan(self, view: View) -> StepPlan:
        if view.step > 6:
            raise RuntimeError("the plan was lost")
        return super().plan(view)


def test_one_that_fails_costs_its_own_rows_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    registry.register("scheduler", "stuck", Stuck)
    names = {
        "three lists": "sparsespec:selector=pillar(groups=3)",
        "greedy only": "sparsespec:verifier=greedy",
        "stuck": "sparsespec:scheduler=stuck",
        "well": "sparsespec",
    }
    rows = quick(names, temperatures=[0.8, 0.0])
    why = {(row.composition, row.setting.temperature): row.error for row in rows}
    assert why["three lists", 0.0] == why["three lists", 0.8]
    assert "groups must divide the 2 KV heads" in str(why["three lists", 0.0])
    assert "serves temperature 0 only" in str(why["greedy only", 0.8])
    assert why["greedy only", 0.0] is None, "what cannot sample can still be greedy"
    assert why["stuck", 0.0] == "RuntimeError: the plan was lost"
    assert [row.verdict for row in rows if row.composition == "well"] == ["identical"] * 2
    failed = [row for row in rows if row.error]
    assert {row.verdict for row in failed} == {"failed"}
    assert all(row.tokens is None and row.to_dict()["tokens_per_second"] is None for row in failed)


def test_without_dense_nothing_is_called_identical(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparsespec.comparison import runner

    honest = runner._VariantRunner._open

    def broken(self: Any) -> LLM:
        if self.variant.name == "dense":
            raise MemoryError("nowhere to put it")
        return honest(self)

    monkeypatch.setattr(runner._VariantRunner, "_open", broken)
    dense, ours = quick(["sparsespec"])
    assert (dense.verdict, dense.error) == ("failed", "MemoryError: nowhere to put it")
    assert (ours.verdict, ours.n_identical, ours.speed_of_dense, ours.kv_of_dense) == ("no baseline", None, None, None)
    assert ours.tokens == 16


def test_prompts_are_made_up_where_there_are_none() -> None:
    rows = compare("tiny", ["ngram"], n=2, max_tokens=4, max_num_seqs=[1, 2])
    assert [(r.setting.max_num_seqs, r.setting.prompts, r.setting.n_prompts) for r in rows] == [
        (n, "generated", 2) for n in (1, 1, 2, 2)
    ]
    assert all(row.setting.model == "tiny" and row.tokens == 8 for row in rows)


def test_sets_models_and_specs_may_have_names() -> None:
    spec = EngineSpec.of(selector="window(min_budget=8)", length="fixed(draft=2)")
    rows = compare([MODEL, "tiny"], {"mine": spec}, {"a": PROMPTS[:1], "b": PROMPTS}, n=1, max_tokens=6)
    assert [(row.setting.model, row.setting.prompts, row.composition) for row in rows] == [
        (model, name, composition)
        for model in (MODEL.config.name, "tiny")
        for composition in ("dense", "mine")
        for name in "ab"
    ]


def test_progress_is_told_of_rows_and_tokens() -> None:
    told: list[tuple[str, int, int]] = []
    quick(["sparsespec"], progress=lambda *said: told.append(said))
    assert told[-1] == ("rows", 2, 2)
    assert ("tokens", 16, 16) in told


def test_parts_that_change_their_mind_change_no_token() -> None:
    register_adversaries()
    row = quick(["sparsespec:scheduler=chaos(seed=3)"])[1]
    assert row.verdict == "identical"


BAD: dict[str, tuple[dict[str, Any], type[SparseSpecError], str]] = {
    "unknown preset": ({"compositions": ["sparspec"]}, UnknownName, "'sparspec'; did you mean 'sparsespec'"),
    "unknown part": ({"compositions": ["dense:selector=pilar"]}, UnknownName, "did you mean 'pillar'"),
    "unknown place": ({"compositions": ["dense:selectr=pillar"]}, UnknownName, "did you mean 'selector'"),
    "unknown change": ({"compositions": ["ngram:lop=sync"]}, UnknownName, "'lop'; did you mean 'loop'"),
    "a place of ours": ({"compositions": ["dense:max_num_seqs=3"]}, UnknownName, "unknown part or engine option"),
    "no value": ({"compositions": ["dense:loop="]}, BadOption, "name=value"),
    "twice": ({"compositions": ["dense:loop=sync,loop=sync"]}, BadOption, "loop is given twice"),
    "unreadable option": ({"compositions": ["dense:block_size=1/0"]}, BadOption, "like 'block_size=32'"),
    "parts that do not fit": ({"compositions": ["dense:length=fixed(draft=4)"]}, BadOption, "use selector='full'"),
    "a text": ({"compositions": "dense"}, BadOption, "compositions are a list"),
    "a number": ({"compositions": [3]}, BadOption, "a composition is a preset"),
    "two specs of one name": (
        {"compositions": {"dense": EngineSpec.of(loop="delayed")}}, BadOption, "two compositions are called 'dense'"
    ),
    "budgets of none": (
        {"compositions": ["ngram"], "budgets": [0.1]}, BadOption,
        "no selector of dense, ngram has a budget; leave it out, or compare a composition that drafts"
    ),
    "a budget of 0": ({"budgets": [0]}, BadOption, "in (0, 1], got 0"),
    "min_budget of 0": ({"min_budgets": [0]}, BadOption, "1 or more, got 0"),
    "n of 0": ({"n": 0}, BadRequest, "n is a number of prompts, 1 or more, got 0"),
    "more than there are": ({"n": 3}, BadRequest, "prompts has 2 of 3 prompts"),
    "no prompts": ({"prompts": []}, BadRequest, "has 0 of 1 prompts"),
    "a prompt alone": ({"prompts": "a text"}, BadRequest, "a Path to a file of JSON lines, or a list"),
    "text without tokenizer": ({"prompts": ["a text"]}, BadRequest, "came without a tokenizer"),
    "numbers as prompts": ({"prompts": [1, 2, 3]}, BadRequest, "a prompt is a list of token ids"),
    "a token that is none": ({"prompts": [[61]]}, BadRequest, "is not one of the model's 0 … 60"),
    "too long": ({"prompts": [[1] * 250]}, BadRequest, "prompt 0 has 250 tokens and the model has room for 244"),
    "no room": ({"max_tokens": 256}, BadRequest, "leaves no room for a prompt"),
    "no tokens": ({"max_tokens": 0}, BadRequest, "max_tokens must be a whole number of at least 1, got 0"),
    "no requests": ({"max_num_seqs": [0]}, BadOption, "max_num_seqs is a whole number of 1 or more, got 0"),
    "no max_num_seqs": ({"max_num_seqs": []}, BadOption, "there is no max_num_seqs"),
    "an option of vLLM": ({"compositions": ["dense:enforce_eager=True"]}, UnknownName, "is called graphs here"),
    "no seed": ({"seeds": []}, BadOption, "there are no seeds"),
    "no temperature": ({"temperatures": []}, BadOption, "there are no temperatures"),
    "a temperature below 0": ({"temperatures": [-1.0]}, BadRequest, "temperature must be"),
    "no model": ({"models": []}, BadRequest, "there is no model"),
    "unknown model": ({"models": "smollm3"}, UnknownName, "did you mean 'smollm2'"),
    "unknown dtype": ({"dtype": "float31"}, SparseSpecError, "did you mean 'float32'"),
    "exact in float64": ({"models": tiny(), "exact": True}, BadOption, "exact=True takes a model in float32"),
    "unknown device": ({"device": "tpu"}, BadOption, "device is 'cpu', 'cuda'"),
    "no such file": (
        {"prompts": Path("nothing.jsonl")}, BadRequest, "nothing.jsonl (FileNotFoundError); give a file of JSON lines"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_a_sentence_before_anything_is_decoded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changes, kind, fragment = BAD[name]
    monkeypatch.setattr(LLM, "generate", lambda *a, **k: pytest.fail("something was decoded"))
    wish: dict[str, Any] = {"models": MODEL, "compositions": None, "prompts": PROMPTS, "max_tokens": 12, **changes}
    with pytest.raises(kind) as caught:
        compare(**wish)
    assert fragment in str(caught.value)
    assert is_sentence(str(caught.value))
