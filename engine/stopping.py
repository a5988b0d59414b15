"""What becomes of sampled tokens: a request's output, its text, and its end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from engine.config.digest import digest_of
from engine.request import Request


class TextDecoder(Protocol):
    """What ``Outputs`` needs of a tokenizer."""

    def decode(self, ids: Sequence[int]) -> str: ...


class Outputs:
    """Appends tokens and applies the stop conditions: end of sequence, stop strings, token limit, model length."""

    def __init__(
        self, tokenizer: TextDecoder | None, eos_token_ids: Iterable[int], max_model_len: int, keep_text: bool
    ) -> None:
        self.tokenizer = tokenizer
        self.eos_token_ids = frozenset(eos_token_ids)
        self.max_model_len = max_model_len
        self.keep_text = keep_text

    def append(self, request: Request, tokens: Iterable[int]) -> int:
        """Give a request its tokens until one ends it (``end_reason``); returns how many it took.

        The end-of-sequence token is part of the output.
        """
        taken = 0
        for token in tokens:
            request.token_ids.append(token)
            request.sampling_state.observe((token,))
            request.end_reason = self._end_reason(request, token)
            taken += 1
            if request.end_reason is not None:
                break
        return taken

    def close(self, request: Request) -> None:
        """Fill in the text of an ended request, cut before a stop string."""
        if not self.keep_text or self.tokenizer is None:
            return
        ids = request.output_token_ids
        text = self.tokenizer.decode(ids[:-1] if ended_by_stop_token(request) else ids)
        stops_at = [i for i in (text.find(stop) for stop in request.sampling.stop) if i >= 0]
        request.text = text[: min(stops_at)] if stops_at else text

    def _is_last(self, token: int, request: Request) -> bool:
        at_end = token in self.eos_token_ids and not request.sampling.ignore_eos
        return at_end or token in request.stop_token_ids

    def _end_reason(self, request: Request, token: int) -> str | None:
        sampling = request.sampling
        if request.num_output_tokens > request.min_tokens and self._is_last(token, request):
            return "stop"
        if sampling.stop and request.stream is not None:
            request.text += request.stream.push(token)
            text = request.text + request.stream.ahead
            if any(stop in text for stop in sampling.stop):
                return "stop_string"
        if request.num_output_tokens >= request.max_tokens or len(request.token_ids) >= self.max_model_len:
            return "length"
        return None


def ended_by_stop_token(request: Request) -> bool:
    """Whether its last token is one that was to end it, and so no part of its text."""
    return request.end_reason == "stop" and request.token_ids[-1] in request.stop_token_ids


def output_digest(requests: Iterable[Request]) -> str:
    """SHA-256 over every request's output token ids, in request order."""
    return digest_of((request.index, request.output_token_ids) for request in requests)
