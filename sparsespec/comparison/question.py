"""A comparison as it is asked for, and its rows as they come."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch

from sparsespec.comparison.entrants import Entrant, Model, entrants
from sparsespec.comparison.prompts import Prompts, prompt_sets
from sparsespec.comparison.rounds import Rounds
from sparsespec.comparison.row import Row, Run, Setting, row_of
from sparsespec.comparison.subjects import Compositions, Subject, subjects
from sparsespec.core.errors import BadOption, SparseSpecError, brief, show
from sparsespec.core.params import SamplingParams
from sparsespec.core.seeds import derive_seed
from sparsespec.engine.outputs import StepResult
from sparsespec.llm import LLM, RequestOutput, place_of
from sparsespec.metrics.speculation import SpecMetrics
from sparsespec.models.catalog import Progress
from sparsespec.models.parameters import torch_dtype
from sparsespec.models.tokenizer import Tokenizer
from sparsespec.models.transformer import Transformer

WARM_UP = 4
"""Tokens decoded before the clock starts: what is compiled or recorded when it is first met is in no figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is to be compared; the fields are the arguments of `compare`."""

    models: Model | Sequence[Model]
    compositions: Compositions | None
    prompts: Prompts | Mapping[str, Prompts] | None
    n: int | None
    max_tokens: int
    temperatures: Sequence[float]
    seeds: Sequence[int]
    batches: Sequence[int]
    budgets: Sequence[float]
    min_budgets: Sequence[int]
    ignore_eos: bool
    chat: bool
    dtype: str
    exact: bool
    device: str | None
    tokenizer: Tokenizer | None = None

    def rows(self, progress: Progress | None = None) -> Iterator[Row]:
        """Yield the rows of one composition after another; raises `SparseSpecError` before the first if at all."""
        say = progress or _silent
        found = subjects(self.compositions, budgets=self.budgets, min_budgets=self.min_budgets)
        laws, batches = self._laws(), self._batches()
        torch_dtype(self.dtype)
        place = None if self.device is None else place_of(self.device)
        sets = prompt_sets(self.prompts, self.n)
        models = list(
            entrants(
                self.models, sets, tokenizer=self.tokenizer, max_tokens=self.max_tokens, chat=self.chat, progress=say
            )
        )
        total, done = len(models) * len(batches) * len(found) * len(sets) * len(laws), 0
        for entrant in models:
            model = entrant.load(self.dtype, place, say)
            say(f"loading {entrant.name}", 1, 1)
            if self.exact:
                model.exact()  # refuses what it cannot be here
            for batch in batches:
                dense: dict[Setting, Run] = {}
                for subject in found:
                    course = _Course(entrant, model, subject, batch, laws, self.max_tokens, self.exact)
                    for setting, run in course.runs(say):
                        done += 1
                        say("rows", done, total)
                        yield row_of(setting, subject, run, dense.setdefault(setting, run))

    def _laws(self) -> list[SamplingParams]:
        """Return how prompts are sampled, once for greedy decoding and once for each temperature and seed."""
        for name in ("temperatures", "seeds"):
            if not getattr(self, name):
                raise BadOption(f"there are no {name}; give one or more, such as 0")
        pairs = [(t, None if t == 0 else seed) for t, seed in product(self.temperatures, self.seeds)]
        make = partial(SamplingParams, max_tokens=self.max_tokens, ignore_eos=self.ignore_eos)
        return [make(temperature=t, seed=seed) for t, seed in dict.fromkeys(pairs)]

    def _batches(self) -> Sequence[int]:
        for batch in self.batches:
            if type(batch) is not int or batch < 1:
                raise BadOption(f"batch is a number of requests, 1 or more, got {show(batch)}")
        if not self.batches:
            raise BadOption("there is no batch; give one or more, such as 8")
        return list(dict.fromkeys(self.batches))


@dataclass(frozen=True, slots=True)
class _Course:
    """One composition in one engine, through all sets of prompts and ways to sample."""

    entrant: Entrant
    model: Transformer
    subject: Subject
    batch: int
    laws: Sequence[SamplingParams]
    max_tokens: int
    exact: bool

    def runs(self, progress: Progress) -> Iterator[tuple[Setting, Run]]:
        """Yield what came of each setting; after trouble with the engine, that trouble for all that are left."""
        left = list(product(self.entrant.sets, self.laws))
        try:
            with self._open() as llm:
                self._decode(llm, *left[0], progress, most=WARM_UP)
                while left:
                    run = self._decode(llm, *left[0], progress)
                    yield self._setting(*left.pop(0)), run
        except Exception as error:  # a part may raise whatever its author chose
            why = str(error) if isinstance(error, SparseSpecError) else f"{type(error).__name__}: {brief(error)}"
            yield from ((self._setting(*one), Run(error=why)) for one in left)
        gc.collect()
        if self.model.device.type == "cuda":
            # what torch keeps for later looks taken to the next engine
            torch.cuda.empty_cache()

    def _open(self) -> LLM:
        given = {"max_batch": self.batch, "max_context": self.entrant.longest + self.max_tokens}
        if self.exact:
            given["exact"] = True
        return LLM(self.model, self.subject.base, tokenizer=self.entrant.tokenizer, **{**self.subject.changes, **given})

    def _setting(self, prompts: str, law: SamplingParams) -> Setting:
        n = len(self.entrant.sets[prompts])
        return Setting(self.entrant.name, prompts, n, self.max_tokens, law.temperature, law.seed, self.batch)

    def _decode(self, llm: LLM, name: str, law: SamplingParams, progress: Progress, *, most: int | None = None) -> Run:
        """Decode a set of prompts; or, to warm up, the beginning of the first."""
        prompts = self.entrant.sets[name] if most is None else self.entrant.sets[name][:1]
        tokens = min(law.max_tokens, most or law.max_tokens)
        params = [_params(law, i, tokens) for i in range(len(prompts))]
        rounds, n_tokens = Rounds(), 0

        def watch(result: StepResult) -> None:
            nonlocal n_tokens
            rounds(result)
            n_tokens += sum(len(event.token_ids) for event in result.events)
            progress("tokens", n_tokens, len(prompts) * tokens)

        start = time.perf_counter()
        outputs = llm.generate(prompts, params, on_step=watch)
        return _run(llm, outputs, time.perf_counter() - start, rounds)


def _params(law: SamplingParams, i: int, max_tokens: int) -> SamplingParams:
    """Return how prompt `i` is sampled: with noise of its own."""
    seed = None if law.seed is None else derive_seed(law.seed, i)
    return SamplingParams(temperature=law.temperature, seed=seed, max_tokens=max_tokens, ignore_eos=law.ignore_eos)


def _run(llm: LLM, outputs: Sequence[RequestOutput], seconds: float, rounds: Rounds) -> Run:
    broken = next((f"prompt {i}: {output.error}" for i, output in enumerate(outputs) if output.error), None)
    if broken:
        return Run(spec=llm.spec, error=broken)
    g = llm.engine.geometry
    return Run(
        tokens=tuple(output.outputs[0].token_ids for output in outputs),
        seconds=seconds,
        metrics=sum((output.metrics for output in outputs), SpecMetrics()),
        by_position=rounds.by_position,
        by_context=rounds.by_context,
        kv_token_bytes=2 * g.n_layers * g.n_kv_heads * g.head_dim * llm.model.dtype.itemsize,
        spec=llm.spec,
    )


def _silent(label: str, done: int, total: int) -> None:
    """Show nothing."""
