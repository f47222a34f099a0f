"""Rejection sampling: a candidate x sampled from q is accepted with probability min(1, p(x)/q(x)).

Where it is rejected, the token is sampled from what p has more of than q. So the output has distribution p, whatever q
was, as long as x was really sampled from q and nothing sampled was thrown away. A guess is a candidate whose q is all
on itself. All randomness goes through `choose`, every choice with a key of its own: a residual sampled with its
draft's noise, or a draft sampled with the noise of a discarded one, would not be lossless.

Rule: Leviathan, Kalman, Matias, "Fast inference from transformers via speculative decoding", ICML 2023. Here it has no
division: accepting is a choice between the weights min(p, q) and q - min(p, q), so integer weights make it exact.

No probabilities outlive their step: q is computed again from the logits of the draft, to the last bit, since the bits
of a row of probabilities depend on that row only. The logits are kept, not what they were a product of: that product's
bits may follow the number of rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsespec.core.batch import VerifyInputs, VerifyOutput
from sparsespec.core.config import Geometry
from sparsespec.core.errors import ContractBroken
from sparsespec.core.noise import ACCEPT, DRAW, RESIDUAL, Key, pack_tag
from sparsespec.kernels.implementations import fastest
from sparsespec.kernels.sample.api import probs, sample
from sparsespec.kernels.verify_inputs.api import per_logit_row
from sparsespec.kernels.verify_tokens.api import verify_tokens


class Rejection:
    """Accepts by comparing probabilities; needs the logits that each draft was sampled from.

    Tests replace `probs`, `choose` and `mass` to drive the same code over weights and noise that can be enumerated.
    """

    needs: frozenset[str] = frozenset({"draft_probs"})
    provides: frozenset[str] = frozenset()
    mass: float = 1.0
    """What the weights of every row of probabilities add up to."""

    def bind(self, geometry: Geometry) -> None:
        """Allocate nothing."""

    def accepts(self, temperature: float) -> str | None:
        """Return None: every temperature is served, and the probabilities of temperature 0 are one-hot."""
        return None

    def verify(self, logits: Tensor, rows: VerifyInputs, q: Tensor | None) -> VerifyOutput:
        """See `core.protocols.Verifier.verify`; one pass over candidate index, all rows at once.

        Probabilities of logit rows that belong to no row mean nothing.
        """
        at = per_logit_row(rows, len(logits), impl=fastest(rows.first))
        p_all = self.probs(logits, at.temperature, at.top_k, at.top_p, at.min_p)
        sampled = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        is_accepted = torch.zeros_like(sampled, dtype=torch.bool)
        running = rows.count >= 0
        width = rows.candidates.shape[1] + 1
        for j in range(width):
            last = (running & (rows.count == j)).nonzero()[:, 0]
            if len(last):
                own = p_all[self.logit_row(rows, last, j)]
                sampled[rows.first[last] + j] = self.choose(own, self.key(rows, last, j, DRAW))
            judged = (running & (rows.count > j)).nonzero()[:, 0]
            if not len(judged):
                break
            slot = rows.first[judged] + j
            p = p_all[self.logit_row(rows, judged, j)]
            q_j = self._draft_probs(rows, judged, j, q, p)
            sampled[slot], is_accepted[slot] = self._judge(p, q_j, rows, judged, j)
            running = torch.zeros_like(running).index_fill_(0, judged[is_accepted[slot]], True)
        return VerifyOutput(
            *verify_tokens(sampled, is_accepted, rows.first, rows.count, width=width, impl=fastest(sampled))
        )

    def probs(self, logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
        """Return the probabilities of each row of logits [n, V], adding up to `mass`."""
        return probs(logits, temperature, top_k, top_p, min_p, impl=fastest(logits))

    def choose(self, weights: Tensor, key: Key) -> Tensor:
        """Return an index per row sampled in proportion to `weights` [n, m], which need not add up to 1, [n] int64."""
        one = torch.ones(len(weights), dtype=torch.float64, device=weights.device)
        off = torch.zeros_like(one)
        return sample(weights.log(), one, off.long(), one, off, *key, impl=fastest(weights))

    def key(self, rows: VerifyInputs, r: Tensor, j: int, purpose: int) -> Key:
        """Return the keys [n] of a choice at candidate index `j` of rows `r` [n]."""
        tag = pack_tag(rows.n_committed[r], rows.level[r], purpose)
        return Key(rows.seed[r], rows.sample_index[r], rows.position[r] + j, tag)

    def logit_row(self, rows: VerifyInputs, r: Tensor, j: int) -> Tensor:
        """Return which logit rows [n] hold the probabilities for candidate index `j` of rows `r` [n]."""
        return rows.first[r] + j

    def accept_weights(self, p: Tensor, q: Tensor, x: Tensor) -> Tensor:
        """Return the weights [n, 2] of accepting and rejecting candidates x [n], for probabilities p and q [n, V]."""
        p_x, q_x = p.gather(1, x[:, None]), q.gather(1, x[:, None])
        accept = torch.minimum(p_x, q_x)
        # q(x) = 0 cannot have been sampled; should rounding get there, x is rejected.
        return torch.cat([accept, torch.where(q_x > 0, q_x - accept, 1)], 1)

    def residual(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the weights [n, V] of what replaces a rejected candidate: what p has more of than q."""
        more = (p - q).clamp_(min=0)
        # A candidate is rejected only if p lacks what q has, so p has more elsewhere; rounding can hide that.
        return torch.where((more > 0).any(1, keepdim=True), more, p)

    def _judge(self, p: Tensor, q: Tensor, rows: VerifyInputs, r: Tensor, j: int) -> tuple[Tensor, Tensor]:
        """Return the token at candidate index `j` of rows `r` [n], and whether it is the accepted candidate."""
        token = rows.candidates[r, j]
        is_accepted = self.choose(self.accept_weights(p, q, token), self.key(rows, r, j, ACCEPT)) == 0
        rejected = (~is_accepted).nonzero()[:, 0]
        if len(rejected):
            key = self.key(rows, r[rejected], j, RESIDUAL)
            token[rejected] = self.choose(self.residual(p[rejected], q[rejected]), key)
        return token, is_accepted

    def _draft_probs(self, rows: VerifyInputs, r: Tensor, j: int, q: Tensor | None, p: Tensor) -> Tensor:
        """Return the probabilities [n, V] that candidate `j` of rows `r` was sampled from; one-hot for a guess."""
        out = torch.zeros_like(p)
        out.scatter_(1, rows.candidates[r, j][:, None], self.mass)
        is_sampled = rows.sampled[r]
        if not bool(is_sampled.any()):
            return out
        if q is None or j >= q.shape[1]:
            raise ContractBroken("rejection needs q, the logits of drafts, for rows whose candidates were sampled")
        some = r[is_sampled]
        filters = (x[some] for x in (rows.temperature, rows.top_k, rows.top_p, rows.min_p))
        out[is_sampled] = self.probs(q[some, j], *filters)
        return out
