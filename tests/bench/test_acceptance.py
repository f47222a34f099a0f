"""`python -m bench.policies.acceptance` on a CPU: rounds are the engine's, texts stay apart, means are means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.policies import acceptance
from bench.policies.acceptance import TUNING, Bench, accepted, continued, estimate, selector_of, texts
from bench.policies.recalled_prompts import CHUNK, Prompts
from bench.policies.scripted_rounds import Script, decode, drafted, sizes
from sparsespec.core.errors import BadOption, UnknownName
from sparsespec.core.plan import Phase
from sparsespec.core.result import RowResult
from sparsespec.engine.engine import Engine
from sparsespec.models.tiny import tiny
from sparsespec.models.tokenizer import Tokenizer
from sparsespec.models.transformer import Transformer
from tests.folders import tiny_folder

CONTEXT, ROUNDS, DRAFT = 70, 3, 4
SELECTORS = (
    "pillar(min_budget=8)",
    "pillar(min_budget=8,groups=heads,recent=0.0,scored=[0,16],smooth=0.5)",
    "quest(min_budget=24)",
    "snapkv(min_keep=8)",
    "oracle(min_budget=8)",
)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="module")
def bench() -> Bench:
    arguments = acceptance._parser().parse_args(["tiny", "--draft", str(DRAFT), "--rounds", str(ROUNDS)])
    model = tiny(dtype="float64")
    generator = torch.Generator().manual_seed(1)
    return Bench(arguments, model, torch.randint(model.config.vocab, (2, CONTEXT), generator=generator).tolist())


@pytest.fixture(scope="module")
def tokens(bench: Bench) -> Tensor:
    return bench.texts(CONTEXT)


@pytest.fixture(scope="module")
def truth(bench: Bench, tokens: Tensor) -> tuple[Tensor, list[float]]:
    return all_rounds(bench, "full", tokens)


def all_rounds(bench: Bench, selector: str, tokens: Tensor) -> tuple[Tensor, list[float]]:
    return drafted(bench.model, selector, Script.of(tokens, CONTEXT, DRAFT), bench.params)


@pytest.mark.slow
@pytest.mark.parametrize("selector", SELECTORS)
def test_a_round_accepts_what_the_engine_accepts_there(bench: Bench, tokens: Tensor, truth: Any, selector: str) -> None:
    drafts, shares = all_rounds(bench, selector, tokens)
    collected = dict[int, int]()

    def collect(row: RowResult) -> None:
        if row.phase is Phase.VERIFY:
            collected.setdefault(row.seat, row.n_accepted)

    # where a prompt is cut into chunks decides which of its queries are scored
    parts = {"selector": selector, "length": f"fixed(draft={DRAFT})", "scheduler": f"lockstep(chunk={CHUNK})"}
    engine = Engine.compose(bench.model, "dense", eos_ids=(), **parts, **sizes(4, tokens.shape[1]))
    decode(engine, tokens[:, :CONTEXT].tolist(), bench.params, collect)
    # later rounds begin elsewhere in an engine that is not told where to go
    assert accepted(drafts, truth[0])[:, 0].tolist() == [collected[seat] for seat in range(4)]
    assert all(0 < share < 0.7 for share in shares)


def test_rounds_move_on_whatever_is_accepted(bench: Bench, tokens: Tensor, truth: Any) -> None:
    full, shares = truth
    poor, _ = all_rounds(bench, "random(min_budget=1,budget=0.01)", tokens)
    assert full.shape == poor.shape == (4, ROUNDS + 1, DRAFT)
    assert shares == [1.0] * 4
    assert accepted(poor, full).mean() < DRAFT / 2
    # sampled drafts of the full model are the text, at all its rounds
    text = tokens[2:, CONTEXT:].view(2, ROUNDS + 1, DRAFT + 1)[..., :DRAFT]
    assert torch.equal(full[2:], text)
    # greedy ones begin with what the model thinks likeliest there
    assert not torch.equal(full[:2], text)


def test_what_is_learnt_on_one_round_serves_the_next(bench: Bench, tokens: Tensor, truth: Any) -> None:
    """A selector without a warm start reads everything in its first round, so all of it is accepted, and less later."""
    cold = "pillar(min_budget=4,budget=0.01,warm_start=false)"
    drafts, shares = all_rounds(bench, cold, tokens)
    counts = accepted(drafts, truth[0])
    assert (counts[:, 0] == DRAFT).all()
    assert counts[:, 1:].mean() < DRAFT
    assert max(shares) < 0.2, "the first round is not in the share"


@pytest.mark.parametrize("selector", ["full", *SELECTORS])
def test_prompts_that_are_recalled_are_as_good_as_read(bench: Bench, tokens: Tensor, selector: str) -> None:
    tail = 40
    known, read = (Prompts(bench.model, 2, CONTEXT, tail) for _ in range(2))
    script = Script.of(tokens, CONTEXT, DRAFT)
    again = continued(bench.model, tokens[:2, :CONTEXT].tolist(), bench.params[2:], known)
    assert known.complete
    assert torch.equal(again, tokens[:2]), "reading in other chunks changes no token in float64"
    with mock.patch.object(Transformer, "forward", autospec=True, side_effect=Transformer.forward) as forward:
        drafts, shares = drafted(bench.model, selector, script, bench.params, known)
    read_at_once = [len(call.args[1]) for call in forward.call_args_list]
    assert max(read_at_once) == 4 * tail, "only tails were read"
    other = Script.of(tokens, CONTEXT, DRAFT)
    want, want_shares = drafted(bench.model, selector, other, bench.params, read)
    assert not read.complete, "nothing was recalled"
    assert torch.equal(drafts, want)
    assert shares == want_shares


def test_a_shorter_prompt_is_the_beginning_of_a_longer_one(bench: Bench) -> None:
    known, params = Prompts(bench.model, 2, CONTEXT, 10), bench.params[2:]
    continued(bench.model, [prompt[:CONTEXT] for prompt in bench.prompts], params, known)
    known.begin(30)
    prompts = [prompt[:30] for prompt in bench.prompts]
    assert torch.equal(continued(bench.model, prompts, params, known), continued(bench.model, prompts, params))
    with pytest.raises(AssertionError, match="come first"):
        known.begin(CONTEXT + 1)


def test_accepted_is_the_equal_beginning() -> None:
    truth = torch.tensor([[[1, 2, 3], [4, 5, 6]]])
    drafts = torch.tensor([[[1, 0, 3], [4, 5, 6]]])
    assert accepted(drafts, truth).tolist() == [[1, 3]]


def test_an_estimate_is_a_mean_and_what_other_texts_might_have_made_of_it() -> None:
    same = estimate(np.array([2.5] * 6))
    assert same == (2.5, 2.5, 2.5)
    values = np.random.default_rng(1).normal(3.0, 1.0, 25)
    one = estimate(values)
    assert one == estimate(values)
    assert one.mean == pytest.approx(values.mean())
    # near the normal approximation: 1.96 standard errors to each side
    assert one.high - one.low == pytest.approx(2 * 1.96 * values.std() / 5, rel=0.1)
    assert one.low < one.mean < one.high


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(tiny_folder(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.mark.slow
def test_no_piece_is_in_two_texts_and_none_is_both_tuned_and_judged_on(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.policies.acceptance.LONGEST", 50)
    path = tmp_path / "problems.jsonl"
    rows = [{"problem": f"Find {i} and its neighbours.", "solution": "the fox " * (i % 7)} for i in range(90)]
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    tuning, judged = texts(tokenizer, path, "tuning", TUNING), texts(tokenizer, path, "evaluation", 3)
    assert [text.number for text in (*tuning, *judged)] == list(range(TUNING + 3))
    pieces = [piece for text in (*tuning, *judged) for piece in text.pieces]
    assert len(pieces) == len(set(pieces))
    assert all(len(text.tokens) == 50 for text in (*tuning, *judged))
    # more texts change nothing about the first ones
    assert texts(tokenizer, path, "evaluation", 2) == judged[:2]
    with pytest.raises(BadOption, match=r"enough for 4 texts for tuning and \d+ for evaluation"):
        texts(tokenizer, path, "evaluation", 500)


def test_a_selector_gets_the_budget_unless_it_says_its_own() -> None:
    assert selector_of("window", 0.1) == "window(budget=0.1)"
    assert selector_of("window(budget=0.2)", 0.1) == "window(budget=0.2)"
    assert selector_of("snapkv", 0.1) == "snapkv(keep=0.1)"
    assert selector_of("full", 0.1) == "full"
    with pytest.raises(BadOption, match="drafts nothing"):
        selector_of("none", 0.1)
    with pytest.raises(UnknownName, match="did you mean 'quest'"):
        selector_of("qest", 0.1)


def test_it_reports_each_selector_greedy_and_sampled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.jsonl"
    sizes = ["--context", "60", "--texts", "2", "--rounds", "2", "--draft", "3"]
    assert acceptance.main(["tiny", *sizes, "--selector", "window(min_budget=8)", "full", "--out", str(out)]) == 0
    header, origin, control, *rows = (json.loads(line) for line in out.read_text("utf-8").splitlines())
    assert (header["bench"], header["draft"], header["split"]) == ("acceptance", 3, "evaluation")
    assert (origin["pieces"], control["whole"]) == (None, 1.0)
    found: dict[Any, Any] = {(row["sampling"], row["selector"].partition("(")[0]): row for row in rows}
    assert found.keys() == {(half, name) for half in ("greedy", "T=0.65") for name in ("window", "full")}
    for row in rows:
        assert np.array(row["accepted"]).shape == (2, 2)
        assert np.mean(row["per_text"]) == pytest.approx(row["mean_acceptance_length"]["mean"])
        assert 1 + np.mean(row["accepted"]) == pytest.approx(row["mean_acceptance_length"]["mean"])
    for half in ("greedy", "T=0.65"):
        assert found[half, "full"]["mean_acceptance_length"] == {"mean": 4.0, "low": 4.0, "high": 4.0}
        ahead = 4.0 - found[half, "window"]["mean_acceptance_length"]["mean"]
        assert found[half, "full"]["ahead_of_first"]["mean"] == pytest.approx(ahead)
    assert (
        "60 tokens of context, greedy: mean acceptance length, 2 texts × 2 rounds of 3 drafts"
        in capsys.readouterr().out
    )


def test_texts_longer_than_the_model_are_refused() -> None:
    with pytest.raises(BadOption, match="exceed the model's 4096 tokens"):
        acceptance.main(["tiny", "--context", "4090", "--texts", "1", "--selector", "full"])
