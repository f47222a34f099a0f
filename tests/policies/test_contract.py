"""Every selector, proposer and length policy on the shelves, tested by being there."""

from __future__ import annotations

import pytest

from sparsespec.core import registry
from sparsespec.testing import check_length, check_proposer, check_selector

SELECTORS = [
    "window(budget=0.1,min_budget=1,sinks=0)",
    "window(budget=0.2,min_budget=8,sinks=8)",
    "random(budget=0.2,min_budget=3,groups=heads,seed=5)",
    "oracle(budget=0.1,min_budget=2,groups=1)",
    "pillar(groups=heads,recent=0.0,scored=[0,16],warm_start=false,min_budget=192)",
    "pillar(budget=0.1,min_budget=1,recent=0.0)",
    "pillar(budget=0.3,min_budget=4,smooth=0.9,pool=3,recent=1.0,scored=[1,0])",
    "pillar(budget=1.0,min_budget=1,groups=2,recent=0.3,pool=5)",
    "quest(budget=0.1,min_budget=2,groups=1)",
    "quest(budget=0.3,min_budget=9)",
    "snapkv(keep=0.2,min_keep=4,window=3)",
    "snapkv(keep=1.0,min_keep=1,groups=1,pool=1)",
]
PROPOSERS = [
    "ngram(max_ngram=1,min_ngram=1)",
    "ngram(max_ngram=9)",
    "suffix(max_match=1,min_match=1)",
    "suffix(max_match=7,factor=3.0)",
]
LENGTHS = [
    "fixed(draft=0,guess=4)",
    "fixed(draft=3,guess=2)",
    "ema(most=3,least=1,memory=0.0,guess=2)",
    "table(batch=[1,2,64],context=[20,64],draft=[[1,2],[3,4],[5,6]],guess=[[1,0],[0,1],[2,2]])",
    "confidence(draft=2,stop_below=1.0,guess=1)",
    "cost(draft=0,guess=3,probe=1)",
    "cost(draft=4,guess=2,memory=0.0,probe=2)",
]


@pytest.mark.parametrize(
    "spec", [*registry.names("selector"), *(pytest.param(spec, marks=pytest.mark.slow) for spec in SELECTORS)]
)
def test_is_a_selector(spec: str) -> None:
    check_selector(spec, examples=2)


@pytest.mark.parametrize("spec", [*registry.names("proposer"), *PROPOSERS])
def test_is_a_proposer(spec: str) -> None:
    check_proposer(spec)


@pytest.mark.parametrize("spec", [*registry.names("length"), *LENGTHS])
def test_is_a_length_policy(spec: str) -> None:
    check_length(spec)
