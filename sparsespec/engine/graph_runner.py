"""What one launch of a step does on the device: propose, select, forward, verify, settle, observe.

Everything here runs in stream order on device state, and nothing here is read by the host before the step's event.
What lies between the copy to the device and the copy back is the same for every step of a shape, so with `graphs` it
is recorded when a shape is first met, and replayed afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparsespec.core.batch import Batch, Outcome, State, VerifyInputs, VerifyOutput
from sparsespec.core.config import Geometry
from sparsespec.core.device import Device
from sparsespec.core.plan import Phase
from sparsespec.core.protocols import Selection
from sparsespec.engine.checked import CheckedSelection, check_live
from sparsespec.engine.graph_shapes import SHORT, StepShape
from sparsespec.engine.in_flight import InFlightStep, result_columns, row_width
from sparsespec.engine.pack import lay_out, unpack
from sparsespec.engine.parts import Parts
from sparsespec.engine.runner import Model, forward
from sparsespec.engine.state import enter_pages
from sparsespec.engine.transfer import download, upload
from sparsespec.kernels.implementations import fastest
from sparsespec.kernels.lay_out.api import N_COLUMNS
from sparsespec.kernels.sample.api import confidence, logprobs
from sparsespec.kernels.settle.api import settle
from sparsespec.kernels.verify_inputs.api import verify_inputs


class GraphRunner:
    """Runs the steps of one engine.

    Args:
        device: Records where steps are recorded.
        model: The model.
        parts: What is plugged in.
        state: What the seats hold.
        geometry: The sizes.
        graphs: Whether to record; steps must then have the shapes of `engine/graph_shapes.py`, with all rows.
    """

    def __init__(
        self, device: Device, model: Model, parts: Parts, state: State, geometry: Geometry, *, graphs: bool
    ) -> None:
        self._device, self._model, self._parts, self._state, self._geometry = device, model, parts, state, geometry
        self.graphs = graphs
        self._recorded: dict[StepShape, Callable[[], object]] = {}
        n_rows = geometry.n_seats if graphs else 0
        # where the records read and write
        self._packed = torch.zeros((N_COLUMNS, n_rows), dtype=torch.int64, device=geometry.device)
        self._results = torch.zeros((n_rows, result_columns(geometry)), dtype=torch.int64, device=geometry.device)

    @property
    def memory(self) -> tuple[Tensor, Tensor]:
        """What records read and write besides the state."""
        return self._packed, self._results

    @torch.inference_mode()
    def run(self, step: InFlightStep, shape: StepShape) -> None:
        """Run a step of this shape, and copy its results into its buffers."""
        host, n_columns, n_table = step.buffers, N_COLUMNS * shape.n_rows, len(step.packed.table)
        packed = upload(host.packed[: n_columns + 3 * n_table], self._geometry.device)
        if n_table:
            enter_pages(self._state, packed[n_columns:].view(n_table, 3))
        columns = packed[:n_columns].view(N_COLUMNS, shape.n_rows)
        if not self.graphs or step.wants_logprobs:
            results = self._step(columns, shape, step)
        else:
            self._packed.copy_(columns)
            self._replay(shape)
            results = self._results
        if results is not None:
            download(results, host.results[: shape.n_rows])

    @torch.inference_mode()
    def warm_up(self, shape: StepShape) -> None:
        """Record a shape before it is met, by a step in which no row has anything to do."""
        self._packed.zero_()
        self._packed[0] = torch.arange(shape.n_rows, device=self._packed.device)
        self._replay(shape)

    def _replay(self, shape: StepShape) -> None:
        if shape in self._recorded:
            self._recorded[shape]()
            return
        # once for real, which compiles and allocates what is not there yet
        self._to_results(shape)
        self._recorded[shape] = self._device.record(lambda: self._to_results(shape))

    def _to_results(self, shape: StepShape) -> None:
        results = self._step(self._packed, shape)
        if results is not None:
            self._results.copy_(results)

    def _step(self, columns: Tensor, shape: StepShape, step: InFlightStep | None = None) -> Tensor | None:
        """Run a step; return what the host is to know of all rows, None if no row samples."""
        parts, state, geometry = self._parts, self._state, self._geometry
        decodes = shape.n_logits == shape.n_tokens
        widest = max(SHORT, row_width(geometry)) if decodes else shape.n_tokens
        batch, room = unpack(columns, state, widest, 0 if step is None else step.packed.step)
        if parts.proposer.guesses:
            batch.live = batch.live + parts.proposer.propose(state, batch.seat, batch.start + 1, room)
        if geometry.checked:
            check_live(batch)
        lay_out(batch, shape.n_tokens, geometry.block_size)
        # a selector selects before it observes, also where nobody asks it
        choice = self._select(batch)
        logits = forward(self._model, parts.attention, batch, None if shape.plain else choice, shape.n_logits)
        if logits is None:
            results, outcome = None, self._fill(batch)
        else:
            logits, peak = _finite(logits)
            inputs = verify_inputs(batch, row_width(geometry), impl=fastest(batch.seat))
            draft_logits = state.draft_logits[batch.seat] if state.draft_logits is not None else None
            verified = parts.verifier.verify(logits, inputs, draft_logits)
            outcome, results = self._settle(batch, inputs, verified, logits, peak)
            if step is not None and step.wants_logprobs:
                _download_logprobs(step, inputs, verified, logits)
        if parts.selector.drafts:
            parts.selector.observe(outcome)
        if parts.proposer.guesses:
            parts.proposer.observe(outcome)
        return results

    def _select(self, batch: Batch) -> Selection | None:
        if not self._parts.selector.drafts:
            return None
        choice = self._parts.selector.select(batch)
        return CheckedSelection(choice, batch) if self._geometry.checked else choice

    def _fill(self, batch: Batch) -> Outcome:
        """Move the state forward where no row samples."""
        state = self._state
        filling = batch.phase == Phase.PREFILL
        state.n_computed[batch.seat] += torch.where(filling, batch.n_query, 0)
        return Outcome(batch, torch.zeros_like(batch.seat), state.n_drafted[batch.seat])

    def _settle(
        self, batch: Batch, inputs: VerifyInputs, verified: VerifyOutput, logits: Tensor, peak: Tensor
    ) -> tuple[Outcome, Tensor]:
        """Accept, roll back, write tokens; return the outcome, and what the host is to know of each row.

        Args:
            batch: The step.
            inputs: Its rows as the verifier saw them.
            verified: What the verifier says.
            logits: [T, V].
            peak: [T], the best logit of each row of them as the model gave them.
        """
        # verifiers may return views, which kernels do not take
        tokens, emitted, accepted = (x.contiguous() for x in verified[:3])
        verified = VerifyOutput(tokens, emitted, accepted)
        # only DRAFT rows are asked how sure they were
        sure = confidence(logits, inputs.first, verified.emitted, inputs.level, impl=fastest(logits))
        kv_read = self._parts.attention.read()
        report, drafted = settle(batch, inputs, verified, peak, sure, kv_read, impl=fastest(batch.seat))
        if self._state.draft_logits is not None:
            self._keep_logits(batch, inputs, verified, drafted, logits)
        return Outcome(batch, verified.emitted, drafted), report

    def _keep_logits(
        self, batch: Batch, inputs: VerifyInputs, verified: VerifyOutput, drafted: Tensor, logits: Tensor
    ) -> None:
        """Remember what each new draft was sampled from; in the model's own type, so that its bits are kept."""
        kept = self._state.draft_logits
        assert kept is not None and kept.dtype == logits.dtype
        drafting = batch.phase == Phase.DRAFT
        for j in range(verified.tokens.shape[1]):
            fresh = (drafting & (j < verified.emitted)).nonzero().squeeze(1)
            kept[batch.seat[fresh], drafted[fresh] + j] = logits[inputs.first[fresh] + j]


def _finite(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits to sample from, and the best one of each row [T], not finite where a row is broken.

    A broken row costs its own request and no other: the reference must not meet NaN, the GPU's kernels may.
    """
    peak = logits.amax(-1)
    if fastest(logits) == "triton":
        return logits, peak
    return torch.where(peak.isfinite()[:, None], logits, 0), peak


def _download_logprobs(step: InFlightStep, inputs: VerifyInputs, verified: VerifyOutput, logits: Tensor) -> None:
    """Copy the log-probabilities of what was emitted into the step's host buffers."""
    column = torch.arange(verified.tokens.shape[1], device=logits.device)
    # tokens behind what a row emitted go to a place behind the last, which is cut off
    place = torch.where(column < verified.emitted[:, None], inputs.first[:, None] + column, len(logits))
    chosen = torch.zeros(len(logits) + 1, dtype=torch.int64, device=logits.device)
    chosen = chosen.scatter_(0, place.flatten(), verified.tokens.flatten())[:-1]
    n = step.logprob_ids.shape[1] - 1
    ids, values, chosen_values = logprobs(logits, chosen, n, impl=fastest(logits))
    download(torch.cat((chosen[:, None], ids), 1), step.logprob_ids)
    download(torch.cat((chosen_values[:, None], values), 1).to(torch.float64), step.logprob_values)
