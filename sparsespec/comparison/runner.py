"""Runs a comparison: loads each model, decodes with each variant, and yields rows as they come."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import torch

from sparsespec.comparison.acceptance import AcceptanceCounter
from sparsespec.comparison.models import ComparedModel, Model, compared_models
from sparsespec.comparison.prompts import Prompts, prompt_sets
from sparsespec.comparison.row import ComparisonRow, Run, Setting, row_of
from sparsespec.comparison.variants import Compositions, Variant, variants
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
"""Tokens decoded before the clock starts, so that no figure includes compiling kernels and recording graphs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What is to be compared; the fields are the arguments of `compare`."""

    models: Model | Sequence[Model]
    compositions: Compositions | None
    prompts: Prompts | Mapping[str, Prompts] | None
    n: int | None
    max_tokens: int
    temperatures: Sequence[float]
    seeds: Sequence[int]
    max_num_seqs: Sequence[int]
    budgets: Sequence[float]
    min_budgets: Sequence[int]
    ignore_eos: bool
    chat: bool
    dtype: str
    exact: bool
    device: str | None
    tokenizer: Tokenizer | None = None

    def rows(self, progress: Progress | None = None) -> Iterator[ComparisonRow]:
        """Yield the rows of one composition after another; raises `SparseSpecError` before the first row, or never."""
        say = progress or _silent
        found = variants(self.compositions, budgets=self.budgets, min_budgets=self.min_budgets)
        samplings, sizes = self._samplings(), self._sizes()
        torch_dtype(self.dtype)
        place = None if self.device is None else place_of(self.device)
        sets = prompt_sets(self.prompts, self.n)
        models = list(
            compared_models(
                self.models, sets, tokenizer=self.tokenizer, max_tokens=self.max_tokens, chat=self.chat, progress=say
            )
        )
        total, done = len(models) * len(sizes) * len(found) * len(sets) * len(samplings), 0
        for compared in models:
            model = compared.load(self.dtype, place, say)
            say(f"loading {compared.name}", 1, 1)
            if self.exact:
                model.exact()  # raises where the model or the device cannot be exact
            for max_num_seqs in sizes:
                dense: dict[Setting, Run] = {}
                for variant in found:
                    runner = _VariantRunner(
                        compared, model, variant, max_num_seqs, samplings, self.max_tokens, self.exact
                    )
                    for setting, run in runner.runs(say):
                        done += 1
                        say("rows", done, total)
                        yield row_of(setting, variant, run, dense.setdefault(setting, run))

    def _samplings(self) -> list[SamplingParams]:
        """Return how prompts are sampled: once greedily, and once for each temperature above 0 and seed."""
        for name in ("temperatures", "seeds"):
            if not getattr(self, name):
                raise BadOption(f"there are no {name}; give one or more, such as 0")
        pairs = [(t, None if t == 0 else seed) for t, seed in product(self.temperatures, self.seeds)]
        make = partial(SamplingParams, max_tokens=self.max_tokens, ignore_eos=self.ignore_eos)
        return [make(temperature=t, seed=seed) for t, seed in dict.fromkeys(pairs)]

    def _sizes(self) -> Sequence[int]:
        for size in self.max_num_seqs:
            if type(size) is not int or size < 1:
                raise BadOption(f"max_num_seqs is a whole number of 1 or more, got {show(size)}")
        if not self.max_num_seqs:
            raise BadOption("there is no max_num_seqs; give one or more, such as 8")
        return list(dict.fromkeys(self.max_num_seqs))


@dataclass(frozen=True, slots=True)
class _VariantRunner:
    """Decodes all sets of prompts with one variant, in one engine, in each way to sample."""

    compared: ComparedModel
    model: Transformer
    variant: Variant
    max_num_seqs: int
    samplings: Sequence[SamplingParams]
    max_tokens: int
    exact: bool

    def runs(self, progress: Progress) -> Iterator[tuple[Setting, Run]]:
        """Yield the run of each setting; once the engine has failed, all settings that are left have its error."""
        left = list(product(self.compared.sets, self.samplings))
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
            # memory that torch keeps would count as taken when the next engine looks for room
            torch.cuda.empty_cache()

    def _open(self) -> LLM:
        options = {"max_num_seqs": self.max_num_seqs, "max_model_len": self.compared.longest + self.max_tokens}
        if self.exact:
            options["exact"] = True
        changes = {**self.variant.changes, **options}
        return LLM(self.model, self.variant.base, tokenizer=self.compared.tokenizer, **changes)

    def _setting(self, prompts: str, sampling: SamplingParams) -> Setting:
        return Setting(
            self.compared.name,
            prompts,
            len(self.compared.sets[prompts]),
            self.max_tokens,
            sampling.temperature,
            sampling.seed,
            self.max_num_seqs,
        )

    def _decode(
        self, llm: LLM, name: str, sampling: SamplingParams, progress: Progress, *, most: int | None = None
    ) -> Run:
        """Decode a set of prompts; or, to warm up, at most `most` tokens of its first prompt."""
        prompts = self.compared.sets[name] if most is None else self.compared.sets[name][:1]
        max_tokens = min(sampling.max_tokens, most or sampling.max_tokens)
        params = [_sampling_of(sampling, i, max_tokens) for i in range(len(prompts))]
        acceptance, n_tokens = AcceptanceCounter(), 0

        def watch(result: StepResult) -> None:
            nonlocal n_tokens
            acceptance(result)
            n_tokens += result.info.n_output
            progress("tokens", n_tokens, len(prompts) * max_tokens)

        start = time.perf_counter()
        outputs = llm.generate(prompts, params, use_tqdm=False, on_step=watch)
        return _run(llm, outputs, time.perf_counter() - start, acceptance)


def _sampling_of(sampling: SamplingParams, i: int, max_tokens: int) -> SamplingParams:
    """Return how prompt `i` is sampled: with a seed of its own."""
    seed = None if sampling.seed is None else derive_seed(sampling.seed, i)
    return replace(sampling, seed=seed, max_tokens=max_tokens)


def _run(llm: LLM, outputs: Sequence[RequestOutput], seconds: float, acceptance: AcceptanceCounter) -> Run:
    broken = next((f"prompt {i}: {output.error}" for i, output in enumerate(outputs) if output.error), None)
    if broken:
        return Run(spec=llm.spec, error=broken)
    g = llm.engine.geometry
    return Run(
        tokens=tuple(output.outputs[0].token_ids for output in outputs),
        seconds=seconds,
        metrics=sum((output.metrics for output in outputs), SpecMetrics()),
        by_position=acceptance.by_position,
        by_context=acceptance.by_context,
        kv_token_bytes=2 * g.n_layers * g.n_kv_heads * g.head_dim * llm.model.dtype.itemsize,
        spec=llm.spec,
    )


def _silent(label: str, done: int, total: int) -> None:
    """Show nothing."""
