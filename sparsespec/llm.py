"""`LLM`: prompts in, outputs out, with a tokenizer and an engine inside.

Thin on purpose: it encodes prompts, steps the engine and puts samples together.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from tqdm import tqdm

from sparsespec.core.errors import BadOption, BadRequest, ContractBroken, SparseSpecError, show
from sparsespec.core.params import SamplingParams
from sparsespec.core.spec import EngineSpec
from sparsespec.core.vllm_names import unknown_option
from sparsespec.engine.compose import compose
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
StepWatcher = Callable[[StepResult], object]

MAX_IDLE_STEPS = 10_000
"""Steps in a row in which no request is placed and no result collected, after which a policy must be broken."""


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """The outputs of one prompt.

    Attributes:
        prompt: As it was given.
        outputs: One completion per sample, by `sample_index`; empty if the request was refused.
        error: Why it was refused or broken off, in one sentence; None if it was not.
    """

    prompt: Prompt | Sequence[Message]
    outputs: tuple[Completion, ...]
    error: str | None = None

    @property
    def metrics(self) -> SpecMetrics:
        """What speculation did in all samples together."""
        return sum((c.metrics for c in self.outputs), SpecMetrics())


class LLM:
    """A model, a tokenizer and an engine.

    Args:
        model: Local folder, hub id, alias such as "smollm2", or a loaded model.
        preset: Name of a preset, or a whole spec; what vLLM's `speculative_config` says.
        dtype: Floating-point type of weights and KV.
        device: "cpu", or a CUDA device such as "cuda" or "cuda:1"; None leaves a loaded model where it is.
        tokenizer: Tokenizer for a model that was passed in loaded; None works with token prompts only.
        cache: Folder for downloaded models.
        progress: Called as `progress(label, done, total)` while something is fetched or converted.
        **engine: What differs from the preset: parts by shelf, `loop`, and the engine's options, such as
            `max_num_seqs`, `max_model_len`, `block_size` and `num_gpu_blocks`.

    Raises:
        SparseSpecError: For whatever does not exist or cannot work. An argument of vLLM's `LLM` that has another name
            here, or is not supported, is answered with a sentence that says so.
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
        place = None if device is None else place_of(device)
        if not isinstance(model, Transformer):
            compose(preset, engine)  # raises what is wrong with the arguments before a model is fetched
            model, own = load_model(model, dtype, cache=cache, progress=progress)
            tokenizer = tokenizer or own
        if place is not None and place != model.device:
            model = model.to(model.dtype, place)
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

    @property
    def default_sampling_params(self) -> SamplingParams:
        """How requests without `sampling_params` are sampled: as the model's generation_config.json says.

        It may set temperature, top_p, top_k and min_p, or be greedy (`do_sample` false); anything else is as in
        `SamplingParams()`. A `SamplingParams` that is given is taken as it is.
        """
        return self.model.config.default_sampling_params

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        on_step: StepWatcher | None = None,
        **unknown: Any,
    ) -> list[RequestOutput]:
        """Decode prompts and return their outputs, in the order of the prompts.

        A prompt that cannot be served costs no other: its output says why. A single bad prompt raises.

        Args:
            prompts: A text or a list of token ids, or several of them.
            sampling_params: For all prompts, or one for each; None takes `default_sampling_params`.
            use_tqdm: Show a progress bar over the requests, where stderr is a terminal.
            on_step: Called with the result of every step of the engine, for progress and traces.
            **unknown: Refused; a keyword of vLLM is answered with a sentence.
        """
        _refuse(unknown, "keyword of generate", ("prompts", "sampling_params", "use_tqdm", "on_step"))
        single = _is_prompt(prompts)
        many: list[Any] = [prompts] if single else list(prompts)
        return self._run(many, self._encode, sampling_params, single, use_tqdm, on_step)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        **unknown: Any,
    ) -> list[RequestOutput]:
        """Decode the next turn of one or several conversations, rendered by the model's own chat template.

        Args:
            messages: A list of messages with `role` and `content`, or several such lists.
            sampling_params: For all conversations, or one for each; None takes `default_sampling_params`.
            use_tqdm: Show a progress bar over the requests, where stderr is a terminal.
            **unknown: Refused; a keyword of vLLM is answered with a sentence.
        """
        _refuse(unknown, "keyword of chat", ("messages", "sampling_params", "use_tqdm"))
        if not _is_list(messages):
            raise BadRequest(
                "a conversation is a list of messages like {'role': 'user', 'content': 'a text'}, "
                f"got {show(messages)}"
            )
        single = _is_chat(messages)
        many: list[Any] = [messages] if single else list(messages)
        return self._run(many, self._encode_chat, sampling_params, single, use_tqdm)

    def stream(
        self,
        prompt: Prompt | Sequence[Message],
        sampling_params: SamplingParams | None = None,
        *,
        on_step: StepWatcher | None = None,
        **unknown: Any,
    ) -> Iterator[TokenEvent]:
        """Decode one prompt or conversation and yield its events as they come; closing the iterator aborts it.

        Args:
            prompt: Text, token ids, or messages for the chat template.
            sampling_params: None takes `default_sampling_params`.
            on_step: Called with the result of every step of the engine before its events are yielded.
            **unknown: Refused; a keyword of vLLM is answered with a sentence.
        """
        _refuse(unknown, "keyword of stream", ("prompt", "sampling_params", "on_step"))
        given: Any = prompt
        encoded = self._encode_chat(given) if _is_chat(prompt) else self._encode(given)
        params = self.default_sampling_params if sampling_params is None else sampling_params
        request = self.engine.add(encoded, params, stream=True)
        left = params.n
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
        encode: Callable[[Any], Sequence[int]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        single: bool,
        use_tqdm: bool,
        on_step: StepWatcher | None = None,
    ) -> list[RequestOutput]:
        if not isinstance(use_tqdm, bool):
            raise BadRequest(f"use_tqdm is True or False, got {show(use_tqdm)}")
        default = self.default_sampling_params
        params = _one_each(default if sampling_params is None else sampling_params, len(prompts))
        refused: dict[int, str] = {}
        index: dict[int, int] = {}  # request id → index of its prompt
        for i, (prompt, p) in enumerate(zip(prompts, params, strict=True)):
            try:
                index[self.engine.add(encode(prompt), p, stream=False)] = i
            except SparseSpecError as error:
                if single:
                    raise
                refused[i] = str(error)
        done: list[list[Completion]] = [[] for _ in prompts]
        left = len(index)
        try:
            # tqdm itself shows nothing where `disable` is None and stderr is no terminal
            with tqdm(total=left, desc="requests", dynamic_ncols=True, disable=None if use_tqdm else True) as bar:
                for event in self._events(on_step) if left else ():
                    i = index.get(event.request_id)
                    if i is None or event.completion is None:
                        continue
                    done[i].append(event.completion)
                    if len(done[i]) == params[i].n:
                        bar.update()
                        left -= 1
                        if not left:
                            break
        finally:
            if left:
                for request in index:
                    self.engine.abort(request)
        return [_output(prompt, done[i], refused.get(i)) for i, prompt in enumerate(prompts)]

    def _events(self, on_step: StepWatcher | None = None) -> Iterator[TokenEvent]:
        idle = 0
        while self.engine.has_work:
            result = self.engine.step()
            if on_step:
                on_step(result)
            yield from result.events
            idle = 0 if result.info.placed.rows or result.info.collected else idle + 1
            if idle > MAX_IDLE_STEPS:
                raise ContractBroken(f"no request was placed for {MAX_IDLE_STEPS} steps although some have work to do")

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
    """Say whether a value is a sequence, an array or a tensor, and no text."""
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


def _refuse(unknown: Mapping[str, Any], kind: str, have: Sequence[str]) -> None:
    for name in unknown:
        raise unknown_option(kind, name, have)


def _one_each(params: SamplingParams | Sequence[SamplingParams], n: int) -> list[SamplingParams]:
    if isinstance(params, SamplingParams):
        return [params] * n
    right = isinstance(params, Sequence) and all(isinstance(each, SamplingParams) for each in params)
    if not right or len(params) != n:
        got = len(params) if right else show(params)
        raise BadRequest(f"give one SamplingParams, or one for each of the {n} prompts, got {got}")
    return list(params)


def _output(prompt: Any, done: list[Completion], refused: str | None) -> RequestOutput:
    done.sort(key=lambda c: c.sample_index)
    error = refused or next((c.error for c in done if c.error), None)
    return RequestOutput(prompt, tuple(done), error)
