"""A scenario asked of any OpenAI-compatible server: an open loop whose requests go out when the scenario says, by the
client's clock.

A request arrives when it is due, whether or not it could be sent then: lateness counts as waiting (no coordinated
omission). What is recorded are requests and their chunks as they came here; nothing is known of the server's steps. The
run has the scenario's own workload hash, so two such runs, or one and a planned run, are the same requests.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from app.errors import LabError
from engine.config import EngineError, RequestSpec, RunSpec, Sampling
from engine.config.text import tokenizer_here
from store.metrics import is_completed
from telemetry.clock import RunClock
from telemetry.recorder import Recorder

BY_CLIENT = "client's clock"
LONGEST_S = 600.0  # without a word from the server
DECODE = 1  # place in telemetry.rows.SLICE_KINDS


@dataclass
class Asked:
    """One request and how it went, times on the run's clock in ns."""

    index: int
    spec: RequestSpec
    prompt_ids: list[int] | None  # None: it is asked as text
    arrival_ns: int = 0
    first_token_ns: int | None = None
    last_ns: int | None = None
    end_ns: int | None = None
    output_tokens: int = 0
    output_ids: list[int] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)
    end_reason: str | None = None
    error: str | None = None


class Endpoint:
    """A server under ``URL`` and what it is asked."""

    def __init__(self, url: str, key: str = "") -> None:
        """Raises ``LabError`` for an address that is none."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise LabError(
                "bad-option",
                field="--endpoint",
                value=url,
                message="This is no address of a server.",
                mend="Such as --endpoint http://127.0.0.1:8643",
            )
        self.url = url.rstrip("/").removesuffix("/v1")
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self.model = ""

    def client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        return httpx.AsyncClient(
            base_url=self.url, headers=self._headers, limits=limits, timeout=LONGEST_S, trust_env=False
        )

    async def find_model(self, client: httpx.AsyncClient) -> None:
        """Take the first model the server names. Raises ``LabError`` where it does not answer so."""
        try:
            answer = await client.get("/v1/models", timeout=10.0)
            answer.raise_for_status()
            self.model = str(answer.json()["data"][0]["id"])
        except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
            raise LabError(
                "no-endpoint",
                field="--endpoint",
                value=self.url,
                message=f"The server does not name its models ({type(error).__name__} at /v1/models).",
                mend="Start it, or correct the address.",
            ) from error

    def body(self, asked: Asked, sampling: Sampling) -> dict[str, Any]:
        """What is sent for a request."""
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": asked.prompt_ids if asked.prompt_ids is not None else asked.spec.prompt,
            "max_tokens": asked.spec.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
        }
        body |= {"ignore_eos": True} if sampling.ignore_eos else {}
        body |= {"stop": list(sampling.stop)} if sampling.stop else {}
        body |= {"seed": asked.spec.seed} if asked.spec.seed is not None else {}
        return body


class OpenLoop:
    """Asks a run's requests of an endpoint and records what comes back."""

    def __init__(
        self, requests: Sequence[Asked], sampling: Sampling, endpoint: Endpoint, recorder: Recorder, clock: RunClock
    ) -> None:
        """``sampling``: of requests that bring none of their own."""
        self.requests = requests
        self._sampling = sampling
        self._endpoint = endpoint
        self._recorder = recorder
        self._clock = clock
        self._after: dict[str, list[Asked]] = defaultdict(list)
        self._chunks = 0
        for asked in self.requests:
            if asked.spec.after is not None:
                self._after[asked.spec.after].append(asked)

    async def run(self, client: httpx.AsyncClient) -> None:
        """Ask everything and wait for the end of everything. Cancelled, it records what was not over as cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for asked in self.requests:
                    if asked.spec.after is None:
                        group.create_task(self._chain(client, asked, asked.spec.arrival_ns, None))
        finally:
            for asked in self.requests:
                if asked.end_reason is None:
                    self._end(asked, "cancelled")

    async def _chain(self, client: httpx.AsyncClient, asked: Asked, due_ns: int, earlier: Asked | None) -> None:
        """A request, and those that wait for its end."""
        asked.arrival_ns = due_ns
        if asked.spec.continues and earlier is not None:
            if earlier.prompt_ids is None or len(earlier.output_ids) != earlier.output_tokens:
                asked.error = "the server does not tell token ids (return_token_ids), so no talk can be continued"
            else:
                asked.prompt_ids = [*earlier.prompt_ids, *earlier.output_ids, *(asked.prompt_ids or ())]
        await asyncio.sleep(max(0.0, (due_ns - self._clock.now_ns()) / 1e9))
        if asked.error is None:
            await self._ask(client, asked)
        else:
            self._end(asked, "failed")
        assert asked.end_ns is not None
        followers = self._after[asked.spec.request_id]
        await asyncio.gather(
            *(self._chain(client, each, asked.end_ns + each.spec.arrival_ns, asked) for each in followers)
        )

    async def _ask(self, client: httpx.AsyncClient, asked: Asked) -> None:
        body = self._endpoint.body(asked, asked.spec.sampling or self._sampling)
        patience = None if asked.spec.cancel_after_ns is None else asked.spec.cancel_after_ns / 1e9
        reason: str | None = None
        try:
            async with asyncio.timeout(patience):
                try:
                    reason = await self._answer(client, asked, body)
                except httpx.RemoteProtocolError:
                    if asked.usage or asked.last_ns is not None:
                        raise
                    # A kept connection that the server had closed meanwhile; llama.cpp does so after a stream.
                    reason = await self._answer(client, asked, body)
        except TimeoutError:
            reason = "cancelled"
        except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
            asked.error = f"{type(error).__name__}: {error}"[:300]
        if asked.error is None and reason is None:
            asked.error = "the stream ended without a reason"
        self._end(asked, "failed" if asked.error is not None else reason or "failed")

    async def _answer(self, client: httpx.AsyncClient, asked: Asked, body: dict[str, Any]) -> str | None:
        """Send it and take the stream; why it ended, if it said so."""
        reason: str | None = None
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                await answer.aread()
                asked.error = f"HTTP {answer.status_code}: {answer.text[:300]}"
                return None
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    reason = self._chunk(asked, json.loads(line.removeprefix("data: "))) or reason
        return reason

    def _chunk(self, asked: Asked, told: dict[str, Any]) -> str | None:
        """Take a chunk; why the answer ended, if it did."""
        now_ns = self._clock.now_ns()
        if "error" in told:
            asked.error = str(told["error"])[:300]
            return None
        asked.usage = told.get("usage") or asked.usage
        if not told.get("choices"):
            return None
        choice = told["choices"][0]
        ids, finish = choice.get("token_ids"), choice.get("finish_reason")
        # Without ids a chunk is a token, also one without text (a special token); the one that ends may be none.
        count = len(ids) if ids is not None else int(bool(choice.get("text")) or finish is None)
        if count:
            gap_ns = None if asked.last_ns is None else now_ns - asked.last_ns
            self._recorder.slices(
                self._chunks,
                request=[asked.index],
                kind=[DECODE],
                tokens=[count],
                context_len=[0],
                emitted=[count],
                itl_ns=[gap_ns],
            )
            self._chunks += 1
            asked.first_token_ns = asked.first_token_ns or now_ns
            asked.last_ns = now_ns
            asked.output_tokens += count
            asked.output_ids += ids or ()
        return None if finish is None else "length" if finish == "length" else "stop"

    def _end(self, asked: Asked, reason: str) -> None:
        completed = is_completed(reason)
        asked.end_reason = reason
        asked.end_ns = asked.last_ns if completed and asked.last_ns is not None else self._clock.now_ns()
        if asked.usage.get("completion_tokens") is not None:
            asked.output_tokens = int(asked.usage["completion_tokens"])
        details = asked.usage.get("prompt_tokens_details") or {}
        self._recorder.request(
            request=asked.index,
            request_id=asked.spec.request_id,
            group=asked.spec.group,
            priority=asked.spec.priority,
            arrival_ns=asked.arrival_ns,
            first_scheduled_ns=None,
            first_token_ns=asked.first_token_ns,
            end_ns=max(asked.end_ns, asked.arrival_ns),
            prompt_tokens=int(asked.usage.get("prompt_tokens") or len(asked.prompt_ids or ())),
            cached_tokens=int(details.get("cached_tokens") or 0),
            output_tokens=asked.output_tokens,
            preemptions=0,
            drafted_tokens=0,
            accepted_tokens=0,
            end_reason=reason,
            error=asked.error,
            text=None,
            output_token_ids=asked.output_ids or None,
        )


def asked_of(spec: RunSpec) -> list[Asked]:
    """A run's requests, ready to be asked. Raises ``LabError`` where their prompts cannot be made here."""
    return [Asked(number, request, _prompt_ids(spec, request)) for number, request in enumerate(spec.requests)]


def _prompt_ids(spec: RunSpec, asked: RequestSpec) -> list[int] | None:
    """A prompt as the scenario's model tokenises it, so that every server is asked the same; None where its tokenizer
    is not on this machine and nothing but text is asked for.

    Raises ``LabError`` where the prompt cannot be asked without it.
    """
    if asked.prompt_token_ids is not None:
        return list(asked.prompt_token_ids)
    tokenizer = tokenizer_here(spec.engine.model)
    if tokenizer is None:
        if asked.chat or asked.prompt_tokens is not None:
            raise LabError(
                "no-tokenizer",
                field="model",
                value=spec.engine.model,
                message="Prompts of given lengths and chats need the tokenizer of the scenario's model.",
                mend="Name a model whose directory is on this machine: --set model=/path/to/model",
            )
        return None
    try:
        return tokenizer.prompt(
            asked.prompt or "",
            chat=asked.chat,
            system=asked.system,
            length=asked.prompt_tokens,
            now=spec.asked_at,
            begins=not asked.continues,
        )
    except EngineError as error:
        raise LabError(
            error.kind, field=error.field, value=error.value, message=error.message, mend=error.mend
        ) from error


def requests_summary(requests: Sequence[Asked]) -> dict[str, int]:
    """How many there are, and how they ended."""
    reasons = [asked.end_reason for asked in requests]
    return {
        "total": len(reasons),
        "finished": sum(is_completed(reason) for reason in reasons),
        "cancelled": reasons.count("cancelled"),
        "failed": reasons.count("failed"),
    }
