"""`check_scheduler`: is this a scheduler? Its plans are legal; no request waits for ever or for one that starves."""

from __future__ import annotations

import random
from typing import Any

from sparsespec.core.config import Geometry
from sparsespec.core.loops import LOOPS
from sparsespec.core.plan import StepPlan, check_plan
from sparsespec.core.spec import PartLike
from sparsespec.kv.gpu import GpuTier
from sparsespec.testing.checks.drawn_views import BLANK, ViewRow, draw_view, view_of
from sparsespec.testing.checks.host import Host
from sparsespec.testing.checks.stage import another, make_part, require, rounds, small_geometry

_PATIENCE = 60
"""Steps in a row in which a request that may run is not planned, before that counts as never."""


def check_scheduler(spec: PartLike | object, *, examples: int = 30, seed: int = 0) -> None:
    """Raise `ContractBroken` if the scheduler breaks a promise.

    Args:
        spec: A name, a spec or an instance, of which a fresh copy is checked.
        examples: Random views, and random loads run to the end.
        seed: Seed of both.
    """
    part = make_part("scheduler", spec)
    geometry = small_geometry()
    _check_plans(part, geometry, random.Random(f"{seed}/views"), 10 * len(rounds(examples)))
    _check_waiting(part, geometry)
    _check_reset(part, geometry, random.Random(f"{seed}/reset"))
    for example in rounds(examples):
        run_load(another("scheduler", part), random.Random(f"{seed}/{example}"))


def run_load(part: Any, dice: random.Random) -> int:
    """Run a random load to its end on a pool that is often just large enough for one request; returns the steps."""
    block_size = dice.choice((1, 2, 4, 16))
    prompts = [dice.randint(1, 40) for _ in range(dice.randint(1, 6))]
    requests = [(prompt, prompt + dice.randint(1, 20)) for prompt in prompts]
    least = max(1, *(-(-(limit - 1) // block_size) for _, limit in requests))
    geometry = small_geometry(
        n_seats=dice.randint(1, 4),
        block_size=block_size,
        num_gpu_blocks=1 + dice.choice((least, least, least + 3, 200)),
    )
    tiers = GpuTier()
    tiers.bind(geometry)
    part.bind(geometry)
    part.reset(range(geometry.n_seats))
    host = Host(
        part,
        tiers,
        requests,
        dice,
        loop=dice.choice(tuple(LOOPS)),
        n_seats=geometry.n_seats,
        block_size=block_size,
        max_draft=dice.choice((0, 3, 6)),
        max_guess=dice.choice((0, 3)),
    )
    return host.run()


def _check_plans(part: Any, geometry: Geometry, dice: random.Random, n_views: int) -> None:
    part.bind(geometry)
    part.reset(range(geometry.n_seats))
    for step in range(n_views):
        view = draw_view(dice, geometry.n_seats, step)
        plan = part.plan(view)
        require(isinstance(plan, StepPlan), f"{type(part).__name__}.plan must return a StepPlan, got {plan!r}")
        check_plan(plan, view)
        if dice.random() < 0.1:
            part.reset([dice.randrange(geometry.n_seats)])


def _check_waiting(part: Any, geometry: Geometry) -> None:
    """Show rows of which some cannot come forward: the others must not wait for them, at any point of a round."""
    name = type(part).__name__
    drafting = BLANK._replace(k=4, d_lo=1, d_hi=1)
    full = BLANK._replace(k=4, d_lo=4, d_hi=4)
    filling = BLANK._replace(to_prefill=5)
    starving = drafting._replace(starved=True)
    alone = (BLANK, drafting, full, filling, full._replace(must_verify=True), BLANK._replace(first_round=True, k=4))
    for row in (*alone, filling._replace(starved=True), starving):
        require(_is_planned(part, geometry, row), f"{name} never plans {row}, which is alone")
    for row, stuck in ((full, starving), (full, filling._replace(starved=True)), (filling, starving)):
        planned = _is_planned(part, geometry, row._replace(seat=1), stuck._replace(seat=2, arrival=1))
        require(planned, f"{name} lets {row} wait for {stuck}, which starves for the pages that the other holds")
    for row, other in ((filling, drafting), (drafting, filling), (full, BLANK)):
        planned = _is_planned(part, geometry, row._replace(seat=1, arrival=1), other._replace(seat=2))
        require(planned, f"{name} never plans {row} beside {other}")


def _is_planned(part: Any, geometry: Geometry, *rows: ViewRow) -> bool:
    """Say whether the first row is planned within patience, while nothing changes but the step."""
    part.bind(geometry)
    part.reset(range(geometry.n_seats))
    ordered = sorted(rows, key=lambda row: row.arrival)
    for step in range(_PATIENCE):
        plan = part.plan(view_of(*ordered, step=step))
        if any(row.seat == rows[0].seat for row in plan.rows):
            return True
    return False


def _check_reset(part: Any, geometry: Geometry, dice: random.Random) -> None:
    """After a reset of all seats the same views get the same plans, as from a scheduler just made."""
    fresh = another("scheduler", part)
    part.bind(geometry)
    fresh.bind(geometry)
    for step in range(30):
        part.plan(draw_view(dice, geometry.n_seats, step))
    part.reset(range(geometry.n_seats))
    for step in range(30):
        view = draw_view(dice, geometry.n_seats, step)
        same = part.plan(view) == fresh.plan(view)
        require(same, f"{type(part).__name__} still remembers something after all seats were reset")
