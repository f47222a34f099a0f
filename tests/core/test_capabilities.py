from __future__ import annotations

from typing import Any

import pytest

from sparsespec.core import registry
from sparsespec.core.capabilities import CAPABILITIES, check_capabilities
from sparsespec.core.errors import BadOption, ContractBroken
from sparsespec.core.spec import PRESETS


def part(needs: str = "", provides: str = "", **attributes: Any) -> object:
    body = {"needs": frozenset(needs.split()), "provides": frozenset(provides.split()), **attributes}
    return type("Part", (), body)()


def length(draft: int = 0, guess: int = 0) -> object:
    return part(max_draft=draft, max_guess=guess)


def compose(**parts: object) -> dict[str, object]:
    plain = {
        "selector": part(drafts=True),
        "proposer": part(guesses=True),
        "length": length(8, 4),
        "scheduler": part(),
        "tiers": part(),
        "attention": part(provides="scores step_query"),
        "verifier": part(needs="draft_probs"),
    }
    return plain | parts


@pytest.mark.parametrize("loop", ["sync", "delayed", "resident"])
def test_parts_whose_needs_are_given_may_live_together(loop: str) -> None:
    check_capabilities(compose(selector=part("scores step_query", drafts=True)), loop)


@pytest.mark.parametrize("need", ["scores", "step_query"])
def test_a_gap_names_both_sides_and_who_would_give_it(need: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = registry.PartInfo("reference", {}, frozenset(), frozenset({need}), "sparsespec", "")
    monkeypatch.setattr(registry, "describe", lambda shelf: [row])
    parts = compose(selector=part(need, drafts=True), attention=part())
    with pytest.raises(
        BadOption,
        match=f"selector 'Part' needs '{need}', which attention 'Part' does not provide.*: reference",
    ):
        check_capabilities(parts, "sync")


@pytest.mark.parametrize("need", ["host_lengths", "host_tokens"])
def test_what_the_host_must_know_works_in_the_sync_loop_only(need: str) -> None:
    parts = compose(proposer=part(need, guesses=True))
    check_capabilities(parts, "sync")
    for loop in ("delayed", "resident"):
        with pytest.raises(BadOption, match=f"proposer.*{need}.*'{loop}'.*use loop='sync'"):
            check_capabilities(parts, loop)


def test_a_length_that_drafts_needs_a_draft_level() -> None:
    none = compose(selector=part(drafts=False))
    with pytest.raises(BadOption, match=r"drafts up to 8 tokens.*no draft level.*'full'"):
        check_capabilities(none, "sync")
    check_capabilities(none | {"length": length(0, 4)}, "sync")


def test_a_length_that_guesses_needs_a_proposer() -> None:
    none = compose(proposer=part(guesses=False))
    with pytest.raises(BadOption, match=r"up to 4 guesses.*proposer='ngram'"):
        check_capabilities(none, "sync")
    check_capabilities(none | {"length": length(8, 0)}, "sync")


def test_guesses_need_a_length_that_takes_some() -> None:
    no_guess = compose(length=length(8, 0))
    with pytest.raises(BadOption, match=r"proposer 'Part' makes guesses and length 'Part' takes none.*guess=4"):
        check_capabilities(no_guess, "sync")
    check_capabilities(no_guess | {"proposer": part(guesses=False)}, "sync")


@pytest.mark.parametrize(
    ("selector", "needs", "provides"),
    [("pillar", "scores", "step_query"), ("snapkv", "scores", "step_query"), ("quest", "step_query", "scores")],
)
def test_who_looks_at_scores_or_keys_needs_a_backend_that_gives_them(selector: str, needs: str, provides: str) -> None:
    parts = compose(selector=registry.make(f"selector/{selector}"), attention=part(provides=provides))
    with pytest.raises(BadOption, match=f"selector '{selector}' needs '{needs}', which attention 'Part'.*reference"):
        check_capabilities(parts, "sync")


@pytest.mark.parametrize(
    "broken",
    [
        {"scheduler": object()},
        {"scheduler": part("telepathy")},
        {"selector": part()},
        {"length": part()},
    ],
)
def test_a_part_that_declares_nothing_or_nonsense_broke_its_contract(
    broken: dict[str, object],
) -> None:
    with pytest.raises(ContractBroken):
        check_capabilities(compose(**broken), "sync")


def test_every_word_that_a_protocol_explains_is_a_capability() -> None:
    from sparsespec.core import protocols

    for word in CAPABILITIES:
        assert f"`{word}`" in (protocols.__doc__ or "")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_made_of_parts_that_live_together(name: str) -> None:
    spec = PRESETS[name].spec
    parts = {shelf: registry.make(part) for shelf, part in spec.parts.items()}
    check_capabilities(parts, spec.loop)
    for shelf, part in parts.items():
        again = registry.make(registry.spec_of(shelf, part))
        assert registry.spec_of(shelf, again) == registry.spec_of(shelf, part)
