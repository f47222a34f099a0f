"""What `sample` means: processors, noise, argmax; and what is asked about a distribution besides.

Every row is computed by itself, so that no bit of a result depends on a row's neighbours: element-wise over rows where
that is safe, row by row where a sum decides. Half types are computed in float32. Not here: the random bits
(`core/noise.py`).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from sparsespec.core.errors import ContractBroken
from sparsespec.core.noise import LANES, NOISE_HIGH, NOISE_LOW, Key, block_bits, from_bits

_CANNOT_WIN = NOISE_LOW - NOISE_HIGH - 0.1
"""A processed logit (the best is 0) below which no noise can make a token the best; 0.1 is ample for rounding."""

_CHUNK = 1 << 14
"""Blocks of noise computed at once, so that they stay in cache; changes no bit."""

_LONG = 1 << 10
"""Blocks per row, on average, from which rows are computed one by one; changes no bit."""


def process(logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """See `api.process`."""
    x = _working(logits)
    scale = temperature.to(x.dtype)[:, None]
    peak = _checked(x.amax(-1, keepdim=True))
    # Shifting first costs nothing more, is exact near the best token, and cannot overflow at small temperatures.
    out = (x - peak).div_(torch.where(scale == 0, 1, scale))
    for row in (scale[:, 0] == 0).nonzero()[:, 0].tolist():
        best = int(x[row].argmax())
        out[row] = -torch.inf
        out[row, best] = 0
    sampled = scale[:, 0] != 0
    vocab = x.shape[1]
    for row in (sampled & (top_k > 0) & (top_k < vocab)).nonzero()[:, 0].tolist():
        kth = out[row].topk(int(top_k[row])).values[-1]
        out[row].masked_fill_(out[row] < kth, -torch.inf)
    for row in (sampled & (top_p < 1)).nonzero()[:, 0].tolist():
        out[row] = _keep_top_p(out[row], float(top_p[row]))
    for row in (sampled & (min_p > 0)).nonzero()[:, 0].tolist():
        floor = min_p[row].log().to(out.dtype)
        out[row].masked_fill_(out[row] < floor, -torch.inf)
    return out


def sample(logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, key: Key) -> Tensor:
    """See `api.sample`."""
    tokens = logits.argmax(-1)  # the first of equal ones, by torch's own promise
    rows = temperature.to(_working_type(logits)).nonzero()[:, 0]
    _checked(logits.gather(1, tokens[:, None]))
    if len(rows):
        some = slice(None) if len(rows) == len(tokens) else rows
        processed = process(logits[some], temperature[some], top_k[some], top_p[some], min_p[some])
        tokens[some] = _perturbed_argmax(processed, Key(*(part[some] for part in key)))
    return tokens


def probs(logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """See `api.probs`."""
    return _softmax(process(logits, temperature, top_k, top_p, min_p))


def top_probability(logits: Tensor) -> Tensor:
    """See `api.top_probability`."""
    return _softmax(_working(logits)).amax(-1)


def confidence(logits: Tensor, first: Tensor, emitted: Tensor, wanted: Tensor) -> Tensor:
    """See `api.confidence`."""
    newest = (first + emitted - 1).clamp(min=0, max=len(logits) - 1)
    return torch.where((wanted != 0) & (emitted > 0), top_probability(logits[newest]), torch.nan)


def logprobs(logits: Tensor, chosen: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """See `api.logprobs`."""
    x = logits.float()
    # by logit: what log_softmax rounds to one number would go by id
    ids = torch.stack([_best_first(row, n)[:n] for row in x]) if len(x) else chosen.new_zeros(0, n)
    probs = x.double().log_softmax(-1).to(x.dtype)
    return ids, probs.gather(1, ids), probs.gather(1, chosen[:, None])[:, 0]


def _softmax(x: Tensor) -> Tensor:
    """Return the softmax of each row, summed in float64: torch's float32 sum of a long flat row is some 1e-5 short."""
    return x.double().softmax(-1).to(x.dtype)


def _perturbed_argmax(processed: Tensor, key: Key) -> Tensor:
    """Return argmax(processed + noise) per row, [T]; noise is computed only for blocks of tokens that could win."""
    n_rows, vocab = processed.shape
    padding = -vocab % LANES
    if padding:
        processed = torch.nn.functional.pad(processed, (0, padding), value=-torch.inf)
    blocks = processed.view(n_rows, -1, LANES)
    row, block = (blocks.amax(-1) > _CANNOT_WIN).nonzero(as_tuple=True)
    score = blocks.flatten(0, 1).index_select(0, row * blocks.shape[1] + block)
    for part in _parts(row, n_rows):
        # Words that all blocks share are computed once.
        r = row[part][:1] if bool(row[part][0] == row[part][-1]) else row[part]
        bits = block_bits(Key(*(field[r] for field in key)), block[part])
        score[part] += from_bits(bits, processed.dtype)
    best = score.amax(-1)
    top = best.new_full((n_rows,), -torch.inf).scatter_reduce_(0, row, best, "amax")
    won = (best == top[row]).nonzero()[:, 0]
    token = block[won] * LANES + score[won].argmax(-1)
    # Equal best scores: the lowest token id wins.
    tokens = token.new_full((n_rows,), vocab)
    return tokens.scatter_reduce_(0, row[won], token, "amin")


def _parts(row: Tensor, n_rows: int) -> list[slice]:
    """Return slices of the sorted `row` [n] that are small enough for the cache, rows apart where they are long."""
    ends = [*range(0, len(row), _CHUNK), len(row)]
    if len(row) > _LONG * n_rows:
        ends = [0, *row.bincount(minlength=n_rows).cumsum(0).tolist()]
    return [slice(a, b) for a, b in pairwise(ends) if a < b]


def _keep_top_p(row: Tensor, top_p: float) -> Tensor:
    """Return `row` [V] with all masked but the shortest prefix, best first, whose mass reaches `top_p`."""
    need = top_p * row.double().exp().sum()
    # Sorting a whole vocabulary is the cost of sampling; the nucleus is nearly always a few hundred tokens.
    size = 256
    while True:
        ids = _best_first(row, size)
        before = row[ids].double().exp().cumsum(0)
        if size >= len(row) or before[-1] >= need:
            break
        size *= 8
    kept = ids[: int((before < need).sum()) + 1]
    return torch.full_like(row, -torch.inf).index_copy_(0, kept, row[kept])


def _best_first(row: Tensor, n: int) -> Tensor:
    """Return the ids of the `n` largest of `row` [V], and of all that equal the last, by value and then by id."""
    if n >= len(row):
        return row.sort(descending=True, stable=True).indices
    if n == 0:
        return torch.empty(0, dtype=torch.int64, device=row.device)
    ids = (row >= row.topk(n).values[-1]).nonzero()[:, 0]
    return ids[row[ids].sort(descending=True, stable=True).indices]


def _checked(best: Tensor) -> Tensor:
    """Return `best`, the best logit of each row; a distribution needs a finite one, and NaN would be the best."""
    if not bool(best.isfinite().all()):
        raise ContractBroken("sample needs logits without NaN, with a finite best one in every row")
    return best


def _working(logits: Tensor) -> Tensor:
    """Return `logits` in the type the op computes in."""
    return logits.to(_working_type(logits))


def _working_type(logits: Tensor) -> torch.dtype:
    """Return float64 for float64, else float32."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32
