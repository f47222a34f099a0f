"""Which cases a mutant can show in at all: hunting through the others would only take time."""

from __future__ import annotations

from collections.abc import Callable

from sparsespec.testing.cases import Case


def drafts(case: Case) -> bool:
    return case.spec.selector.name not in ("none", "full") and case.spec.length.name != "zero"


def lags(case: Case) -> bool:
    return case.spec.loop != "sync" and drafts(case)


def queues(case: Case) -> bool:
    """Say whether seats change hands: more samples are asked for than there are seats."""
    return sum(ask.params.n for ask in case.requests) > case.spec.engine["max_num_seqs"]


def crowds(case: Case) -> bool:
    """Say whether several run that would fill more pages than there are, in a tier that lets them begin."""
    size, seats = case.spec.engine["block_size"], case.spec.engine["max_num_seqs"]
    pages = [-(-(len(a.prompt) + a.params.max_tokens - 1) // size) for a in case.requests for _ in range(a.params.n)]
    return seats > 1 and case.spec.tiers.name != "reserve" and sum(pages[:seats]) >= case.spec.engine["num_gpu_blocks"]


def forks(case: Case) -> bool:
    """Say whether samples that share a prompt part in the middle of one of its pages."""
    size = case.spec.engine["block_size"]
    return (
        size > 1
        and case.spec.engine["max_num_seqs"] > 1
        and any(a.params.n > 1 and not a.params.is_greedy and len(a.prompt) > size for a in case.requests)
    )


def uses(selector: str) -> Callable[[Case], bool]:
    return lambda case: case.spec.selector.name == selector and drafts(case)


def pads(case: Case) -> bool:
    return bool(case.spec.engine["graphs"]) and drafts(case)


def spills(case: Case) -> bool:
    return case.spec.tiers.name == "host" and crowds(case)
