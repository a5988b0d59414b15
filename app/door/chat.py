"""Talking to an open door: one answer as it comes, and what the engine did for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from app.door.open_doors import OpenDoor
from app.errors import LabError
from app.rights import Right, needs

LONGEST_S = 600.0


@dataclass
class Talked:
    """An answer: pieces of text with the number of tokens that came with each, and its figures."""

    pieces: list[tuple[str, int]] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    finish_reason: str | None = None

    @property
    def text(self) -> str:
        return "".join(piece for piece, _ in self.pieces)

    @property
    def in_words(self) -> str:
        """Its figures in a line."""
        usage, metrics = self.usage, self.metrics or {}
        told = [f"{usage.get('completion_tokens', 0):,} tokens"]
        if metrics.get("time_to_first_token_ms") is not None:
            told.append(f"TTFT {metrics['time_to_first_token_ms']:,.0f} ms")
            told.append(f"{metrics['queue_time_ms']:,.0f} ms of it waiting")
        if metrics.get("mean_itl_ms"):
            told.append(f"ITL {metrics['mean_itl_ms']:,.1f} ms")
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        if cached is not None:
            told.append(f"{cached:,} of {usage['prompt_tokens']:,} prompt tokens found in the cache")
        if guesses := metrics.get("speculative_decoding"):
            told.append(f"{guesses['num_accepted_tokens']:,} of {guesses['num_draft_tokens']:,} guesses right")
        return ", ".join(told)


@needs(Right.START)
def talk(door: OpenDoor, messages: Sequence[dict[str, str]], most: int, talked: Talked) -> Iterator[str]:
    """The answer's text as it comes; ``talked`` fills with it.

    Raises ``LabError`` saying why there is none, to a viewer of a room at once.
    """
    body = {
        "model": door.model,
        "messages": list(messages),
        "max_completion_tokens": most,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
    }
    headers = {"authorization": f"Bearer {door.key}"} if door.key else {}
    try:
        with (
            httpx.Client(trust_env=False, timeout=LONGEST_S) as client,
            client.stream("POST", f"{door.url}/v1/chat/completions", json=body, headers=headers) as answer,
        ):
            if answer.status_code != 200:
                answer.read()
                raise _refused(answer.json()["error"]["message"])
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    yield from _take(json.loads(line.removeprefix("data: ")), talked)
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise _refused(f"The door does not answer ({type(error).__name__}).") from error


def _take(chunk: dict[str, Any], talked: Talked) -> Iterator[str]:
    if "error" in chunk:
        raise _refused(chunk["error"]["message"])
    if not chunk["choices"]:
        talked.usage, talked.metrics = chunk["usage"], chunk.get("metrics") or {}
        return
    choice = chunk["choices"][0]
    piece = choice["delta"].get("content") or ""
    talked.pieces.append((piece, len(choice.get("token_ids") or ())))
    talked.finish_reason = choice["finish_reason"]
    yield piece


def _refused(message: str) -> LabError:
    return LabError("door", message=message)
