"""The op `sample`: processors + noise + argmax, and questions about a distribution.

`process` turns a model's logits into those of the distribution that is sampled, `sample` takes a token from it with the
noise of a key, and `probs`, `top_probability`, `confidence` and `logprobs` look at a distribution without sampling.
"triton" implements all but the first.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sparsespec.core.errors import ContractBroken
from sparsespec.core.noise import Key
from sparsespec.kernels.implementations import implementation
from sparsespec.kernels.sample import reference

IMPLS = {"reference": reference}
LAZY = ("triton",)
"""Implementations that need an optional package, imported when asked for."""


class LogProbs(NamedTuple):
    """Log-probabilities of the n best tokens of each row, best first, and of the chosen one."""

    ids: Tensor  # [T, n] int64
    values: Tensor  # [T, n] float32
    chosen_value: Tensor  # [T] float32


def process(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    *,
    impl: str = "reference",
) -> Tensor:
    """Return the logits of the distribution that is sampled, [T, V]: the best is 0, masked tokens are -inf.

    In this order: `(logits - max) / temperature`; top_k, where ties with the k-th stay; top_p over what is left, where
    the token that crosses p stays and ties go to the lower id; min_p, relative to the best. Temperature 0 keeps the
    best token alone, the lowest id of equal ones, and applies no filter.

    Args:
        logits: [T, V], any float type; rows may be apart in memory.
        temperature: [T] float64, 0 or more.
        top_k: [T] int64; 0 and V or more are off.
        top_p: [T] float64; 1 or more is off. Compared with masses summed in float64.
        min_p: [T] float64 in [0, 1]; 0 is off.
        impl: "reference".

    Returns:
        float64 for float64 logits, else float32.

    Raises:
        ContractBroken: Shapes do not fit, or a row has NaN or no finite best logit.
    """
    _check_rows(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    module = implementation("sample", impl, IMPLS, what="sample's process")
    return module.process(logits, temperature, top_k, top_p, min_p)


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seed: Tensor,
    sample_index: Tensor,
    position: Tensor,
    tag: Tensor,
    *,
    impl: str = "reference",
) -> Tensor:
    """Return argmax(process(logits) + noise), [T] int64; ties go to the lowest id, a masked token never wins.

    A row's result depends on nothing but that row. Rows of temperature 0 take no noise. Noise is
    `core.noise.gumbel(seed, sample_index, position, tag)` in float32, or in float64 for float64 logits.

    Args:
        logits, temperature, top_k, top_p, min_p: As in `process`.
        seed, sample_index, position, tag: [T] int64, the noise's key.
        impl: "reference", or "triton" on a GPU.

    Raises:
        BadOption: "triton" does not take the type or layout of an argument.
        ContractBroken: As `process`; but "triton" cannot see what a row holds, and gives token 0 where "reference"
            raises for its logits.
        MissingPackage: `impl` needs a package that is not installed.
    """
    _check_rows(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    _check_rows(logits, seed=seed, sample_index=sample_index, position=position, tag=tag)
    key = Key(seed, sample_index, position, tag)
    return implementation("sample", impl, IMPLS, LAZY).sample(logits, temperature, top_k, top_p, min_p, key)


def probs(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, *, impl: str = "reference"
) -> Tensor:
    """Return the probabilities of the distribution that is sampled, softmax(process(logits)), [T, V].

    A row's bits depend on nothing but that row, so probabilities can be computed again instead of kept. In float64 for
    float64 logits, else in float32; "triton" takes no float64, rounds otherwise than "reference" does, and gives NaN
    where that raises for what a row holds.

    Args:
        logits, temperature, top_k, top_p, min_p: As in `process`.
        impl: "reference", or "triton" on a GPU.
    """
    _check_rows(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    return implementation("sample", impl, IMPLS, LAZY).probs(logits, temperature, top_k, top_p, min_p)


def top_probability(logits: Tensor, *, impl: str = "reference") -> Tensor:
    """Return the probability of the best token of each row, [T] float32 (float64 for float64 logits).

    The distribution is softmax(logits) [T, V] as given: of processed logits, the one that is sampled. "triton" takes no
    float64, and rounds otherwise than "reference" does.
    """
    _check_rows(logits)
    return implementation("sample", impl, IMPLS, LAZY).top_probability(logits)


def confidence(logits: Tensor, first: Tensor, emitted: Tensor, wanted: Tensor, *, impl: str = "reference") -> Tensor:
    """Return `top_probability` of the logit row that each row's newest token was sampled from, [R].

    NaN for a row that is not wanted or emitted nothing; "triton" does not read the logits of those.

    Args:
        logits: [T, V], at least one row.
        first: [R] int64, first logit row of each row.
        emitted: [R] int64, tokens that it emitted; the newest came from logit row `first + emitted - 1`.
        wanted: [R] int64, 0 for rows that are not wanted.
        impl: "reference", or "triton" on a GPU.
    """
    _check_rows(logits)
    if first.ndim != 1 or not first.shape == emitted.shape == wanted.shape or not len(logits):
        shapes = [tuple(x.shape) for x in (first, emitted, wanted, logits)]
        raise ContractBroken(f"confidence needs shapes [R], [R], [R] and at least one row of logits, got {shapes}")
    return implementation("sample", impl, IMPLS, LAZY).confidence(logits, first, emitted, wanted)


def logprobs(logits: Tensor, chosen: Tensor, n: int, *, impl: str = "reference") -> LogProbs:
    """Return log-probabilities under the model's own distribution, log_softmax(logits) in float32.

    "triton" takes the best tokens one by one, so its time grows with `n`; it takes no float64, and rounds otherwise
    than "reference" does, though the tokens are the same.

    Args:
        logits: [T, V], as the model gave them.
        chosen: [T] int64 token ids.
        n: How many of the best tokens, 0 … V; equal logits go by the lower id.
        impl: "reference", or "triton" on a GPU.
    """
    _check_rows(logits, chosen=chosen)
    if not 0 <= n <= logits.shape[1]:
        raise ContractBroken(f"logprobs needs n in 0 … {logits.shape[1]}, got {n}")
    return LogProbs(*implementation("sample", impl, IMPLS, LAZY).logprobs(logits, chosen, n))


def _check_rows(logits: Tensor, **columns: Tensor) -> None:
    """Raise unless `logits` is [T, V] and every column is [T]."""
    if logits.ndim != 2 or not logits.is_floating_point():
        raise ContractBroken(f"logits must be [T, V] floats, got {tuple(logits.shape)} {logits.dtype}")
    for name, column in columns.items():
        if column.shape != logits.shape[:1]:
            raise ContractBroken(f"{name} must be [{logits.shape[0]}], got {tuple(column.shape)}")
