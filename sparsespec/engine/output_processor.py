"""Committed tokens become output, exactly as long as it should be.

A verification may commit tokens behind a stop; the device does not know stops, so the host trims. Tokens are kept as an
array over seats. Only requests that stream, have stop strings or want log-probabilities cost Python work in each step.
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


@dataclass(slots=True)
class _Sample:
    """What is kept of a seated request besides its tokens."""

    text: TextStream | None = None  # made with the first token that it is given
    n_pushed: int = 0  # tokens that the text has got
    logprobs: list[Logprobs] | None = None


class OutputProcessor:
    """Outputs of all running requests.

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
        # whether any request since the last reset stops at a token; each asks for its own
        self._may_stop = np.zeros(geometry.vocab, dtype=np.bool_)
        self._samples: dict[Request, _Sample] = {}
        self._events: list[TokenEvent] = []

    @property
    def n_events(self) -> int:
        """Events that were not taken yet."""
        return len(self._events)

    def begin(self, requests: Iterable[Request]) -> None:
        """Get ready for requests that were seated."""
        for request in requests:
            seat, params = request.seat, request.params
            self._n_output[seat], self._room[seat] = 0, request.limit - len(request.prompt)
            # text matters while it grows only where it is reported, or a string in it stops the output
            self._by_row[seat] = request.stream or bool(params.stop) or params.logprobs is not None
            self._may_stop[[token for token in request.stop_ids if token < len(self._may_stop)]] = True
            self._samples[request] = self._new(request)

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
        self._append(results, kept)
        finished: list[Request] = []
        failed: list[tuple[Request, Exception]] = []
        by_row = verify & self._by_row[results.seat]
        ends = verify & (kept == self._room[results.seat])
        ends[list(stops)] = True
        self._room[results.seat] -= kept
        for i in (by_row | ends).nonzero()[0].tolist():
            request = requests[int(results.seat[i])]
            reason: FinishReason | None = None
            if ends[i]:
                reason = "stop" if i in stops else "length"
            logprobs = results.logprobs[i] if results.logprobs else ()
            try:
                kept[i], ended = self._speak(request, int(kept[i]), logprobs, reason, stops.get(i))
            except Exception as error:
                kept[i] = self._break_off(request, int(kept[i]))
                failed.append((request, error))
                continue
            if ended:
                finished.append(request)
        return Processed(kept, finished, failed)

    def end(self, request: Request, reason: FinishReason, error: str | None = None) -> None:
        """Finish a request for a reason that is not in its tokens."""
        sample = self._samples.setdefault(request, self._new(request))
        # the decoder itself may be what broke: after an error it is neither made nor asked
        stream = sample.text if error else self._text(request, sample)
        if stream is not None:
            if error is None and request.seat >= 0:
                self._push(request, sample, stream, int(self._n_output[request.seat]))
            stream.finish(flush=error is None)
        self._finish(request, 0, stream, reason, None, error)

    def take(self) -> tuple[TokenEvent, ...]:
        """Return the events since the last call."""
        events, self._events = tuple(self._events), []
        return events

    def _append(self, results: RowResults, kept: Ints) -> None:
        """Write the first `kept` [R] tokens of each row behind the output of its seat."""
        row, column = (np.arange(results.tokens.shape[1]) < kept[:, None]).nonzero()
        seat = results.seat[row]
        self._tokens[seat, self._n_output[seat] + column] = results.tokens[row, column]
        self._n_output[results.seat] += kept

    def _cut(self, request: Request, sample: _Sample) -> int:
        """Take back the tokens that the text did not get; return how many."""
        behind = int(self._n_output[request.seat]) - sample.n_pushed
        self._n_output[request.seat] -= behind
        self._room[request.seat] += behind
        if sample.logprobs is not None:
            del sample.logprobs[sample.n_pushed :]
        return behind

    def _break_off(self, request: Request, n: int) -> int:
        """Keep what came before a token that the decoder cannot say; return how many of the last `n` tokens that is."""
        sample = self._samples[request]
        n = max(0, n - self._cut(request, sample))
        if request.stream and n:
            piece = sample.text.take() if sample.text else ""
            self._events.append(TokenEvent(request.group, request.sample_index, self._newest(request, n), piece))
        return n

    def _speak(
        self,
        request: Request,
        n: int,
        logprobs: tuple[Logprobs, ...],
        reason: FinishReason | None,
        stop: int | None,
    ) -> tuple[int, bool]:
        """Report the last `n` tokens of a request's output; return how many of them stay, and whether it ended.

        A stop string takes back the tokens behind it.
        """
        sample = self._samples[request]
        if sample.logprobs is not None:
            sample.logprobs += logprobs[:n]
        found: str | None = None
        stream = None
        if reason or request.stream or request.params.stop:
            stream = self._text(request, sample)
        if stream is not None:
            # a token that stops adds no text
            end = int(self._n_output[request.seat]) - (stop is not None)
            found = self._push(request, sample, stream, end)
            if found is not None:
                n, reason = n - self._cut(request, sample), "stop"
            elif reason:
                stream.finish()
        if reason:
            self._finish(request, n, stream, reason, stop if found is None else found, None)
        elif n and request.stream:
            piece = stream.take() if stream else ""
            self._events.append(TokenEvent(request.group, request.sample_index, self._newest(request, n), piece))
        return n, reason is not None

    def _push(self, request: Request, sample: _Sample, stream: TextStream, end: int) -> str | None:
        """Give a text the output up to token `end`, and return the stop string that it then holds, if any."""
        for token in self._tokens[request.seat, sample.n_pushed : end].tolist():
            found = stream.push(token)
            sample.n_pushed += 1
            if found is not None:
                return found
        return None

    def _new(self, request: Request) -> _Sample:
        return _Sample(logprobs=None if request.params.logprobs is None else [])

    def _text(self, request: Request, sample: _Sample) -> TextStream | None:
        if sample.text is None and self._decoder is not None:
            sample.text = TextStream(self._decoder(), request.params.stop)
        return sample.text

    def _newest(self, request: Request, n: int) -> tuple[int, ...]:
        end = int(self._n_output[request.seat])
        return tuple(self._tokens[request.seat, end - n : end].tolist())

    def _finish(
        self,
        request: Request,
        n_new: int,
        stream: TextStream | None,
        reason: FinishReason,
        stop: int | str | None,
        error: str | None,
    ) -> None:
        """Report that a request ended, whose last `n_new` tokens were not reported yet."""
        sample = self._samples.pop(request)
        n = 0 if request.seat < 0 else int(self._n_output[request.seat])
        request.metrics.num_output_tokens = n
        seated_at = perf_counter() if request.seated_at is None else request.seated_at
        done = Completion(
            request_id=request.group,
            sample_index=request.sample_index,
            prompt_token_ids=request.prompt,
            token_ids=self._newest(request, n) if n else (),
            text=stream.text if stream else "",
            finish_reason=reason,
            stop_reason=stop,
            error=error,
            seed=request.seed,
            logprobs=None if sample.logprobs is None else tuple(sample.logprobs),
            metrics=request.metrics,
            queue_seconds=seated_at - request.added_at,
        )
        tokens = self._newest(request, n_new) if request.stream and n_new else ()
        piece = stream.take() if stream and request.stream else ""
        self._events.append(TokenEvent(request.group, request.sample_index, tokens, piece, done))
