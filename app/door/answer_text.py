"""The text of one answer as its tokens come: whole characters only, nothing that a stop string may yet take back.

Joined, the pieces are the text that the run's rows have.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.config.text import TextTokens


class AnswerText:
    """From tokens to text that may be shown."""

    def __init__(self, tokenizer: TextTokens, stops: Sequence[str] = (), stop_token_ids: Iterable[int] = ()) -> None:
        from engine.config.text import stream_decoder

        self._decoder = stream_decoder(tokenizer)
        self._stops = stops
        self._stop_token_ids = frozenset(stop_token_ids)
        self.stopped_by: str | None = None  # the stop string that ended it
        self._held = ""  # may be the beginning of a stop string
        self._last: int | None = None  # a stop token that came too early to end the answer, or did end it

    def push(self, tokens: Iterable[int]) -> str:
        """What these tokens let be shown."""
        pieces = [self._held]
        for token in tokens:
            if self._last is not None:
                pieces.append(self._decoder.push(self._last))
                self._last = None
            if token in self._stop_token_ids:
                self._last = token
            else:
                pieces.append(self._decoder.push(token))
        text = "".join(pieces)
        held = self._open_stop(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self, reason: str) -> str:
        """The rest; ``reason``: why the answer ended, in the engine's words."""
        text = self._held
        if self._last is not None and reason != "stop":
            text += self._decoder.push(self._last)
        text += self._decoder.flush()
        self._held, self._last = "", None
        found = [(text.find(stop), stop) for stop in self._stops if stop in text]
        if not found:
            return text
        place, self.stopped_by = min(found)
        return text[:place]

    def _open_stop(self, text: str) -> int:
        """Characters at the end of a text that a stop string, begun there, may yet take back."""
        places = [text.find(stop) for stop in self._stops if stop in text]
        if places:  # only where the answer ends with this very step
            return len(text) - min(places)
        most = max(map(len, self._stops), default=0) - 1
        for length in range(min(most, len(text)), 0, -1):
            end = text[len(text) - length :]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
