"""Answers as OpenAI forms them: whole, and in chunks.

A stream is ``data: {json}`` and an empty line for each step of the engine that gave it tokens, nothing else between;
why it ended stands in the last chunk with text; the usage has a chunk of its own, where it was asked for; the end is
``data: [DONE]``. The first chunk of a chat brings the role together with the first token.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from app.door.answer_text import AnswerText
from app.door.bodies import ChatBody, Generation
from app.door.errors import DoorError
from app.door.logprobs import Scored, TextOf, of_chat, of_completion
from app.door.streams import Exchange, Step, Stream

DONE = b"data: [DONE]\n\n"
FINISH = {"stop": "stop", "stop_string": "stop", "length": "length"}
MOST_CHUNKS = 32  # of one answer that a client has not taken: more are joined


@dataclass
class _Choice:
    """One answer as it grows."""

    stream: Stream
    words: AnswerText
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    scored: list[Scored] = field(default_factory=list)
    offset: int = 0  # characters of the tokens before, one by one
    finish_reason: str | None = None
    stop_reason: str | int | None = None

    def grow(self, step: Step, last: bool) -> str:
        """Take a step's tokens; the text that they let be shown, and with the last of them the rest."""
        tokens = step.tokens
        self.token_ids += tokens
        self.scored += [Scored(token, told) for token, told in zip(tokens, step.scores, strict=False)]
        piece = self.words.push(tokens)
        if last and self.stream.ended is not None:
            reason = self.stream.ended["reason"]
            piece += self.words.finish(reason)
            self.finish_reason = FINISH.get(reason)
            if reason == "stop_string":
                self.stop_reason = self.words.stopped_by
            elif reason == "stop" and self.token_ids and self.token_ids[-1] in self.stream.ask.stop_token_ids:
                self.stop_reason = self.token_ids[-1]
        self.text += piece
        return piece


class Answer:
    """The answer to one HTTP request."""

    def __init__(
        self,
        exchange: Exchange,
        body: Generation,
        model: str,
        words: list[AnswerText],
        prompts: list[list[int]],
        text_of: TextOf,
        echoes: list[str] | None = None,
    ) -> None:
        """
        Args:
            text_of: a single token's text, for log-probabilities.
            echoes: the prompts as text, where they come before the answers; None: they do not.
        """
        self.exchange = exchange
        self._text_of = text_of
        self._echoes = echoes
        self._wants_scores = body.logprobs_told is not None
        self._only_prompt = body.most_tokens == 0
        self._chat = isinstance(body, ChatBody)
        self._with_ids = bool(body.return_token_ids)
        options = body.stream_options
        self._usage_last = options is not None and options.include_usage
        self._usage_always = options is not None and options.continuous_usage_stats
        self._prompts = prompts
        self._choices = [_Choice(stream, own) for stream, own in zip(exchange.streams, words, strict=True)]
        self._begun: set[int] = set()
        self._head = {
            "id": exchange.streams[0].ask.request.request_id,
            "object": ("chat.completion" if self._chat else "text_completion"),
            "created": int(time.time()),
            "model": model,
        }
        self._chunk_object = "chat.completion.chunk" if self._chat else "text_completion"

    # ---- in chunks ----------------------------------------------------------------------------------------------

    def chunks(self) -> list[bytes]:
        """Everything new, one chunk for each step and answer."""
        chunks: list[bytes] = []
        for choice in self._choices:
            steps = choice.stream.take()
            if len(steps) > MOST_CHUNKS:
                steps = [_joined(steps)]
            ended = choice.stream.ended
            over = ended is not None and ended["reason"] in FINISH and choice.finish_reason is None
            if over and not steps:
                steps = [Step([])]
            for place, step in enumerate(steps):
                piece = choice.grow(step, last=over and place == len(steps) - 1)
                chunks.append(self._chunk(choice, piece, step.tokens))
        return chunks

    def last_chunks(self) -> bytes:
        """What comes after the last token."""
        usage = b""
        if self._usage_last:
            told = self._head | {"object": self._chunk_object, "choices": [], "usage": self.usage()}
            usage = _event(told | {"metrics": self.metrics()})
        return usage + DONE

    def _chunk(self, choice: _Choice, piece: str, tokens: list[int]) -> bytes:
        index = choice.stream.choice
        told: dict[str, Any] = {"index": index}
        if self._chat:
            told["delta"] = {"content": piece}
            if index not in self._begun:
                told["delta"] = {"role": "assistant", "content": piece}
        else:
            told["text"] = piece
        told |= {"logprobs": self._logprobs(choice), "finish_reason": choice.finish_reason}
        if choice.finish_reason is not None:
            told["stop_reason"] = choice.stop_reason
        if self._with_ids:
            told["token_ids"] = tokens
            if index not in self._begun:
                told["prompt_token_ids"] = self._prompts[index]
        self._begun.add(index)
        chunk: dict[str, Any] = self._head | {"object": self._chunk_object, "choices": [told]}
        if self._usage_always:
            chunk["usage"] = self.usage()
        return _event(chunk)

    # ---- whole --------------------------------------------------------------------------------------------------

    def whole(self) -> dict[str, Any]:
        """The answer once all of it is there."""
        choices = []
        for choice in self._choices:
            choice.grow(_joined(choice.stream.take()), last=True)
            if self._echoes is not None:
                self._put_before(choice, self._echoes[choice.stream.choice])
            told: dict[str, Any] = {"index": choice.stream.choice}
            if self._chat:
                told["message"] = {"role": "assistant", "content": choice.text}
            else:
                told["text"] = choice.text
            told |= {
                "logprobs": self._logprobs(choice),
                "finish_reason": choice.finish_reason,
                "stop_reason": choice.stop_reason,
            }
            if self._with_ids:
                told |= {"token_ids": choice.token_ids, "prompt_token_ids": self._prompts[choice.stream.choice]}
            choices.append(told)
        return self._head | {"choices": choices, "usage": self.usage(), "metrics": self.metrics()}

    def _put_before(self, choice: _Choice, prompt: str) -> None:
        """The prompt before its answer; without the answer, where none was asked for."""
        if self._only_prompt:
            choice.text, choice.token_ids, choice.scored = "", [], []
        choice.text = prompt + choice.text
        if self._wants_scores:
            ids = self._prompts[choice.stream.choice]
            told = [None, *choice.stream.prompt_scores]
            choice.scored = [*map(Scored, ids, told), *choice.scored]

    # ---- beside the text ----------------------------------------------------------------------------------------

    def _logprobs(self, choice: _Choice) -> dict[str, Any] | None:
        """Of the tokens since the last call."""
        if not self._wants_scores:
            return None
        scored, choice.scored = choice.scored, []
        if self._chat:
            return of_chat(scored, self._text_of)
        told = of_completion(scored, self._text_of, choice.offset)
        choice.offset += sum(map(len, told["tokens"]))
        return told

    def usage(self) -> dict[str, Any]:
        """Tokens so far, those included whose text is still held back."""
        prompt = sum(map(len, self._prompts))
        output = sum(len(choice.token_ids) for choice in self._choices)
        ends = [about for choice in self._choices if (about := choice.stream.ended) is not None]
        told: dict[str, Any] = {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
        }
        if len(ends) == len(self._choices):
            drafted, accepted = (sum(e[f"{kind}_tokens"] for e in ends) for kind in ("drafted", "accepted"))
            told["prompt_tokens_details"] = {"cached_tokens": sum(e["cached_tokens"] for e in ends)}
            told["completion_tokens_details"] = {
                "accepted_prediction_tokens": accepted,
                "rejected_prediction_tokens": drafted - accepted,
            }
        return told

    def metrics(self) -> dict[str, Any] | None:
        """Times of a single answer, on the engine's clock, as vLLM names them, and its number in the run."""
        about, stream = self._choices[0].stream.ended, self._choices[0].stream
        if len(self._choices) != 1 or about is None or about["first_token_ns"] is None:
            return None
        gaps = about["output_tokens"] - 1
        drafted, accepted = about["drafted_tokens"], about["accepted_tokens"]
        return {
            "request": stream.number,
            "time_to_first_token_ms": (about["first_token_ns"] - about["arrival_ns"]) / 1e6,
            "queue_time_ms": (about["first_scheduled_ns"] - about["arrival_ns"]) / 1e6,
            "mean_itl_ms": stream.gaps_ns / gaps / 1e6 if gaps > 0 else None,
            "speculative_decoding": {"num_draft_tokens": drafted, "num_accepted_tokens": accepted} if drafted else None,
        }


def _joined(steps: Iterable[Step]) -> Step:
    tokens: list[int] = []
    scores: list[Any] = []
    for step in steps:
        tokens += step.tokens
        scores += step.scores
    return Step(tokens, scores)


def failure_event(error: DoorError) -> bytes:
    """An error in a stream that has begun; nothing comes after it."""
    return _event(error.as_dict())


def _event(told: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
