"""What the door knows while it is open, and the way from a client's body to requests of the engine."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from app.door.bodies import Body, ChatBody, CompletionBody, Generation
from app.door.errors import BAD_REQUEST, NOT_FOUND, TOO_MANY, UNAVAILABLE, DoorError, of_engine
from app.door.link import Link
from app.door.metrics import Counts
from app.door.streams import Exchange
from engine.config import EngineConfig, EngineError, RequestSpec

if TYPE_CHECKING:
    from engine.config.text import TextTokens

COMPLETION_TOKENS = 16  # output tokens at most of a completion that says nothing else
SHORT_TEXT = 4000  # characters that are tokenised at once; a longer text in a thread, so that streams go on meanwhile


@dataclass
class Desk:
    """The open door."""

    link: Link
    tokenizer: TextTokens
    text_of: Callable[[int], str]  # of a single token
    engine: EngineConfig
    model: str  # as clients call it
    most_open: int  # requests in the engine, running and waiting; beyond them 429
    counts: Counts
    say: Callable[[str], None] = print
    created: int = field(default_factory=lambda: int(time.time()))
    is_draining: bool = False
    exchanges: set[Exchange] = field(default_factory=set)
    _durations_s: deque[float] = field(default_factory=lambda: deque(maxlen=32))

    @property
    def is_healthy(self) -> bool:
        return not self.is_draining and not self.link.is_gone

    def check_model(self, name: str | None) -> None:
        """Raises ``DoorError`` where a client names another model than the one that is served."""
        if name is not None and name != self.model:
            raise DoorError(
                NOT_FOUND,
                f"The model {name[:200]!r} is not served here; {self.model!r} is.",
                param="model",
                code="model_not_found",
            )

    def notice(self, body: Body) -> None:
        """Count the fields that nobody here knows, and say so once for each."""
        for name in self.counts.ignore(body.ignored):
            self.say(f"A client sends the field {name[:100]!r}, which is ignored.")

    def admit(self, wanted: int) -> None:
        """Raises ``DoorError`` where ``wanted`` more requests cannot be taken now."""
        if self.link.is_gone:
            raise DoorError(UNAVAILABLE, "The engine process is gone. Open the door again.", code="engine_gone")
        if self.is_draining:
            raise DoorError(
                UNAVAILABLE, "The door is being closed.", code="closing", headers={"retry-after": str(self.wait_s)}
            )
        if self.link.is_full:
            message = "This session has had as many requests as a run can hold. Open the door again."
            raise DoorError(UNAVAILABLE, message, code="session_full")
        if sum(len(e.streams) for e in self.exchanges) + wanted > self.most_open:
            self.counts.turned_away += 1
            raise DoorError(
                TOO_MANY,
                f"{self.most_open} requests are being served or wait; try again in about {self.wait_s} s.",
                code="overloaded",
                headers={"retry-after": str(self.wait_s)},
            )

    @property
    def wait_s(self) -> int:
        """Seconds after which a place is likely to be free."""
        usual = statistics.median(self._durations_s) if self._durations_s else 1.0
        rounds = self.link.open_count / max(1, self.engine.max_num_seqs)
        return min(60, max(1, math.ceil(usual * rounds)))

    async def open(self, body: Generation, came_ns: int) -> tuple[Exchange, list[list[int]]]:
        """Ask the engine what a client asks; the exchange, and the prompts' token ids. Raises ``DoorError``."""
        self.check_model(body.model)
        self.notice(body)
        prompts = await self.prompts(body)
        self.admit(len(prompts))
        exchange = Exchange()
        requests = [self._request(body, ids) for ids in prompts]
        for request in requests:
            self.link.ask(
                exchange,
                request,
                came_ns,
                stop_token_ids=tuple(body.stop_token_ids or ()),
                min_tokens=min(body.min_tokens or 0, request.max_tokens),
                logprobs=body.logprobs_told,
                prompt_logprobs=body.logprobs_told is not None and wants_echo(body),
            )
        self.exchanges.add(exchange)
        return exchange, prompts

    def close(self, exchange: Exchange, started: float) -> None:
        """The HTTP request is over, whatever became of it."""
        self.exchanges.discard(exchange)
        if exchange.is_over:
            self._durations_s.append(time.monotonic() - started)
        else:
            self.link.give_up(exchange)

    async def prompts(self, body: Generation) -> list[list[int]]:
        """Token ids of what a client asks. Raises ``DoorError``."""
        if isinstance(body, ChatBody):
            messages = [message.as_text(place) for place, message in enumerate(body.messages)]
            long = sum(len(message["content"]) for message in messages) > SHORT_TEXT
            return [await self.tokenize(lambda: self.tokenizer.chat(messages), long)]
        assert isinstance(body, CompletionBody)
        if not body.prompts:
            raise DoorError(BAD_REQUEST, "prompt: an empty list asks nothing.", param="prompt", code="bad_value")
        begins = body.add_special_tokens is not False
        return [
            await self.encode(prompt, begins, "prompt") if isinstance(prompt, str) else list(prompt)
            for prompt in body.prompts
        ]

    async def encode(self, text: str, begins: bool, field: str) -> list[int]:
        """Token ids of a text. Raises ``DoorError`` where there are none."""
        if not text:
            raise DoorError(BAD_REQUEST, f"{field}: an empty text has no tokens.", param=field, code="bad_value")
        return await self.tokenize(lambda: self.tokenizer.prompt(text, begins=begins), len(text) > SHORT_TEXT)

    async def tokenize(self, work: Callable[[], list[int]], long: bool) -> list[int]:
        """Tokens of a text or a chat. Raises ``DoorError`` where the tokenizer or the template refuses."""
        try:
            return await asyncio.to_thread(work) if long else work()
        except EngineError as error:
            raise of_engine(error) from None

    def _request(self, body: Generation, ids: Sequence[int]) -> RequestSpec:
        room = self.link.hello["max_model_len"] - len(ids)
        chat = isinstance(body, ChatBody)
        self._check(body, ids, room)
        if wants_echo(body):
            self._check_echo(body)
        elif body.most_tokens == 0:
            raise DoorError(BAD_REQUEST, "max_tokens: 0 asks for something only with echo.", param="max_tokens")
        most = (
            1
            if body.most_tokens == 0
            else body.most_tokens or (max(1, room) if chat else min(COMPLETION_TOKENS, max(1, room)))
        )
        given = {
            name: value
            for name in ("temperature", "top_p", "min_p", "repetition_penalty", "ignore_eos")
            if (value := getattr(body, name)) is not None
        }
        if body.top_k is not None:
            given["top_k"] = max(0, body.top_k)
        if body.stop is not None:
            given["stop"] = body.stops
        return RequestSpec(
            request_id=f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            prompt_token_ids=tuple(ids),
            max_tokens=most,
            sampling=self.engine.sampling.model_copy(update=given) if given else None,
            seed=None if body.seed is None else body.seed & (2**63 - 1),
            priority=-(body.priority or 0),
        )

    def _check_echo(self, body: Generation) -> None:
        if body.stream:
            raise DoorError(BAD_REQUEST, "echo is not served in a stream.", param="echo", code="not_served")
        if body.logprobs_told is not None and not self.link.hello["scores_prompts"]:
            raise DoorError(
                BAD_REQUEST,
                "Log-probabilities of a prompt are read by PyTorch's own operations only: open the door with "
                "--set attention_backend=gathered.",
                param="echo",
                code="not_served",
            )

    def _check(self, body: Generation, ids: Sequence[int], room: int) -> None:
        field = "messages" if isinstance(body, ChatBody) else "prompt"
        if not ids:
            raise DoorError(BAD_REQUEST, f"{field}: it has no tokens.", param=field, code="bad_value")
        vocab = self.link.hello["vocab"]
        if (wrong := next((token for token in ids if token >= vocab), None)) is not None:
            message = f"{field}: there is no token {wrong}; the vocabulary has {vocab:,}, from 0 to {vocab - 1}."
            raise DoorError(BAD_REQUEST, message, param=field, code="bad_value")
        asked = body.most_tokens or 1
        if asked > room:
            longest = self.link.hello["max_model_len"]
            name = "max_completion_tokens" if body.max_completion_tokens is not None else "max_tokens"
            raise DoorError(
                BAD_REQUEST,
                f"This model's context holds {longest:,} tokens. The prompt has {len(ids):,} and {asked:,} are asked "
                f"for as output ({name}); ask for {max(0, room):,} at most, or shorten the prompt.",
                param=name if room > 0 else field,
                code="context_length_exceeded",
            )
        if body.min_tokens is not None and body.most_tokens is not None and body.min_tokens > body.most_tokens:
            message = f"min_tokens: {body.min_tokens} are more than max_tokens, {body.most_tokens}."
            raise DoorError(BAD_REQUEST, message, param="min_tokens", code="bad_value")


def wants_echo(body: Generation) -> bool:
    return isinstance(body, CompletionBody) and bool(body.echo)


def facts(desk: Desk) -> dict[str, Any]:
    """What ``/server_info`` tells."""
    counts, hello = desk.counts, desk.link.hello
    accepted = None if not counts.drafts else 1 + counts.sums["accepted_tokens"] / counts.drafts
    return {
        "model": desk.model,
        "run_id": hello["run_id"],
        "labels": hello["labels"],
        "max_model_len": hello["max_model_len"],
        "max_num_seqs": hello["max_num_seqs"],
        "kv_blocks": hello["kv_blocks"],
        "device": hello["device"],
        "engine": desk.engine.model_dump(mode="json"),
        "internal_states": [{"avg_spec_accept_length": accepted}],
    }
