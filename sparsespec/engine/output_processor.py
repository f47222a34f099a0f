"""Committed tokens become output, exactly as long as it should be, and are reported once.

A verification may commit tokens behind a stop; the device does not know stops, so the host trims. Tokens are kept as an
array over seats. Only requests that stream, have stop strings or want log-probabilities cost Python work in each step.

What a request has said is state, and an event is the difference between two states: so a step that was interrupted
loses no event and repeats none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

import numpy as np

from sparsespec.core.config import Geometry
from sparsespec.core.plan import VERIFY
from sparsespec.core.result import Logprobs, RowResults
from sparsespec.core.view import Ints
from sparsespec.engine.outputs import Completion, FinishReason, TokenEvent
from sparsespec.engine.request import Request
from sparsespec.engine.text_stream import Decoder, TextStream

FREE = -1


class Processed(NamedTuple):
    """What processing a step did.

    Attributes:
        kept: How many tokens of each row became output, [R].
        finished: Requests that ended by what they said.
        failed: Requests that ended because their decoder raised.
    """

    kept: Ints
    finished: list[Request]
    failed: list[tuple[Request, Exception]]


class _Report(NamedTuple):
    """What was reported of a sample in a step, and before it: (tokens, characters)."""

    step: int = -1
    before: tuple[int, int] = (0, 0)
    now: tuple[int, int] = (0, 0)
    ended: bool = False


@dataclass(slots=True)
class _Sample:
    """What is kept of a request besides its tokens."""

    text: TextStream | None = None  # made with the first token that it is given
    n_pushed: int = 0  # tokens that the text has got
    logprobs: list[Logprobs] | None = None
    report: _Report = _Report()  # noqa: RUF009 - immutable


class OutputProcessor:
    """Outputs of all requests, from when they are added until their completion was reported.

    Args:
        geometry: The engine's sizes.
        decoder: Makes a fresh decoder for a sample; None for an engine without a tokenizer.
    """

    def __init__(self, geometry: Geometry, decoder: Callable[[], Decoder] | None) -> None:
        self._decoder = decoder
        # memory is taken as it is written to
        self._tokens = np.empty((geometry.n_seats, geometry.max_model_len), dtype=np.int32)
        self._n_output = np.zeros(geometry.n_seats, dtype=np.int64)
        self._room = np.zeros(geometry.n_seats, dtype=np.int64)
        self._by_row = np.zeros(geometry.n_seats, dtype=np.bool_)
        self._number = np.full(geometry.n_seats, FREE, dtype=np.int64)
        # whether any request since the last reset stops at a token; each asks for its own
        self._may_stop = np.zeros(geometry.vocab, dtype=np.bool_)
        self._samples: dict[Request, _Sample] = {}
        self._touched: dict[Request, None] = {}

    def add(self, requests: Iterable[Request]) -> None:
        """Keep outputs for requests that were added."""
        self._samples.update({request: _new(request) for request in requests})

    def begin(self, requests: Iterable[Request]) -> None:
        """Get ready for requests that were seated."""
        for request in requests:
            seat, params, n = request.seat, request.params, len(request.output)
            self._number[seat] = FREE
            self._tokens[seat, :n] = request.output
            self._n_output[seat], self._room[seat] = n, request.limit - len(request.known)
            # text matters while it grows only where it is reported, or a string in it stops the output
            self._by_row[seat] = request.stream or bool(params.stop) or params.logprobs is not None
            self._may_stop[[token for token in request.stop_ids if token < len(self._may_stop)]] = True
            self._number[seat] = request.number

    def process(self, results: RowResults, requests: Mapping[int, Request]) -> Processed:
        """Append what VERIFY rows committed, up to the first stop of each; `requests` are those seated, by seat."""
        verify = results.phase == VERIFY
        kept = np.where(verify, np.minimum(results.n_emitted, self._room[results.seat]), 0)
        column = np.arange(results.tokens.shape[1])
        said = column < kept[:, None]
        stops: dict[int, int] = {}
        for i in (self._may_stop[np.where(said, results.tokens, 0)] & said).any(1).nonzero()[0].tolist():
            stop_ids, tokens = requests[int(results.seat[i])].stop_ids, results.tokens[i, : kept[i]].tolist()
            place = next((j for j, token in enumerate(tokens) if token in stop_ids), None)
            if place is not None:
                stops[i], kept[i] = tokens[place], place + 1
        by_row = verify & self._by_row[results.seat]
        ends = verify & (kept == self._room[results.seat])
        ends[list(stops)] = True
        self._append(results, kept)
        finished: list[Request] = []
        failed: list[tuple[Request, Exception]] = []
        for i in (by_row | ends).nonzero()[0].tolist():
            request, n = requests[int(results.seat[i])], int(kept[i])
            reason: FinishReason | None = None
            if ends[i]:
                reason = "stop" if i in stops else "length"
            sample = self._samples[request]
            if sample.logprobs is not None and results.logprobs:
                sample.logprobs += results.logprobs[i][:n]
            try:
                self._speak(request, reason, stops.get(i))
            except Exception as error:
                # what came before a token that the decoder cannot say is output all the same
                kept[i] = max(0, n - self._cut(request, sample.n_pushed))
                failed.append((request, error))
                continue
            if request.completion is not None:
                kept[i] = max(0, n - (int(self._n_output[request.seat]) - len(request.completion.token_ids)))
                finished.append(request)
        return Processed(kept, finished, failed)

    def end(self, request: Request, reason: FinishReason, error: str | None = None) -> None:
        """Finish a request for a reason that is not in its tokens."""
        sample = self._samples[request]
        # the decoder itself may be what broke: after an error it is neither made nor asked
        stream = sample.text if error else self._text(request, sample)
        if stream is not None:
            if error is None:
                self._push(request, sample, stream, self._n(request))
            stream.finish(flush=error is None)
        self._finish(request, self._n(request), reason, None, error)

    def take(self, step: int, done: int) -> tuple[TokenEvent, ...]:
        """Return what requests gained since the newest step that was `done`, as reported in `step`."""
        events: list[TokenEvent] = []
        for request in self._touched:
            sample, completion = self._samples[request], request.completion
            tokens, chars = sample.report.now if sample.report.step <= done else sample.report.before
            if completion is not None:
                n, text, shown = len(completion.token_ids), completion.text, len(completion.text)
            else:
                text = sample.text.text if sample.text else ""
                n, shown = self._n(request), sample.text.visible() if sample.text else 0
            sample.report = _Report(step, (tokens, chars), (n, shown), completion is not None)
            if completion is not None or n > tokens:
                new = self._output(request, tokens, n) if request.stream else ()
                piece = text[chars:shown] if request.stream else ""
                events.append(TokenEvent(request.group, request.sample_index, new, piece, completion))
        return tuple(events)

    def acknowledge(self, done: int) -> None:
        """Forget what was reported by the step `done`, which nobody will be told again."""
        for request in list(self._touched):
            report = self._samples[request].report
            if report.step <= done and report.ended == (request.completion is not None):
                del self._touched[request]
                if report.ended:
                    del self._samples[request]

    @property
    def has_unreported(self) -> bool:
        """Whether a request has ended since the last step reported."""
        return any(r.completion is not None and not self._samples[r].report.ended for r in self._touched)

    def recover(self, orphans: int | None) -> list[Request]:
        """Return the requests that have not ended, oldest first and off their seats, with all of their output.

        To be called after an interrupt, wherever it struck. `orphans` is a group whose adding was interrupted.
        """
        alive: list[Request] = []
        for request in sorted(self._samples, key=lambda r: r.number):
            sample = self._samples[request]
            if request.group == orphans:
                self._touched.pop(request, None)
                del self._samples[request]
                continue
            self._touched[request] = None
            if request.completion is not None:
                continue
            if request.seat >= 0 and self._number[request.seat] == request.number:
                request.output = self._output(request, 0, self._n(request))
            request.seat, request.n_computed = -1, 0
            self._resume(request, sample)
            if request.completion is None:
                alive.append(request)
        self._number[:] = FREE
        return alive

    def _resume(self, request: Request, sample: _Sample) -> None:
        """Make text and log-probabilities fit the output again, and end a request whose output is complete."""
        if sample.logprobs is not None:
            n = min(len(sample.logprobs), len(request.output))
            request.output, sample.logprobs = request.output[:n], sample.logprobs[:n]
        sample.text, sample.n_pushed = None, 0
        reason: FinishReason | None = None
        stop = request.output[-1] if request.output and request.output[-1] in request.stop_ids else None
        if stop is not None:
            reason = "stop"
        elif len(request.known) >= request.limit:
            reason = "length"
        try:
            self._speak(request, reason, stop)
        except Exception as error:
            self._cut(request, sample.n_pushed)
            self.end(request, "error", f"{type(error).__name__}: {error}")

    def _speak(self, request: Request, reason: FinishReason | None, stop: int | None) -> None:
        """Bring a request's text up to its output, and end it if there is a reason, such as a stop string."""
        self._touched[request] = None
        sample, found, n = self._samples[request], None, self._n(request)
        if reason or request.stream or request.params.stop:
            stream = self._text(request, sample)
            if stream is not None:
                # a token that stops adds no text
                found = self._push(request, sample, stream, n - (stop is not None))
                if found is None and reason:
                    stream.finish()
        if found is not None:
            self._finish(request, sample.n_pushed, "stop", found, None)
        elif reason:
            self._finish(request, n, reason, stop, None)

    def _push(self, request: Request, sample: _Sample, stream: TextStream, end: int) -> str | None:
        """Give a text the output up to token `end`, and return the stop string that it then holds, if any."""
        for token in self._output(request, sample.n_pushed, end):
            found = stream.push(token)
            sample.n_pushed += 1
            if found is not None:
                return found
        return None

    def _text(self, request: Request, sample: _Sample) -> TextStream | None:
        if sample.text is None and self._decoder is not None:
            sample.text = TextStream(self._decoder(), request.params.stop)
        return sample.text

    def _append(self, results: RowResults, kept: Ints) -> None:
        """Write the first `kept` [R] tokens of each row behind the output of its seat."""
        row, column = (np.arange(results.tokens.shape[1]) < kept[:, None]).nonzero()
        seat = results.seat[row]
        self._tokens[seat, self._n_output[seat] + column] = results.tokens[row, column]
        self._room[results.seat] -= kept
        # last, because from then on the tokens count
        self._n_output[results.seat] += kept

    def _n(self, request: Request) -> int:
        return len(request.output) if request.seat < 0 else int(self._n_output[request.seat])

    def _output(self, request: Request, first: int, end: int) -> tuple[int, ...]:
        """Return the output tokens `first` … `end` - 1 of a request."""
        if request.completion is not None:
            return request.completion.token_ids[first:end]
        if request.seat < 0:
            return request.output[first:end]
        return tuple(self._tokens[request.seat, first:end].tolist())

    def _cut(self, request: Request, n: int) -> int:
        """Take back all but the first `n` tokens of a request's output; return how many."""
        behind = self._n(request) - n
        if request.seat < 0:
            request.output = request.output[:n]
        else:
            self._n_output[request.seat] -= behind
            self._room[request.seat] += behind
        return behind

    def _finish(
        self, request: Request, n: int, reason: FinishReason, stop: int | str | None, error: str | None
    ) -> None:
        """End a request, whose output are its first `n` tokens."""
        sample = self._samples[request]
        self._touched[request] = None
        request.metrics.num_output_tokens = n
        seated_at = perf_counter() if request.seated_at is None else request.seated_at
        request.completion = Completion(
            request_id=request.group,
            sample_index=request.sample_index,
            prompt_token_ids=request.prompt,
            token_ids=self._output(request, 0, n),
            text=sample.text.text if sample.text else "",
            finish_reason=reason,
            stop_reason=stop,
            error=error,
            seed=request.seed,
            logprobs=None if sample.logprobs is None else tuple(sample.logprobs[:n]),
            metrics=request.metrics,
            queue_seconds=seated_at - request.added_at,
        )


def _new(request: Request) -> _Sample:
    return _Sample(logprobs=None if request.params.logprobs is None else [])
