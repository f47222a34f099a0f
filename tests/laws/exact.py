"""Exact probs of whole rounds: a noise space refined as it is looked at, and a driver of the verifiers' own code.

Every key is one uniform point of [0, 1), known only as an interval of fractions. A choice cuts the interval at the
breakpoints of its weights and goes on in one of the pieces; the others are tried in later waves, from the start. Equal
keys see the equal point, so couplings are honoured, and the probabilities of all leaves add up to one.
A wave is one batch with a row per leaf: the seed says whose noise a row takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from sparsespec.core.batch import VerifyInputs, VerifyOutput
from sparsespec.core.noise import Key

PROMPT = 1
"""Committed tokens before the first round."""

Tokens = tuple[int, ...]
Probs = tuple[int, ...]


class LawBroken(AssertionError):
    """The emitted tokens do not have the target's probs."""


@dataclass
class World:
    """One leaf: the choices made so far, what is known about each key's noise, and what was emitted."""

    tape: Tokens
    read: int = 0
    probability: Fraction = Fraction(1)
    noise: dict[tuple[int, ...], tuple[Fraction, Fraction]] = field(default_factory=dict)
    untried: list[Tokens] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    drafts: list[int] = field(default_factory=list)
    probs: list[list[float]] = field(default_factory=list)
    scar: Tokens = ()  # drafts that the last round rejected or never judged
    drafting: bool = False
    accepted: int = 0  # candidates the full level accepted, and all it was given
    given: int = 0

    def choose(self, weights: list[int], key: tuple[int, ...]) -> int:
        """Return an index by the inverse of the weights' distribution at this key's point."""
        low, high = self.noise.get(key, (Fraction(0), Fraction(1)))
        total, below = sum(weights), 0
        assert total > 0, "nothing to choose from"
        pieces = []
        for i, weight in enumerate(weights):
            left = max(low, Fraction(below, total))
            below += weight
            right = min(high, Fraction(below, total))
            if left < right:
                pieces.append((i, left, right))
        i, left, right = pieces[self._branch(len(pieces))]
        self.probability *= (right - left) / (high - low)
        self.noise[key] = (left, right)
        return i

    def _branch(self, n: int) -> int:
        if n == 1:
            return 0
        if self.read == len(self.tape):
            self.untried += [(*self.tape, i) for i in range(1, n)]
            self.tape += (0,)
        self.read += 1
        return self.tape[self.read - 1]


def leaves(run: Callable[[list[World]], None]) -> list[World]:
    """Return every leaf of `run`, which takes a wave of fresh worlds through all its choices."""
    wave, done = [World(())], []
    while wave:
        run(wave)
        done += wave
        wave = [World(tape) for world in wave for tape in world.untried]
    assert sum(world.probability for world in done) == 1
    return done


@dataclass(frozen=True)
class Models:
    """Integer probs that depend on all tokens before, and guesses likewise; all probs add up to `mass`."""

    target: tuple[Probs, ...]
    draft: tuple[Probs, ...]
    guesses: Tokens
    mass: int

    def target_probs(self, prefix: Tokens) -> Probs:
        return self.target[_hash(prefix) % len(self.target)]

    def draft_probs(self, prefix: Tokens, scar: Tokens) -> Probs:
        # A selector may have seen rejected drafts, so what is drafted next may depend on them.
        return self.draft[(_hash(prefix) + 2 * _hash(scar)) % len(self.draft)]

    def guess(self, prefix: Tokens) -> int:
        return self.guesses[_hash(prefix) % len(self.guesses)]


def _hash(tokens: Tokens) -> int:
    return sum((3 * i + 1) * (token + 1) for i, token in enumerate(tokens))


@dataclass
class Rounds:
    """Decodes `limit` tokens in rounds, as an engine would; the last four fields are where a mutant puts its error."""

    models: Models
    make: Callable[[], Any]  # a verifier
    limit: int = 3
    draft: int = 2
    guess: int = 0
    stop: Callable[[Probs], bool] = lambda probs: False  # looks at a probs before drawing from it
    discard: Callable[[Probs, int], bool] = lambda probs, token: False  # looks at a draft after drawing it
    remember: Callable[[Tensor, int, bool], Tensor] = lambda probs, guess, accepted: probs
    worlds: list[World] = field(default_factory=list)

    def __call__(self, worlds: list[World]) -> None:
        """Decode in every world."""
        self.worlds = worlds
        self.verifier = self.bring()
        while running := [world for world in worlds if len(world.tokens) < self.limit]:
            for world in running:
                world.drafting = self.room(world) > 0
                world.drafts, world.probs = [], []
            while drafting := [world for world in running if self.may_draft(world)]:
                self.draft_step(drafting)
            self.verify_step(running)

    def bring(self) -> Any:
        """Return the verifier, its probs and noise replaced by exact ones."""
        verifier = self.make()
        if "draft_probs" in verifier.needs:
            verifier.mass = float(self.models.mass)
            verifier.probs = lambda logits, *filters: logits
            verifier.choose = self.choose
        else:
            verifier.sample = self.sample
        return verifier

    def choose(self, weights: Tensor, key: Key) -> Tensor:
        rows = zip(weights.long().tolist(), *(part.tolist() for part in key), strict=True)
        picked = [self.worlds[world].choose(row, tuple(rest)) for row, world, *rest in rows]
        return torch.tensor(picked, dtype=torch.int64)

    def sample(self, logits: Tensor, at: Any, key: Key) -> Tensor:
        draws = torch.zeros(len(logits), dtype=torch.int64)
        draws[at.alive] = self.choose(logits[at.alive], Key(*(part[at.alive] for part in key)))
        return draws

    def room(self, world: World) -> int:
        return min(self.draft, self.limit - len(world.tokens) - 1)

    def may_draft(self, world: World) -> bool:
        if not world.drafting or len(world.drafts) >= self.room(world):
            return False
        return not self.stop(self.models.draft_probs((*world.tokens, *world.drafts), world.scar))

    def guessed(self, world: World, room: int) -> list[int]:
        known = [*world.tokens, *world.drafts]
        for _ in range(min(self.guess, room)):
            known.append(self.models.guess(tuple(known)))
        return known[len(world.tokens) + len(world.drafts) :]

    def draft_step(self, worlds: list[World]) -> None:
        candidates = [self.guessed(w, self.room(w) - len(w.drafts) - 1) for w in worlds]
        known = [(*w.tokens, *w.drafts) for w in worlds]
        probs = [
            [self.models.draft_probs((*k, *c[:j]), w.scar) for j in range(len(c) + 1)]
            for w, k, c in zip(worlds, known, candidates, strict=True)
        ]
        rows = self.rows(worlds, known, candidates, level=1, sampled=False)
        logits = _flat(probs)
        verified = self.verifier.verify(logits, rows, None)
        for i, world in enumerate(worlds):
            tokens, accepted = _emitted(verified, i)
            for j, token in enumerate(tokens):
                if self.discard(probs[i][j], token):
                    world.drafting = False
                    break
                world.drafts.append(token)
                guess = candidates[i][j] if j < len(candidates[i]) else -1
                world.probs.append(self.remember(logits[rows.first[i] + j], guess, j < accepted).tolist())

    def verify_step(self, worlds: list[World]) -> None:
        sampled = self.draft > 0
        candidates = [w.drafts if sampled else self.guessed(w, self.limit - len(w.tokens) - 1) for w in worlds]
        known = [tuple(w.tokens) for w in worlds]
        probs = [
            [self.models.target_probs((*k, *c[:j])) for j in range(len(c) + 1)]
            for k, c in zip(known, candidates, strict=True)
        ]
        rows = self.rows(worlds, known, candidates, level=0, sampled=sampled)
        vocab = len(self.models.target[0])
        q = torch.zeros(len(worlds), rows.candidates.shape[1], vocab, dtype=torch.float64)
        for i, world in enumerate(worlds):
            for j, p in enumerate(world.probs):
                q[i, j] = torch.tensor(p, dtype=torch.float64)
        verified = self.verifier.verify(_flat(probs), rows, q if sampled else None)
        for i, world in enumerate(worlds):
            tokens, accepted = _emitted(verified, i)
            world.tokens += tokens
            world.scar = tuple(world.drafts[accepted:])
            world.accepted += accepted
            world.given += len(candidates[i])

    def rows(
        self,
        worlds: list[World],
        known: list[Tokens],
        candidates: list[list[int]],
        level: int,
        sampled: bool,
    ) -> VerifyInputs:
        index = {id(world): i for i, world in enumerate(self.worlds)}
        count = torch.tensor([len(c) for c in candidates])
        width = int(count.max())
        padded = [c + [0] * (width - len(c)) for c in candidates]
        like, real = torch.zeros_like(count), torch.zeros(len(count), dtype=torch.float64)
        return VerifyInputs(
            first=(count + 1).cumsum(0) - count - 1,
            count=count,
            candidates=torch.tensor(padded).view(len(padded), width).long(),
            sampled=torch.full_like(count, sampled, dtype=torch.bool),
            level=like + level,
            position=torch.tensor([PROMPT + len(k) for k in known]),
            n_committed=torch.tensor([PROMPT + len(w.tokens) for w in worlds]),
            seed=torch.tensor([index[id(w)] for w in worlds]),
            sample_index=like,
            temperature=real + 1,
            top_k=like,
            top_p=real + 1,
            min_p=real,
        )


def check_probs(rounds: Rounds) -> list[World]:
    """Return all leaves; raise `LawBroken` unless their tokens have the target's joint probs, as fractions."""
    done, models = leaves(rounds), rounds.models
    joint: dict[Tokens, Fraction] = {}
    for world in done:
        tokens = tuple(world.tokens)
        joint[tokens] = joint.get(tokens, Fraction(0)) + world.probability
    for tokens, probability in joint.items():
        expected = Fraction(1)
        for i, token in enumerate(tokens):
            expected *= Fraction(models.target_probs(tokens[:i])[token], models.mass)
        if len(tokens) != rounds.limit or probability != expected:
            raise LawBroken(f"{tokens} is emitted with probability {probability}, not {expected}")
    return done


def _flat(probs: list[list[Probs]]) -> Tensor:
    return torch.tensor([probs for row in probs for probs in row], dtype=torch.float64)


def _emitted(verified: VerifyOutput, i: int) -> tuple[list[int], int]:
    return verified.tokens[i, : verified.emitted[i]].tolist(), int(verified.accepted[i])
