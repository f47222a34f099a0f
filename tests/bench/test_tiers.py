"""`python -m bench.tiers`, from its arguments to its rows and its picture, on the CPU."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from bench import tiers, tiers_run
from bench.engine_meter import overlap
from sparsespec.core.errors import BadOption

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
        assert not row["synthetic"]


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


def test_copies_cost_what_their_turns_take_longer() -> None:
    felt, rest = tiers_run.FELT, tiers_run.TURN - tiers_run.FELT
    steps = [9.0] * felt + [1.1] * rest + [5.0] * felt + [1.0] * rest
    steps += [9.0] * felt + [1.2] * rest + [5.0] * felt + [1.0] * rest
    assert [tiers_run.is_without(i) for i in (0, felt + rest - 1, felt + rest, 2 * (felt + rest))] == [
        False, False, True, False
    ]  # fmt: skip
    fills = [False] * (len(steps) + 1)
    # a step that fills, and the one in which its time is seen
    fills[felt] = True
    steps[felt : felt + 2] = 50.0, 60.0
    share, error = tiers_run.cost_of_copies([*steps, 100.0], fills) or (0.0, 0.0)
    assert share == pytest.approx(0.15)
    assert error == pytest.approx(0.05)
    assert tiers_run.cost_of_copies(steps[: 3 * (felt + rest)], fills) is None
    assert tiers_run.cost_of_copies(steps, [True] * len(steps)) is None
