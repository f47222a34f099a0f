"""Options of the wrong kind are refused in one sentence, wherever they come from."""

from __future__ import annotations

import pytest

from sparsespec.core import registry
from sparsespec.core.errors import BadOption

WRONG = {
    "selector/pillar(budget=wide)": "a number",
    "selector/pillar(min_budget=1.5)": "a whole number",
    "selector/pillar(min_budget=true)": "a whole number",
    "selector/pillar(scored=3)": "a list of whole numbers",
    "selector/pillar(scored=[1,a])": "a list of whole numbers",
    "selector/pillar(warm_start=1)": "true or false",
    "selector/pillar(groups=1.5)": "a whole number or a word",
    "selector/random(seed=x)": "a whole number",
    "selector/window(sinks=many)": "a whole number",
    "length/fixed(draft=1.5)": "a whole number",
    "scheduler/lockstep(chunk=x)": "a whole number",
    "proposer/ngram(max_ngram=[2])": "a whole number",
}


@pytest.mark.parametrize(("spec", "kind"), WRONG.items(), ids=WRONG)
def test_option_of_the_wrong_kind_says_what_it_must_be(spec: str, kind: str) -> None:
    with pytest.raises(BadOption, match=rf"must be {kind}, got"):
        registry.make(spec)


def test_a_whole_number_is_a_number() -> None:
    assert registry.make("selector/pillar(budget=1)").budget == 1
