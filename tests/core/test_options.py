"""Options of parts: what is of the wrong kind, or cannot work, is refused in one sentence, wherever it comes from."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from sparsespec.core import registry
from sparsespec.core.errors import BadOption, UnknownName
from sparsespec.core.spec import SHELVES
from sparsespec.kv.host import HostTier
from sparsespec.policies.proposers.suffix import Suffix
from sparsespec.sched.staggered import Staggered
from tests.refusals import assert_refused

BUDGETED = ("window", "random", "oracle", "pillar", "quest")
SHARE = "share of the context a draft reads, in (0, 1]"
TABLE = "4 rows, one a batch, of 4 numbers, one a context"
# spec: what it got, and what would work
REFUSED = {
    **{f"selector/{name}(budget={b})": (f"got {b}", SHARE) for name in BUDGETED for b in (0.0, -0.1, 1.01)},
    **{f"selector/{name}(min_budget=0)": ("got 0", "1 or more") for name in BUDGETED},
    "selector/window(sinks=-1)": ("got -1", "between 0 and min_budget = 128"),
    "selector/window(min_budget=8,sinks=9)": ("got 9", "between 0 and min_budget = 8"),
    "selector/window(sinks=many)": ("got 'many'", "must be a whole number"),
    "selector/random(seed=-1)": ("got -1", "in [0, 2**63)"),
    "selector/random(seed=x)": ("got 'x'", "must be a whole number"),
    "selector/oracle(min_budget=few)": ("got 'few'", "must be a whole number"),
    "selector/pillar(budget=wide)": ("got 'wide'", "must be a number"),
    "selector/pillar(budget=[1])": ("got [1]", "must be a number"),
    "selector/pillar(budget=true)": ("got True", "must be a number"),
    "selector/pillar(min_budget=1.5)": ("got 1.5", "must be a whole number"),
    "selector/pillar(min_budget=true)": ("got True", "must be a whole number"),
    "selector/pillar(groups=null)": ("got None", "must be a whole number or a word"),
    "selector/pillar(groups=1.5)": ("got 1.5", "must be a whole number or a word"),
    "selector/pillar(recent=-0.1)": ("got -0.1", "in [0, 1]"),
    "selector/pillar(recent=1.5)": ("got 1.5", "in [0, 1]"),
    "selector/pillar(scored=3)": ("got 3", "must be a list of whole numbers"),
    "selector/pillar(scored=[1,a])": ("got [1, 'a']", "must be a list of whole numbers"),
    "selector/pillar(scored=[1])": ("got [1]", "two numbers of queries"),
    "selector/pillar(scored=[1,-1])": ("got [1, -1]", "two numbers of queries"),
    "selector/pillar(scored=[1,2,3])": ("got [1, 2, 3]", "two numbers of queries"),
    "selector/pillar(scored=[0,0])": ("got [0, 0]", "not both 0"),
    "selector/pillar(pool=0)": ("got 0", "an odd number"),
    "selector/pillar(pool=2)": ("got 2", "an odd number"),
    "selector/pillar(pool=4)": ("got 4", "an odd number"),
    "selector/pillar(smooth=1.0)": ("got 1", "in [0, 1)"),
    "selector/pillar(smooth=-0.5)": ("got -0.5", "in [0, 1)"),
    "selector/pillar(warm_start=1)": ("got 1", "must be true or false"),
    "selector/snapkv(keep=0)": ("got 0", "keep is the share of the prompt"),
    "selector/snapkv(min_keep=0)": ("got 0", "1 or more"),
    "selector/snapkv(window=0)": ("got 0", "1 or more"),
    "selector/snapkv(pool=2)": ("got 2", "an odd number"),
    "selector/snapkv(pool=4)": ("got 4", "an odd number"),
    "proposer/ngram(max_ngram=[2])": ("got [2]", "must be a whole number"),
    "proposer/ngram(max_ngram=0)": ("max_ngram=0", "1 <= min_ngram <= max_ngram"),
    "proposer/ngram(max_ngram=1)": ("max_ngram=1", "1 <= min_ngram <= max_ngram"),
    "proposer/ngram(min_ngram=0)": ("min_ngram=0", "1 <= min_ngram <= max_ngram"),
    "proposer/ngram(min_ngram=5)": ("min_ngram=5", "1 <= min_ngram <= max_ngram"),
    "proposer/ngram(min_ngram=5,max_ngram=4)": ("max_ngram=4", "1 <= min_ngram <= max_ngram"),
    "proposer/suffix(min_match=0)": ("min_match=0", "1 <= min_match <= max_match"),
    "proposer/suffix(max_match=1)": ("max_match=1", "1 <= min_match <= max_match"),
    "proposer/suffix(min_match=5,max_match=4)": ("min_match=5", "1 <= min_match <= max_match"),
    **{f"proposer/suffix(factor={x})": (f"got {x}", "must yield a guess") for x in (0.0, -1.0, 0.01, 0.001)},
    "length/fixed(draft=-1)": ("draft=-1", "numbers of tokens"),
    "length/fixed(guess=-2)": ("guess=-2", "numbers of tokens"),
    "length/fixed(guess=x)": ("got 'x'", "must be a whole number"),
    "length/fixed(draft=1.5)": ("got 1.5", "must be a whole number"),
    "length/ema(least=9,most=3)": ("least=9", "1 <= least <= most"),
    "length/ema(least=0)": ("least=0", "1 <= least <= most"),
    "length/ema(memory=1.0)": ("got 1", "in [0, 1)"),
    "length/ema(shrink=0.9)": ("shrink=0.9", "shrink < grow"),
    "length/ema(grow=0.4,shrink=0.5)": ("shrink=0.5", "shrink < grow"),
    "length/table(batch=[8,4,2,1])": ("got [8, 4, 2, 1]", "a rising list"),
    "length/table(batch=[8,8,9,10])": ("got [8, 8, 9, 10]", "a rising list"),
    "length/table(batch=[])": ("got []", "a rising list"),
    "length/table(context=[0,1,2,3])": ("got [0, 1, 2, 3]", "1 or more"),
    "length/table(draft=8)": ("got 8", TABLE),
    "length/table(draft=[[1]])": ("got [[1]]", TABLE),
    "length/table(draft=[[1],[1],[1],[1]])": ("got [[1], [1], [1], [1]]", TABLE),
    "length/table(draft=[[1,1,1,-1],[1,1,1,1],[1,1,1,1],[1,1,1,1]])": ("-1", "0 or more"),
    "length/table(guess=3)": ("got 3", TABLE),
    "length/table(guess=[3,3,3,3])": ("got 3", "lists of whole numbers"),
    "length/confidence(stop_below=0.0)": ("in (0, 1], got 0", "'fixed' never stops early"),
    "length/confidence(draft=0)": ("draft=0", "'fixed(draft=0,guess=4)'"),
    "length/cost(draft=0)": ("draft=0", "not both 0"),
    "length/cost(memory=1.0)": ("got 1", "in [0, 1)"),
    "length/cost(probe=0)": ("got 0", "1 or more"),
    "length/cost(margin=-0.1)": ("got -0.1", "0 or more"),
    "length/cost(costs=3)": ("got 3", "a word"),
    "length/cost(costs='nobody.json')": ("nobody.json", "`sparsespec profile`"),
    "scheduler/lockstep(chunk=0)": ("got 0", "1 or more"),
    "scheduler/lockstep(chunk=x)": ("got 'x'", "must be a whole number"),
    "scheduler/random(seed=1.5)": ("got 1.5", "must be a whole number"),
    "scheduler/random(chunk=0)": ("got 0", "1 or more"),
    "scheduler/staggered(gain=0.0)": ("got 0", "above 0"),
    "scheduler/staggered(gain=-0.1)": ("got -0.1", "above 0"),
    "scheduler/staggered(chunk=-3)": ("got -3", "1 or more"),
    "scheduler/staggered(chunk=1.5)": ("got 1.5", "must be a whole number"),
    "tiers/host(victim=oldest)": ("got 'oldest'", "victim is one of newest, shortest, longest_remaining"),
    "tiers/host(size=0)": ("got 0", "above 0"),
    "tiers/host(low=0.2)": ("got 0.2 and 0.02", "0 <= low <= high < 1"),
    "tiers/host(low=0.3,high=0.2)": ("got 0.3 and 0.2", "0 <= low <= high < 1"),
    "tiers/host(low=-0.1)": ("got -0.1", "0 <= low <= high < 1"),
    "tiers/host(high=1.0)": ("and 1.0", "0 <= low <= high < 1"),
    "tiers/host(chunk=0)": ("got 0", "1 or more"),
}
# what JSON lacks can only be given to the constructor
NOT_FINITE: dict[str, tuple[Callable[[], object], str]] = {
    "an infinite factor": (lambda: Suffix(factor=math.inf), "must yield a guess"),
    "no factor": (lambda: Suffix(factor=math.nan), "must yield a guess"),
    "no gain": (lambda: Staggered(gain=math.nan), "above 0"),
    "no size": (lambda: HostTier(size=math.nan), "size is a multiple"),
}


@pytest.mark.parametrize("spec", REFUSED)
def test_an_option_that_cannot_work_is_refused_with_what_would(spec: str) -> None:
    assert_refused(lambda: registry.make(spec), BadOption, *REFUSED[spec])


@pytest.mark.parametrize("name", NOT_FINITE)
def test_a_number_that_is_not_finite_is_refused(name: str) -> None:
    call, works = NOT_FINITE[name]
    assert_refused(call, BadOption, "got", works)


def test_every_part_that_has_options_is_in_the_table() -> None:
    rows = {f"{shelf}/{row.name}": row for shelf in SHELVES for row in registry.describe(shelf)}
    have = {part for part, row in rows.items() if row.origin == "sparsespec" and row.options}
    assert have <= {spec.partition("(")[0] for spec in REFUSED}


def test_costs_that_nobody_measured_are_refused() -> None:
    assert_refused(
        lambda: registry.make("length/cost(costs='h100-qwen3')"), UnknownName, "'h100-qwen3'", "mean 'h100-qwen3-8b'"
    )


def test_a_whole_number_is_a_number() -> None:
    assert registry.make("selector/pillar(budget=1)").budget == 1
