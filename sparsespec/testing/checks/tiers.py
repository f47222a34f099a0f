"""`check_tiers`: is this a tier manager? Its books balance, the oldest request runs, and nothing leaks."""

from __future__ import annotations

import random
from typing import Any

from sparsespec.core.plan import StepPlan, prefill_row
from sparsespec.core.spec import PartLike
from sparsespec.testing.chaos import Chaos
from sparsespec.testing.checks.drawn_views import BLANK, view_of
from sparsespec.testing.checks.host import LOOPS, Host
from sparsespec.testing.checks.stage import another, make_part, require, rounds, small_geometry
from sparsespec.testing.checks.watched_tiers import WatchedTiers


def check_tiers(spec: PartLike | object, *, examples: int = 30, seed: int = 0) -> None:
    """Raise `ContractBroken` if the tier manager breaks a promise.

    Args:
        spec: A name, a spec or an instance, of which a fresh copy is checked.
        examples: Random loads run to the end.
        seed: Seed of the loads.
    """
    part = make_part("tiers", spec)
    _check_sharing(another("tiers", part))
    for example in rounds(examples):
        _run_load(another("tiers", part), random.Random(f"{seed}/{example}"))


def _run_load(part: Any, dice: random.Random) -> None:
    """Run a random load under `chaos`, on a pool that is often just large enough for one request."""
    block_size = dice.choice((1, 1, 2, 4, 16))
    prompts = [dice.randint(1, 40) for _ in range(dice.randint(1, 6))]
    requests = [(prompt, prompt + dice.randint(1, 20)) for prompt in prompts]
    least = max(1, *(-(-(limit - 1) // block_size) for _, limit in requests))
    n_pages = 1 + dice.choice((least, least, least + 1, least + 5, 200))
    geometry = small_geometry(n_seats=dice.randint(1, 4), block_size=block_size, num_gpu_blocks=n_pages)
    part.bind(geometry)
    watched = WatchedTiers(part, n_pages, block_size)
    scheduler = Chaos(seed=dice.randrange(1000), idle=dice.choice((0.0, 0.3)))
    host = Host(
        scheduler,
        watched,
        requests,
        dice,
        loop=dice.choice((*LOOPS, "resident")),
        n_seats=geometry.n_seats,
        block_size=block_size,
        max_draft=dice.choice((4, 7)),
        max_guess=dice.choice((0, 3, 5)),
        failing=dice.choice((0.0, 0.0, 0.1)),
    )
    for _ in range(dice.randint(0, 20)):
        host.advance()
    if host.seated and dice.random() < 0.5:
        # a request that is aborted leaves nothing behind, in whatever state
        seat = dice.choice(sorted(host.seated))
        watched.forget(seat)
        del host.seated[seat]
    host.run()
    host.stuck = True
    host._land()
    name, free = type(part).__name__, part.free_pages()
    require(free == n_pages - 1, f"{name} has {free} of {n_pages - 1} pages free when all requests have left")
    part.reset()
    part.check()
    require(part.free_pages() == n_pages - 1, f"{name} lost pages when it was reset")


def _check_sharing(part: Any) -> None:
    """Two seats share two pages of four; they are free when both have left, and not before."""
    name = type(part).__name__
    part.bind(small_geometry(num_gpu_blocks=9))
    watched = WatchedTiers(part, 9, 4)
    first, second = BLANK._replace(to_prefill=15, n_lo=16, n_hi=16), BLANK._replace(seat=1, arrival=1)
    view = view_of(first, second)
    for seat in (0, 1):
        require(part.admit(seat, 16, 17), f"{name} does not admit seat {seat}, for which there is room")
    watched.place(StepPlan((prefill_row(view, 0, 15),)), view)
    watched.share(1, 0, 2)
    counted = (part.shared_pages(0), part.shared_pages(1), part.free_pages())
    require(counted == (0, 2, 4), f"{name} counts (0, 2, 4) shared and free pages as {counted}")
    second = second._replace(to_prefill=7, n_lo=16, n_hi=16)
    view = view_of(first, second)
    watched.place(StepPlan((prefill_row(view, 1, 7),)), view)
    watched.forget(0)
    require(part.free_pages() == 4, f"{name} has {part.free_pages()} free pages of 4 when the owner left and one stays")
    watched.forget(1)
    require(part.free_pages() == 8, f"{name} has {part.free_pages()} free pages of 8 when both sharers have left")
