"""`python -m bench.engine.tiers`, from its arguments to its rows and its picture, on the CPU."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch

from bench.engine import tiers, tiers_run
from sparsespec.benchmarks.meter import TimedLazy, overlap
from sparsespec.core.errors import BadOption
from sparsespec.core.plan import Move
from sparsespec.kv.mover import Mover
from sparsespec.kv.pool import KVPool
from sparsespec.testing.checks.stage import small_geometry

SMALL = ["--batch", "6", "--context", "20:60", "--output", "60:250", "--steps", "80", "--warmup", "30"]
SMALL += ["--preset", "sparsespec:selector=pillar(min_budget=8)"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bench") / "tiers.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        assert tiers.main(["tiny", *SMALL, "--demand", "3", "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_each_tier_manager_has_a_row_and_host_one_that_leaves_copies_out_by_turns(results: Path) -> None:
    rows = [json.loads(line) for line in results.read_text("utf-8").splitlines()][1:]
    assert [row["composition"].rpartition("tiers=")[2].partition(",")[0] for row in rows] == [
        "host",
        "host",
        "gpu",
        "reserve",
    ]
    host, by_turns, gpu, reserve = rows
    assert by_turns["composition"].endswith(tiers.BY_TURNS)
    assert host["spilled_bytes"] > 0
    assert host["restored_bytes"] > 0
    assert host["recomputed"] == host["preempted"] == 0
    assert gpu["recomputed"] > 0
    assert gpu["preempted"] > 0
    assert gpu["spilled_bytes"] == reserve["spilled_bytes"] == reserve["recomputed"] == 0
    assert [row["copies_cost"] is None for row in rows] == [True, False, True, True]
    for row in rows:
        assert len(row["over_time"]["free"]) == len(row["over_time"]["host"]) >= 60
        assert 0 < row["in_use"] <= 1
        assert row["tokens_per_second"] > 0
        assert not row["simulated"]


@pytest.mark.slow
def test_what_was_written_is_read_back_and_drawn(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--read", str(results)]
    if importlib.util.find_spec("matplotlib"):
        options += ["--plot", str(tmp_path / "tiers.svg")]
    assert tiers.main(options) == 0
    shown = capsys.readouterr().out
    assert shown.count("tiers=host") == 2
    assert "tiers=reserve" in shown
    if "--plot" in options:
        assert (tmp_path / "tiers.svg").read_text("utf-8").count("demand 3") or (tmp_path / "tiers.svg").stat().st_size


def test_a_tier_manager_that_fails_costs_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*SMALL, "--demand", "2", "--tiers", "host(size=0)", "gpu"]
    with pytest.raises(BadOption, match="above 0"):
        tiers.main(["tiny", *options])
    with pytest.raises(BadOption, match="a model to measure"):
        tiers.main([])
    with pytest.raises(BadOption, match="a model to measure"):
        tiers.main(["tiny", "--read", str(tmp_path)])


def test_overlap_is_the_share_of_side_spans_within_main_ones() -> None:
    main = [(0.0, 4.0), (5.0, 9.0), (9.0, 12.0)]
    assert overlap(main, [(1.0, 2.0)]) == 1
    assert overlap(main, [(3.0, 6.0)]) == pytest.approx(2 / 3)
    assert overlap(main, [(4.0, 5.0)]) == 0
    assert overlap(main, [(3.0, 10.0), (11.0, 13.0)]) == pytest.approx((1 + 5 + 1) / 9)


def test_copies_cost_what_steps_of_a_kind_take_longer() -> None:
    turn, felt = tiers_run.TURN, tiers_run.FELT
    assert [tiers_run.is_without(i) for i in (0, turn - 1, turn, 2 * turn)] == [False, False, True, False]
    # copies begin in every fourth step, and by chance in some more of the first turn
    begins = [i % 4 == 0 or i in (13, 14) for i in range(4 * turn)]
    steps = [1.0] * len(begins)
    for i, begin in enumerate(begins):
        without = tiers_run.is_without(i)
        if begin:
            # to decide takes time whether pages are copied or not
            steps[i] = 1.5 if without else 1.7
        elif begins[i - 1] and not without:
            steps[i] = 1.1
        if i % turn < felt:
            steps[i] = 2.9
    fills = [i == turn + 9 for i in range(len(begins))]
    steps[turn + 9 : turn + 11] = 50.0, 60.0
    share, _ = tiers_run.cost_of_copies(steps, fills, begins) or (0.0, 0.0)
    counts = [i for i in range(len(steps)) if i % turn >= felt and i not in (turn + 9, turn + 10)]
    longer = sum(0.2 if begins[i] else 0.1 if begins[i - 1] else 0.0 for i in counts) / len(counts)
    without = [steps[i] for i in counts if tiers_run.is_without(i)]
    assert share == pytest.approx(longer / (sum(without) / len(without)))
    paused = list(steps)
    paused[12] += 1000.0
    share_paused, _ = tiers_run.cost_of_copies(paused, fills, begins) or (0.0, 0.0)
    assert share < share_paused < share + tiers_run.PAUSE / 10
    assert tiers_run.cost_of_copies(steps, [True] * len(steps), begins) is None
    assert tiers_run.cost_of_copies(steps, fills, [False] * len(steps)) is None
    assert tiers_run.cost_of_copies(steps[: 2 * turn], fills, begins) is None


def test_the_error_is_that_of_turns_and_not_of_steps() -> None:
    noise, pairs = random.Random(1), 40
    begins = [i % 4 == 0 for i in range(2 * tiers_run.TURN * pairs)]
    shares, errors = [], []
    for _ in range(60):
        # what slows a step slows its neighbours
        slow, steps = 0.0, []
        for _ in begins:
            slow = 0.9 * slow + noise.gauss(0.0, 0.02)
            steps.append(1.0 + slow)
        share, error = tiers_run.cost_of_copies(steps, [False] * len(steps), begins) or (0.0, 0.0)
        shares.append(share)
        errors.append(error)
    assert fmean(errors) == pytest.approx(stdev(shares), rel=0.3)


def test_copies_that_are_left_out_move_nothing() -> None:
    device, geometry = TimedLazy(), small_geometry()
    pool = KVPool(geometry)
    mover = Mover(device, pool, geometry, 1)
    pool.kv[:, :, 4], pool.kv[:, :, 5] = 1.0, 2.0
    for device.without_side in (True, False):
        for move in (Move(4, 1, True), Move(5, 1, False)):
            with mover.moving([move]):
                pass
            assert list(mover.ended(wait=True)) == [((move,), None)]
        assert (pool.kv[:, :, 5] == (2.0 if device.without_side else 1.0)).all()
