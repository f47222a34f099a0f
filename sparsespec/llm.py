"""`LLM`: prompts in, outputs out, with a tokenizer and an engine inside.

Thin on purpose: it parses, calls the engine and puts samples together.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch

from sparsespec.core.errors import BadOption, BadRequest, ContractBroken, SparseSpecError, show
from sparsespec.core.params import SamplingParams
from sparsespec.core.spec import EngineSpec
from sparsespec.engine.engine import Engine
from sparsespec.engine.outputs import Completion, StepResult, TokenEvent
from sparsespec.metrics.speculation import SpecMetrics
from sparsespec.models.catalog import TINY, Progress, load, resolve
from sparsespec.models.incremental import IncrementalDecoder
from sparsespec.models.tokenizer import Tokenizer
from sparsespec.models.transformer import Transformer

_log = logging.getLogger(__name__)

Prompt = str | Sequence[int]
Message = Mapping[str, str]

MAX_IDLE_STEPS = 10_000
"""Steps in a row in which nobody is placed and nothing is heard, after which a policy must be broken."""


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """What became of one prompt.

    Attributes:
        prompt: As it was given.
        outputs: One completion per sample, in the order of their indices; empty if the request was refused.
        error: Why it was refused or broken off, in one sentence; None if all is well.
    """

    prompt: Prompt | Sequence[Message]
    outputs: tuple[Completion, ...]
    error: str | None = None

    @property
    def metrics(self) -> SpecMetrics:
        """What speculation did, all samples together."""
        return sum((c.metrics for c in self.outputs), SpecMetrics())


class LLM:
    """A model, a tokenizer and an engine.

    Args:
        model: Local folder, hub id, alias such as "smollm2", or a loaded model.
        preset: Name of a preset, or a whole spec.
        dtype: Floating-point type of weights and KV.
        device: "cpu", or a CUDA device such as "cuda" or "cuda:1"; None leaves a loaded model where it is.
        tokenizer: Tokenizer for a model that was passed in loaded; None works with token prompts only.
        cache: Folder for downloaded models.
        progress: Called as `progress(label, done, total)` while something is fetched or converted.
        **engine: What differs from the preset: parts by shelf, `loop`, and the engine's options.
    """

    def __init__(
        self,
        model: str | Path | Transformer,
        preset: str | EngineSpec = "sparsespec",
        *,
        dtype: str = "float32",
        device: str | None = None,
        tokenizer: Tokenizer | None = None,
        cache: Path | None = None,
        progress: Progress | None = None,
        **engine: Any,
    ) -> None:
        where = None if device is None else place_of(device)
        if not isinstance(model, Transformer):
            model, own = load_model(model, dtype, cache=cache, progress=progress)
            tokenizer = tokenizer or own
        if where is not None and where != model.device:
            model = model.to(model.dtype, where)
        if tokenizer is not None and not hasattr(tokenizer, "encode_chat"):
            raise BadOption(f"tokenizer must be a Tokenizer(folder) or None, got {show(tokenizer)}")
        self.model, self.tokenizer = model, tokenizer
        decoder = partial(IncrementalDecoder, tokenizer) if tokenizer else None
        eos_ids = {*model.config.eos_ids, *(tokenizer.eos_ids if tokenizer else ())}
        self.engine = Engine.compose(model, preset, decoder=decoder, eos_ids=eos_ids, **engine)
        self.engine.warm_up(lambda done, total: progress("recording graphs", done, total) if progress else None)
        _log.info("memory:\n%s", self.engine.ledger)

    @property
    def spec(self) -> EngineSpec:
        """The engine's composition, as it can be stored and made again."""
        return self.engine.spec

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        on_step: Callable[[StepResult], object] | None = None,
    ) -> list[RequestOutput]:
        """Decode prompts (text, or token ids) and return their outputs in the order given.

        A prompt that cannot be served costs no other: its output says why. A lone bad prompt raises. `on_step` is told
        of every step of the engine, for progress and traces.
        """
        single = _is_prompt(prompts)
        many: list[Prompt] = [prompts] if single else list(prompts)  # type: ignore[list-item]
        return self._run(many, [self._encode for _ in many], params, single, on_step)

    def chat(
        self,
        conversations: Sequence[Message] | Sequence[Sequence[Message]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """Decode the next turn of conversations, rendered by the model's own chat template."""
        if not _is_list(conversations):
            raise BadRequest(
                "a conversation is a list of messages like {'role': 'user', 'content': 'a text'}, "
                f"got {show(conversations)}"
            )
        single = _is_chat(conversations)
        many: list[Any] = [conversations] if single else list(conversations)
        return self._run(many, [self._encode_chat for _ in many], params, single)

    def stream(
        self,
        prompt: Prompt | Sequence[Message],
        params: SamplingParams | None = None,
        *,
        on_step: Callable[[StepResult], object] | None = None,
    ) -> Iterator[TokenEvent]:
        """Decode one prompt or conversation and yield its events as they come; abandoning the iterator aborts.

        Args:
            prompt: Text, token ids, or messages for the chat template.
            params: Wishes; None takes the defaults.
            on_step: Told of every step of the engine before its events, for progress and traces.
        """
        asked: Any = prompt
        encoded = self._encode_chat(asked) if _is_chat(prompt) else self._encode(asked)
        request = self.engine.add(encoded, params)
        left = (params or SamplingParams()).n
        try:
            for event in self._events(on_step):
                if event.request_id == request:
                    left -= event.completion is not None
                    yield event
        finally:
            if left:
                self.engine.abort(request)

    def close(self) -> None:
        """Release the engine."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(
        self,
        prompts: Sequence[Any],
        encoders: Sequence[Any],
        params: SamplingParams | Sequence[SamplingParams] | None,
        single: bool,
        on_step: Callable[[StepResult], object] | None = None,
    ) -> list[RequestOutput]:
        wanted = _params_of(params, len(prompts))
        refused: dict[int, str] = {}
        places: dict[int, int] = {}
        for i, (prompt, encode, p) in enumerate(zip(prompts, encoders, wanted, strict=True)):
            try:
                places[self.engine.add(encode(prompt), p)] = i
            except SparseSpecError as error:
                if single:
                    raise
                refused[i] = str(error)
        done: list[list[Completion]] = [[] for _ in prompts]
        left = sum(wanted[i].n for i in places.values())
        try:
            for event in self._events(on_step) if left else ():
                if event.completion and event.request_id in places:
                    done[places[event.request_id]].append(event.completion)
                    left -= 1
                    if not left:
                        break
        finally:
            if left:
                for request in places:
                    self.engine.abort(request)
        return [_output(prompt, done[i], refused.get(i)) for i, prompt in enumerate(prompts)]

    def _events(self, on_step: Callable[[StepResult], object] | None = None) -> Iterator[TokenEvent]:
        idle = 0
        while self.engine.has_work:
            result = self.engine.step()
            if on_step:
                on_step(result)
            yield from result.events
            idle = 0 if result.info.placed.rows or result.info.heard else idle + 1
            if idle > MAX_IDLE_STEPS:
                raise ContractBroken("nobody was placed for 10000 steps although requests wait")

    def _encode(self, prompt: Prompt) -> Sequence[int]:
        if not isinstance(prompt, str):
            if not _is_list(prompt):
                raise BadRequest(f"a prompt is text or a list of token ids, got {show(prompt)}")
            return prompt
        if self.tokenizer is None:
            raise BadRequest("this model came without a tokenizer; give the prompt as token ids")
        return self.tokenizer.encode(prompt)

    def _encode_chat(self, messages: Sequence[Message]) -> Sequence[int]:
        if self.tokenizer is None:
            raise BadRequest("this model came without a tokenizer; give a prompt of token ids")
        if not _is_list(messages) or not all(isinstance(message, Mapping) for message in messages):
            raise BadRequest(f"a conversation is a list of messages with 'role' and 'content', got {show(messages)}")
        return self.tokenizer.encode_chat(messages)


def load_model(
    name: str | Path, dtype: str = "float32", *, cache: Path | None = None, progress: Progress | None = None
) -> tuple[Transformer, Tokenizer | None]:
    """Return a model and its tokenizer, fetched if need be; `tiny` has no tokenizer."""
    if str(name) == TINY:
        return load(name, dtype), None
    folder = resolve(name, cache=cache, progress=progress)
    if progress:
        progress(f"loading {name}", 0, 1)
    return load(folder, dtype, progress=progress), Tokenizer(folder)


def place_of(device: str) -> torch.device:
    """Return a device that exists; raises `BadOption` with what would work."""
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError):
        place = None
    if place is None or place.type not in ("cpu", "cuda"):
        raise BadOption(f"device is 'cpu', 'cuda' or one of several such as 'cuda:1', got {show(device)}")
    n = torch.cuda.device_count()
    if place.type == "cuda" and (place.index or 0) >= n:
        raise BadOption(f"device {show(device)} is not there: this machine has {n} CUDA devices; 'cpu' works anywhere")
    # as tensors say it, with its number: a model that is there already is not copied
    return torch.empty(0, device=place).device


def _is_list(value: object) -> bool:
    """Say whether a value is a list in the wide sense: a sequence, an array or a tensor, and no text."""
    if isinstance(value, str | bytes | Mapping):
        return False
    return isinstance(value, Sequence) or getattr(value, "ndim", 0) > 0


def _is_chat(value: Any) -> bool:
    return _is_list(value) and len(value) > 0 and isinstance(value[0], Mapping)


def _is_prompt(prompts: Any) -> bool:
    """Say whether these are one prompt: a text, or a list whose first item is a number."""
    if isinstance(prompts, str):
        return True
    if not _is_list(prompts):
        raise BadRequest(f"prompts are a text, a list of token ids, or a list of those, got {show(prompts)}")
    if not len(prompts) or _is_list(prompts[0]):
        return False
    return isinstance(prompts[0], float) or hasattr(prompts[0], "__index__")


def _params_of(params: SamplingParams | Sequence[SamplingParams] | None, n: int) -> list[SamplingParams]:
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * n
    right = isinstance(params, Sequence) and all(isinstance(each, SamplingParams) for each in params)
    if not right or len(params) != n:
        got = len(params) if right else show(params)
        raise BadRequest(f"give one SamplingParams, or one for each of the {n} prompts, got {got}")
    return list(params)


def _output(prompt: Any, done: list[Completion], refused: str | None) -> RequestOutput:
    done.sort(key=lambda c: c.sample)
    error = refused or next((c.error for c in done if c.error), None)
    return RequestOutput(prompt, tuple(done), error)
