"""What a request must be: every reason for which one is refused when it is added, with the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from operator import index

from sparsespec.core.config import Geometry
from sparsespec.core.errors import BadRequest, show
from sparsespec.core.params import SamplingParams
from sparsespec.core.protocols import Verifier


def params_of(params: object, default: SamplingParams) -> SamplingParams:
    """Return a request's sampling parameters, `default` for None; raises `BadRequest` for anything else."""
    if params is None:
        return default
    if not isinstance(params, SamplingParams):
        raise BadRequest(
            f"sampling_params must be SamplingParams, got {show(params)}; SamplingParams.from_dict reads a dict"
        )
    return params


def tokens_of(prompt: object, vocab: int) -> tuple[int, ...]:
    """Return the tokens of a prompt as plain integers; raises `BadRequest` for what is no token of the model."""
    if not isinstance(prompt, Iterable) or isinstance(prompt, bytes | Mapping | Set):
        raise BadRequest(f"a prompt is a list of token ids, got {show(prompt)}")
    tokens: list[int] = []
    for item in prompt:
        try:
            token = -1 if isinstance(item, bool) else index(item)  # type: ignore[arg-type]
        except TypeError:
            token = -1
        if not 0 <= token < vocab:
            raise BadRequest(f"prompt token {show(item)} is not one of the model's 0 … {vocab - 1}")
        tokens.append(token)
    if not tokens:
        raise BadRequest("the prompt is empty; give at least one token")
    return tuple(tokens)


def check_request(
    prompt: Sequence[int],
    params: SamplingParams,
    geometry: Geometry,
    verifier: Verifier,
    *,
    has_text: bool,
    n_computed: int = 0,
) -> int:
    """Return the tokens the request may hold, prompt and output; raises `BadRequest` if it can never be served."""
    context = geometry.max_model_len
    if len(prompt) >= context:
        raise BadRequest(
            f"the prompt has {len(prompt)} tokens and the context holds {context}, one of them output; "
            f"shorten the prompt to at most {context - 1} tokens"
        )
    limit = len(prompt) + params.max_tokens
    if limit > context:
        raise BadRequest(
            f"{len(prompt)} prompt tokens and max_tokens={params.max_tokens} exceed the context of {context}; "
            f"lower max_tokens to at most {context - len(prompt)}"
        )
    # the last token is sampled and never fed back, so its KV is never written
    pages = -(-(limit - 1) // geometry.block_size)
    have = geometry.num_gpu_blocks - 1
    if pages > have:
        longest = have * geometry.block_size
        room = longest + 1 - len(prompt)
        less = f"lower max_tokens to at most {room},"
        if room < 1:
            less = f"shorten the prompt to at most {longest} tokens and lower max_tokens"
        raise BadRequest(
            f"{len(prompt)} prompt tokens and max_tokens={params.max_tokens} need {pages} KV pages and the pool has "
            f"{have}; {less} or raise num_gpu_blocks"
        )
    refusal = verifier.accepts(params.temperature)
    if refusal:
        raise BadRequest(refusal)
    if params.stop and not has_text:
        raise BadRequest("stop strings need an engine with a tokenizer; use stop_token_ids instead")
    if not 0 <= n_computed < len(prompt):
        raise BadRequest(f"n_computed is 0 to {len(prompt) - 1} positions of this prompt, got {show(n_computed)}")
    if params.logprobs is not None and params.logprobs > geometry.vocab:
        raise BadRequest(f"logprobs must be at most the vocabulary's {geometry.vocab}, got {params.logprobs}")
    return limit
