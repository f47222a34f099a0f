"""The ops that `bench.cpu_cases` times, from their definitions and in float64; nothing of the package's arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsespec.core.batch import AttentionRows, Chosen


def attention(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, rows: AttentionRows, scale: float, chosen: Chosen | None
) -> tuple[Tensor, Tensor, Tensor]:
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
    return out, lse, scores


def top_positions(scores: Tensor, k: int, pool: int) -> Tensor:
    """Return the `k` best positions of every list, ascending; ties go to the lower."""
    half = pool // 2

    def best(one: list[float]) -> list[int]:
        high = [max(one[max(0, p - half) : p + half + 1]) for p in range(len(one))]
        return sorted(sorted(range(len(one)), key=lambda p: (-high[p], p))[:k])

    lists = scores.double().flatten(0, -2).tolist()
    return torch.tensor([best(one) for one in lists]).view(*scores.shape[:-1], k)


def rotated(x: Tensor, angle: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x [N, H, D], normed with `weight` and turned by `angle` [N, D / 2]: a product of complex numbers."""
    x = x.double()
    x = x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()
    turned = torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.cat((turned.real, turned.imag), -1)


def perturbed(logits: Tensor, temperature: float, top_p: float, noise: Tensor) -> Tensor:
    """Return the logits over `temperature` plus `noise`, and -inf outside the fewest tokens whose mass is `top_p`."""
    law = logits.double() / temperature
    mass, ids = law.softmax(-1).sort(dim=-1, descending=True, stable=True)
    outside = torch.zeros_like(law, dtype=torch.bool).scatter(-1, ids, mass.cumsum(-1) - mass >= top_p)
    return (law + noise.double()).masked_fill(outside, -torch.inf)
