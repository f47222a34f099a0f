"""Line 8 of the round: what was heard becomes output, exactly as long as it should be.

A verification may commit tokens behind a stop; the device does not know stops, so the host trims.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from sparsespec.core.params import SamplingParams
from sparsespec.core.result import RowResult
from sparsespec.engine.outputs import Completion, FinishReason, TokenEvent
from sparsespec.engine.request import Request
from sparsespec.engine.text import Decoder, TextStream


class Speaker:
    """Outputs of all running requests.

    Args:
        decoder: Makes a fresh decoder for a sample; None for an engine without a tokenizer.
    """

    def __init__(self, decoder: Callable[[], Decoder] | None) -> None:
        self._decoder = decoder
        self._streams: dict[Request, TextStream] = {}
        self.events: list[TokenEvent] = []

    def commit(self, request: Request, result: RowResult) -> bool:
        """Append the tokens of a VERIFY row up to the first stop; returns whether the request ended."""
        tokens, ends, stops_at = _cut(request, result.tokens)
        if self._decoder is None:
            request.output += tokens
            request.logprobs += result.logprobs[: len(tokens)]
            self._say(request, tokens, ends, stops_at, None)
            return ends is not None
        reason: FinishReason | None = None
        stop: int | str | None = None
        n = 0
        try:
            stream = self._stream(request)
            while stream and n < len(tokens) and stop is None:
                # a token that stops adds no text
                if stops_at is None or n + 1 < len(tokens):
                    stop = stream.push(tokens[n])
                n += 1
            if stop is None:
                n, reason, stop = len(tokens), ends, stops_at
            else:
                reason = "stop"
        finally:  # what came before a token that the decoder cannot say is output all the same
            request.output += tokens[:n]
            request.logprobs += result.logprobs[:n]
            self._say(request, tokens[:n], reason, stop, None)
        return reason is not None

    def end(self, request: Request, reason: FinishReason, error: str | None = None) -> None:
        """Finish a request for a reason that is not in its tokens."""
        self._say(request, (), reason, None, error)

    def take(self) -> tuple[TokenEvent, ...]:
        """Return what was said since the last call."""
        events, self.events = tuple(self.events), []
        return events

    def _stream(self, request: Request) -> TextStream | None:
        if self._decoder is None:
            return None
        if request not in self._streams:
            self._streams[request] = TextStream(self._decoder(), request.params.stop)
        return self._streams[request]

    def _say(
        self,
        request: Request,
        tokens: tuple[int, ...],
        reason: FinishReason | None,
        stop: int | str | None,
        error: str | None,
    ) -> None:
        if reason is None and self._decoder is None:
            if tokens:
                self.events.append(TokenEvent(request.group, request.sample, tokens, ""))
            return
        # the decoder itself may be what broke: after an error it is neither made nor asked
        stream = self._streams.get(request) if error else self._stream(request)
        done, text = None, ""
        if stream is not None:
            if reason and not isinstance(stop, str):
                stream.finish(flush=error is None)
            text = stream.take()
        if reason:
            done = _completion(request, reason, stop, error, stream.text if stream else "")
            self._streams.pop(request, None)
        if tokens or done:
            self.events.append(TokenEvent(request.group, request.sample, tokens, text, done))


def _cut(request: Request, tokens: tuple[int, ...]) -> tuple[tuple[int, ...], FinishReason | None, int | None]:
    """Return `tokens` up to the first that stops or the last there is room for, and why they end there if they do."""
    room = request.limit - len(request.prompt) - len(request.output)
    if not request.stop_ids.isdisjoint(tokens):
        first = next(i for i, token in enumerate(tokens) if token in request.stop_ids)
        if first < room:
            return tokens[: first + 1], "stop", tokens[first]
    return (tokens, None, None) if len(tokens) < room else (tokens[:room], "length", None)


def _completion(
    request: Request, reason: FinishReason, stop: int | str | None, error: str | None, text: str
) -> Completion:
    params: SamplingParams = request.params
    request.metrics.num_output_tokens = len(request.output)
    return Completion(
        request_id=request.group,
        sample=request.sample,
        prompt_token_ids=request.prompt,
        token_ids=tuple(request.output),
        text=text,
        finish_reason=reason,
        stop_reason=stop,
        error=error,
        seed=request.seed,
        logprobs=None if params.logprobs is None else tuple(request.logprobs),
        metrics=request.metrics,
        queue_seconds=(perf_counter() if request.seated_at is None else request.seated_at) - request.added_at,
    )
