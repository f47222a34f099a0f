"""`python -m bench.policies.lengths`, from its arguments to its rows, its headline and its picture, on the CPU."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.policies import lengths
from bench.policies.lengths_run import DENSE, Turns, judged
from bench.policies.lengths_stage import Stage, Start, Window
from sparsespec.core.errors import BadOption, SparseSpecError, UnknownName
from sparsespec.engine.outputs import NO_RESULTS
from sparsespec.models.geometries import config_of
from sparsespec.models.tiny import tiny
from sparsespec.testing.simulated_acceptance import SimulatedAcceptance

PRESET = "sparsespec"
SMALL = ["--context", "40", "90", "--seconds", "0.15", "--warmup", "12", "--runs", "2", "--preset", PRESET]
FIXED, JUDGED = "fixed(draft=3)", "fixed(draft=1)"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bench") / "lengths.jsonl"
    options = ["--batch", "1", "3", "--most", "200", "--accept", "7", "1", "--length", FIXED, JUDGED]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        assert lengths.main(["tiny", *SMALL, *options, "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_each_cell_within_the_limit_has_a_row_for_each_acceptance(results: Path) -> None:
    header, *rows = [json.loads(line) for line in results.read_text("utf-8").splitlines()]
    assert header["weights"] == "random"
    cells = [(1, 40), (1, 90), (3, 40)]
    assert [(row["batch"], row["context"], row["accept"]) for row in rows] == [
        (*cell, accept) for cell in cells for accept in (7.0, 1.0)
    ]
    for row in rows:
        dense, fixed, last = (row["contenders"][name] for name in (DENSE, FIXED, JUDGED))
        assert dense["plain"] == 1
        assert (fixed["plain"], fixed["drafted"]) == (0, 3)
        assert (last["plain"], last["drafted"]) == (0, 1)
        assert all(len(one["windows"]) == 2 for one in (dense, fixed, last))
        assert row["context"] < dense["context"] < row["context"] + 256
        assert row["ratio"] == pytest.approx(
            last["tokens_per_second"] / max(dense["tokens_per_second"], fixed["tokens_per_second"])
        )
        assert row["simulated"]
    often, seldom = (sum(row["contenders"][FIXED]["accepted"] for row in rows[i::2]) for i in (0, 1))
    assert often > 2 * seldom


@pytest.mark.slow
def test_what_was_written_is_read_back_judged_and_drawn(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--read", str(results)]
    if importlib.util.find_spec("matplotlib"):
        options += ["--plot", str(tmp_path / "lengths.svg")]
    assert lengths.main(options) == 0
    shown = capsys.readouterr().out
    assert shown.count(JUDGED) == 6
    assert "worst of 6 cells: " in shown
    if "--plot" in options:
        assert (tmp_path / "lengths.svg").stat().st_size


@pytest.mark.slow
def test_real_weights_are_prefilled_and_make_nothing_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Bytes:
        """Tokens that are bytes."""

        def encode(self, text: str) -> list[int]:
            return [byte % 50 for byte in text.encode()]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = tiny(max_model_len=400, dtype="float32", seed=0)
    monkeypatch.setattr(lengths, "model_of", lambda *args: (model, Bytes()))
    assert lengths.main(["real", "--batch", "2", *SMALL]) == 0
    rows = capsys.readouterr().out.splitlines()[2:-1]
    assert [row.split()[:3] for row in rows] == [["2", "40", "—"], ["2", "90", "—"]]
    assert not any("simulated" in row for row in rows)


def test_a_context_that_the_model_does_not_hold_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    args = lengths._parser().parse_args(["tiny", "--batch", "1", "4", "--context", "256", "8192", "--most", "30000"])
    assert lengths.cells_of(args, 8192) == {1: {256: 256, 8192: 8192 - 1024 - 64}, 4: {256: 256}}
    with pytest.raises(BadOption, match="no room for a prompt"):
        lengths.cells_of(args, 300)


def test_cost_gets_the_cost_model_of_the_models_shape() -> None:
    texts = ["fixed(draft=8)", "cost", "cost(draft=4)", "cost(costs='h100-qwen3-8b')"]
    own = list(lengths.own_costs(texts, config_of("smollm2-135m")))
    assert own[0] == "fixed(draft=8)"
    assert own[1:3] == ["cost(costs='h100-smollm2-135m')", "cost(costs='h100-smollm2-135m',draft=4)"]
    assert own[3] == texts[3]
    assert list(lengths.own_costs(["cost"], tiny().config)) == ["cost"]


def test_the_others_best_is_what_the_last_is_judged_by() -> None:
    def windows(*rates: float) -> list[Window]:
        return [Window(int(rate), 1.0, 10, 10, 20, 10, 5, 50.0) for rate in rates]

    row = judged({"dense": windows(90, 100, 500), "fixed": windows(110, 110, 100), "cost": windows(99, 1, 1000)})
    assert (row["better"], row["judged"], row["ratio"]) == ("fixed", "cost", 99 / 110)
    key = {"batch": 2, "context": 9, "accept": 3.0}
    text = lengths.headline([{**key, **row}, {**key, **row, "ratio": 0.8, "batch": 7}, {**key, "failed": "no"}])
    assert text == "worst of 2 cells: 0.800 of fixed at batch 7, context 9, 3 of 8 accepted; below 0.95: 2"
    assert lengths.headline([{**key, "failed": "no"}]) == "no cell was measured"


def test_only_the_length_whose_turn_it_is_proposes_and_observes() -> None:
    turns = Turns(["fixed(draft=2)", "ema(most=5)"])
    assert (turns.max_draft, turns.max_guess) == (5, 0)
    view: Any = None
    index = np.arange(3)
    assert turns.propose(view, index).draft == 2
    observed: list[str] = []
    for i, length in enumerate(turns._made):
        length.observe = lambda results, i=i: observed.append(f"{i} {len(results)}")
    turns.observe(NO_RESULTS)
    turns.turn(1)
    turns.observe(NO_RESULTS)
    assert observed == ["0 0", "1 0"]


@pytest.mark.slow
def test_all_contenders_of_a_run_meet_the_same_acceptance_and_the_next_run_others() -> None:
    model = tiny(max_model_len=600, dtype="float32", seed=1)
    sizes = {
        "max_num_seqs": 1,
        "max_model_len": 500,
        "num_gpu_blocks": 40,
        "length": "fixed(draft=4)",
        "verifier": SimulatedAcceptance(0.0),
    }
    stage = Stage(model, PRESET, sizes, random=True)
    prompt = list(range(40))

    def collected(seed: int) -> tuple[int, int]:
        window = stage.window(Start([prompt], 40, seed, 0.0), warmup=0, seconds=60.0)
        return window.accepted, window.rounds

    stage.aim(2.0, 4)
    first = collected(3)
    assert collected(3) == first
    assert len({collected(seed) for seed in range(4, 9)}) > 1
    stage.aim(4.0, 4)
    accepted, rounds = collected(3)
    assert accepted == 4 * rounds
    stage.close()


def test_what_cannot_be_measured_is_said_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(*args: object) -> None:
        raise AssertionError("nothing is to be loaded")

    monkeypatch.setattr(lengths, "model_of", loaded)
    with pytest.raises(BadOption, match="a model to measure"):
        lengths.main([])
    with pytest.raises(BadOption, match="a model to measure"):
        lengths.main(["tiny", "--read", "rows.jsonl"])
    with pytest.raises(BadOption, match="real ones"):
        lengths.main(["smollm2", "--accept", "3"])
    with pytest.raises(BadOption, match="takes no text"):
        lengths.main(["tiny", "--prompts", "x.txt"])
    with pytest.raises(BadOption, match="between 0 and 8"):
        lengths.main(["tiny", "--accept", "9"])
    with pytest.raises(UnknownName, match="cost"):
        lengths.main(["tiny", "--length", "fixed", "cots"])
    with pytest.raises(UnknownName, match="best"):
        lengths.main(["tiny", "--preset", "bset"])


def test_a_batch_that_fails_costs_no_other(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def __init__(self, model: object, contest: object, batch: int, most: int, *, random: bool) -> None:
            if batch == 2:
                raise SparseSpecError("no room")
            self.closed = False

        def cell(self, prompts: object, room: int) -> list[dict[str, Any]]:
            one = [Window(8, 1.0, 10, 10, 20, 10, 5, 50.0)]
            return [{"accept": 1.0, **judged({"dense": one, "cost": one})}]

        def close(self) -> None: ...

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(lengths, "Arena", Broken)
    assert lengths.main(["tiny", "--batch", "2", "3", "--context", "40"]) == 1
    shown = capsys.readouterr().out
    assert "no room" in shown
    assert "worst of 1 cells" in shown
