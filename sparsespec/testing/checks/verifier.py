"""`check_verifier`: is this a verifier? What it emits at a position has that position's distribution.

It is tested by counting, which finds gross errors only; `tests/laws` enumerates it exactly for the built-in ones.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import torch
from torch import Tensor

from sparsespec.core.batch import VerifyInputs, VerifyOutput
from sparsespec.core.spec import PartLike
from sparsespec.testing.checks.stage import another, make_part, require, rounds, small_geometry

_V = 13
_TEMPERATURE = 0.6
_FAR = 60.0
"""A chi-square statistic that 12 degrees of freedom exceed once in 10**7 times."""


def check_verifier(spec: PartLike | object, *, examples: int = 20, n_rows: int = 3000, seed: int = 0) -> None:
    """Raise `ContractBroken` if the verifier breaks a promise.

    Args:
        spec: A name, a spec or an instance, of which a fresh copy is checked.
        examples: Random batches.
        n_rows: Rows from which distributions are counted.
        seed: Seed of everything.
    """
    part = make_part("verifier", spec)
    name = type(part).__name__
    part.bind(small_geometry(vocab=_V))
    refusal = part.accepts(1.0)
    require(part.accepts(0.0) is None, f"{name} does not serve temperature 0, which every verifier does")
    right = refusal is None or (isinstance(refusal, str) and "temperature" in refusal)
    require(right, f"{name}.accepts must return None, or a sentence about the temperature that would do: {refusal!r}")
    for example in rounds(examples):
        _check_batch(part, random.Random(f"{seed}/{example}"), sampled=refusal is None)
    if refusal is None:
        for drawn in (False, True):
            _check_law(part, n_rows, drawn, torch.Generator().manual_seed(seed))


def _check_batch(part: Any, dice: random.Random, *, sampled: bool) -> None:
    name = type(part).__name__
    rows, logits, q = _draw_rows(dice, sampled)
    before = {f.name: getattr(rows, f.name).clone() for f in dataclasses.fields(rows)}
    verified = part.verify(logits, rows, q)
    same = all(torch.equal(getattr(rows, field), value) for field, value in before.items())
    require(same, f"{name}.verify changed its rows")
    for r in range(len(rows.first)):
        _check_row(name, rows, logits, verified, r)
    again = another("verifier", part)
    again.bind(small_geometry(vocab=_V))
    _require_alike(name, verified, again.verify(logits, rows, q), list(range(len(rows.first))), "when asked again")
    # neighbours and order must not matter
    order = dice.sample(range(len(rows.first)), dice.randint(1, len(rows.first)))
    some = VerifyInputs(**{f.name: getattr(rows, f.name)[order] for f in dataclasses.fields(rows)})
    taken = part.verify(logits, some, q[order])
    _require_alike(name, verified, taken, order, "among other neighbours, or in another order")


def _require_alike(name: str, a: VerifyOutput, b: VerifyOutput, order: list[int], when: str) -> None:
    for j, r in enumerate(order):
        n = int(a.emitted[r])
        same = n == int(b.emitted[j]) and torch.equal(a.tokens[r, :n], b.tokens[j, :n])
        require(same, f"{name} emits something else {when}")


def _check_row(name: str, rows: VerifyInputs, logits: Tensor, verified: VerifyOutput, r: int) -> None:
    m, emitted, accepted = int(rows.count[r]), int(verified.emitted[r]), int(verified.accepted[r])
    if m < 0:
        require(emitted == 0, f"{name} emitted {emitted} tokens for a dead row")
        return
    require(1 <= emitted <= m + 1, f"{name} emitted {emitted} tokens for {m} candidates, not 1 … m + 1")
    require(
        emitted == accepted + 1,
        f"{name} emitted {emitted} tokens where {accepted} candidates were accepted, not one more",
    )
    tokens, candidates = verified.tokens[r, :emitted].tolist(), rows.candidates[r, :m].tolist()
    require(all(0 <= token < _V for token in tokens), f"{name} emitted {tokens}, which are not all in the vocabulary")
    require(
        tokens[:accepted] == candidates[:accepted],
        f"{name} says {accepted} candidates were accepted and emitted others",
    )
    first = int(rows.first[r])
    for j, token in enumerate(tokens):
        row = logits[first + j]
        if rows.temperature[r] == 0 or rows.top_k[r] == 1:
            best = int(row.argmax())
            require(token == best, f"{name} emitted {token} at temperature 0 or top_k=1, the best token is {best}")
            wrongly_rejected = j == accepted < m and candidates[j] == best
            require(not wrongly_rejected, f"{name} rejected the best token at temperature 0")
        elif rows.top_k[r] > 1:
            kept = row >= row.topk(int(rows.top_k[r])).values[-1]
            require(bool(kept[token]), f"{name} emitted {token}, which top_k={int(rows.top_k[r])} masks")


def _draw_rows(dice: random.Random, sampled: bool) -> tuple[VerifyInputs, Tensor, Tensor]:
    """Draw ragged rows, some dead, some with logit rows that nobody owns behind them."""
    generator = torch.Generator().manual_seed(dice.randrange(1 << 31))
    n, width = dice.randint(1, 6), dice.randint(0, 5)
    count = [dice.randint(-1, width) for _ in range(n)]
    size = [max(m, 0) + 1 + dice.randint(0, 2) for m in count]
    first = [sum(size[:r]) for r in range(n)]
    logits = torch.randn(sum(size), _V, generator=generator, dtype=torch.float64) * 2
    candidates = torch.randint(0, _V, (n, width), generator=generator)
    for r in range(n):
        for j in range(max(count[r], 0)):
            # guessing right now and then, or nothing ever stands
            if dice.random() < 0.6:
                candidates[r, j] = logits[first[r] + j].argmax()
    q = torch.randn(n, width, _V, generator=generator, dtype=torch.float64)
    # no filter masks what was drawn
    q.scatter_(2, candidates[..., None], 9.0)
    position = [dice.randint(1, 50) for _ in range(n)]
    temperature = [dice.choice((0.0, 0.7, 1.3)) if sampled else 0.0 for _ in range(n)]
    rows = VerifyInputs(
        first=torch.tensor(first),
        count=torch.tensor(count),
        candidates=candidates,
        sampled=torch.tensor([dice.random() < 0.5 for _ in range(n)]),
        level=torch.tensor([dice.randint(0, 1) for _ in range(n)]),
        position=torch.tensor(position),
        n_committed=torch.tensor(position),
        seed=torch.tensor([dice.getrandbits(62) for _ in range(n)]),
        sample_index=torch.tensor([dice.randint(0, 3) for _ in range(n)]),
        temperature=torch.tensor(temperature, dtype=torch.float64),
        top_k=torch.tensor([dice.choice((0, 0, 1, 3)) for _ in range(n)]),
        top_p=torch.tensor([dice.choice((1.0, 0.9)) for _ in range(n)], dtype=torch.float64),
        min_p=torch.tensor([dice.choice((0.0, 0.1)) for _ in range(n)], dtype=torch.float64),
    )
    return rows, logits, q


def _check_law(part: Any, n: int, drawn: bool, generator: torch.Generator) -> None:
    """Judge the same two candidates' distributions with `n` seeds and count what is emitted at each place."""
    name, m = type(part).__name__, 2
    probs = (torch.randn(m + 1, _V, generator=generator, dtype=torch.float64)).softmax(-1)
    q = (probs[:m] * torch.rand(m, _V, generator=generator, dtype=torch.float64) * 2).clamp(min=1e-3)
    q /= q.sum(-1, keepdim=True)
    if drawn:
        candidates = torch.stack(
            [torch.multinomial(q[j], n, replacement=True, generator=generator) for j in range(m)], 1
        )
    else:
        candidates = probs[:m].argmax(-1).expand(n, m).contiguous()
    ones = torch.ones(n, dtype=torch.int64)
    rows = VerifyInputs(
        first=torch.arange(n) * (m + 1),
        count=m * ones,
        candidates=candidates,
        sampled=ones == int(drawn),
        level=0 * ones,
        position=9 * ones,
        n_committed=9 * ones - (0 if not drawn else 1),
        seed=torch.arange(n) * 7919,
        sample_index=0 * ones,
        temperature=torch.full((n,), _TEMPERATURE, dtype=torch.float64),
        top_k=0 * ones,
        top_p=torch.ones(n, dtype=torch.float64),
        min_p=torch.zeros(n, dtype=torch.float64),
    )
    # both are distributions at this temperature, and at no other
    logits, drafted = (_TEMPERATURE * x.log() for x in (probs, q))
    verified = part.verify(logits.repeat(n, 1), rows, drafted.expand(n, m, _V))
    for j in range(m + 1):
        seen = verified.tokens[verified.emitted > j, j].bincount(minlength=_V).to(torch.float64)
        expected = probs[j] * seen.sum()
        far = float(((seen - expected) ** 2 / expected).sum()) if seen.sum() > 100 else 0.0
        kind = "drawn from q" if drawn else "guessed"
        require(
            far < _FAR, f"{name}: tokens at place {j} behind {kind} have another distribution, chi-square {far:.0f}"
        )
