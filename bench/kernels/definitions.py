"""What references are held to before they are timed: their ops by definition, in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.kernels.case import Check, off
from sparsespec.core.batch import AttentionRows, Chosen
from sparsespec.core.noise import Key, gumbel
from sparsespec.testing.ops.op import Args, KernelOp, outputs

CLOSE = 1e-5
"""Largest relative error of float32 results; their rounding is a hundredth of it."""


def attention(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, rows: AttentionRows, scale: float, chosen: Chosen | None
) -> dict[str, Tensor]:
    """Return out, LSE and scores, one query and one group of heads at a time."""
    q = q.double()
    out, lse = torch.zeros_like(q), q.new_zeros(q.shape[:2])
    scores = q.new_zeros(rows.groups, len(rows.seat), int((rows.start + rows.live).max()))
    heads, shared = q.shape[1] // rows.groups, q.shape[1] // k_pages.shape[2]
    columns = (rows.seat, rows.offset, rows.start, rows.live, rows.sparse, rows.scored)
    for b, (seat, offset, start, live, sparse, scored) in enumerate(zip(*map(Tensor.tolist, columns), strict=True)):
        pages = rows.table[seat]
        k, v = (x[pages].flatten(0, 1).double().repeat_interleave(shared, 1) for x in (k_pages, v_pages))
        ends = {*range(live)[: rows.ends[0]], *range(live)[live - rows.ends[1] :]} if scored else set()
        for i in range(live):
            for group in range(rows.groups):
                seen = torch.arange(start + i + 1)
                if sparse:
                    assert chosen is not None
                    picked = chosen.positions[group, seat, : chosen.counts[seat]]
                    seen = torch.cat((picked.long(), seen[chosen.tail_from[seat] :]))
                mine = slice(group * heads, (group + 1) * heads)
                s = scale * torch.einsum("hd,nhd->hn", q[offset + i, mine], k[seen, mine])
                out[offset + i, mine] = torch.einsum("hn,nhd->hd", s.softmax(-1), v[seen, mine])
                lse[offset + i, mine] = s.logsumexp(-1)
                if i in ends:
                    scores[group, b, seen] += s.softmax(-1).mean(0) / len(ends)
    return {"out": out, "lse": lse, **({"scores": scores} if rows.scored.any() else {})}


def append_kv(
    q: Tensor, k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor, positions: Tensor, slots: Tensor,
    cos: Tensor, sin: Tensor, q_norm: Tensor, k_norm: Tensor, eps: float,
) -> dict[str, Tensor]:  # fmt: skip
    """Return q, normed and rotated, and the pages with k and v written."""
    turn = torch.complex(cos.double(), sin.double())[positions][:, None]

    def rotated(x: Tensor, weight: Tensor) -> Tensor:
        x = x.double()
        x = x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()
        turned = torch.complex(*x.chunk(2, -1)) * turn
        return torch.cat((turned.real, turned.imag), -1)

    pages = [x.double() for x in (k_pages, v_pages)]
    for page, x in zip(pages, (rotated(k, k_norm), v.double()), strict=True):
        page.flatten(0, 1)[slots] = x
    return {"q": rotated(q, q_norm), "k": pages[0], "v": pages[1]}


def top_positions(scores: Tensor, below: Tensor, count: Tensor, k_max: int, pool: int) -> Tensor:
    """Return the best positions of lists that are chosen from in full, ascending; ties go to the lower."""
    half = pool // 2

    def best(one: list[float]) -> list[int]:
        high = [max(one[max(0, p - half) : p + half + 1]) for p in range(len(one))]
        return sorted(sorted(range(len(one)), key=lambda p: (-high[p], p))[:k_max])

    lists = scores.double().flatten(0, -2).tolist()
    return torch.tensor([best(one) for one in lists]).view(*scores.shape[:-1], k_max)


def perturbed(args: Args) -> Tensor:
    """Return logits over temperature plus noise, and -inf outside the fewest tokens whose mass is top_p."""
    logits = args["logits"].double() / args["temperature"][:, None]
    mass, ids = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
    outside = torch.zeros_like(logits, dtype=torch.bool)
    outside.scatter_(-1, ids, mass.cumsum(-1) - mass >= args["top_p"][:, None])
    key = Key(args["seed"], args["sample_index"], args["position"], args["tag"])
    return (logits + gumbel(*key, logits.shape[1], torch.float32).double()).masked_fill(outside, -torch.inf)


def by_definition(define: Callable[..., dict[str, Tensor]]) -> Check:
    """Return what compares all that an op gave with its definition."""

    def check(op: KernelOp, given: Args, returned: object, after: Args) -> str:
        return off(outputs(op, returned, after), list(define(**given).items()), CLOSE)

    return check


def same_positions(op: KernelOp, given: Args, returned: Tensor, after: Args) -> str:
    """Compare position by position."""
    return "" if torch.equal(returned, top_positions(**given)) else "positions differ from the definition's"


def best_tokens(op: KernelOp, given: Args, returned: Tensor, after: Args) -> str:
    """Compare by score: among equal ones either will do."""
    score = perturbed(given)
    best = score.amax(-1)
    lost = best - score.gather(-1, returned[:, None])[:, 0]
    return "" if bool((lost < CLOSE * best).all()) else f"a token is {lost.max():.2g} below the best"
