"""Spans of another engine's requests, as OpenTelemetry's protocol (OTLP over HTTP) carries them.

vLLM's ``--otlp-traces-endpoint`` sends one span for each request that ended, with its latencies as the engine took them
(attributes ``gen_ai.latency.*`` in s, ``gen_ai.usage.*`` in tokens). They become rows of ``requests``, by the engine's
clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

E2E, TTFT = "gen_ai.latency.e2e", "gen_ai.latency.time_to_first_token"
PREFILL, QUEUE = "gen_ai.latency.time_in_model_prefill", "gen_ai.latency.time_in_queue"
PROMPT, OUTPUT = "gen_ai.usage.prompt_tokens", "gen_ai.usage.completion_tokens"
NAME, MOST_TOKENS = "gen_ai.request.id", "gen_ai.request.max_tokens"
MOST_REQUESTS = 200_000  # of one watch
MOST_SPANS = 100_000  # of one message
MOST_COUNT = 2**31 - 1
MOST_NS = 2**62
LONGEST_NAME = 200


class NoSpans(ValueError):
    """A message that holds no spans; the text says why."""


@dataclass(frozen=True)
class Span:
    """``start_ns`` since 1970; ``attributes``: texts and numbers, others are left out."""

    trace_id: bytes
    span_id: bytes
    start_ns: int
    attributes: Mapping[str, str | int | float]


@dataclass
class Requests:
    """Spans as they come, each request once. Counts what became no row: ``others`` are spans of something else,
    ``earlier`` began before the watch, ``beyond`` were more than are kept.
    """

    began_unix_ns: int
    count: int = 0
    others: int = 0
    earlier: int = 0
    beyond: int = 0
    _seen: set[tuple[bytes, bytes]] = field(default_factory=set)

    def take(self, spans: Iterable[Span]) -> list[dict[str, Any]]:
        """Columns of ``RequestRow``, times in ns since the watch began. A span sent twice, as exporters do when an
        answer was late, is one request.
        """
        rows = []
        for span in spans:
            if (span.trace_id, span.span_id) in self._seen:
                continue
            row = _row(span, self.began_unix_ns)
            if row is None:
                self.others += 1
            elif row["arrival_ns"] < 0:
                self.earlier += 1
            elif self.count == MOST_REQUESTS:
                self.beyond += 1
            else:
                self._seen.add((span.trace_id, span.span_id))
                rows.append(row | {"request": self.count})
                self.count += 1
        return rows

    def words(self) -> str:
        """What came, and what was left out of it."""
        left_out = [
            f"{count:,} {what}"
            for count, what in (
                (self.others, "of something else than a request"),
                (self.earlier, "of requests that arrived before the watch began"),
                (self.beyond, f"beyond the {MOST_REQUESTS:,} that are kept"),
            )
            if count
        ]
        return f"{self.count:,} requests by their spans" + (f"; left out: {', '.join(left_out)}." if left_out else ".")


def _row(span: Span, began_unix_ns: int) -> dict[str, Any] | None:
    """None of a span that is not a request's: those have their end-to-end latency and their numbers of tokens."""
    about = span.attributes
    e2e_s, ttft_s, prefill_s, queue_s = (_seconds(about.get(name)) for name in (E2E, TTFT, PREFILL, QUEUE))
    prompt, output = _count(about.get(PROMPT)), _count(about.get(OUTPUT))
    if e2e_s is None or prompt is None or output is None or not 0 < span.start_ns < MOST_NS:
        return None
    arrival_ns = span.start_ns - began_unix_ns
    end_ns = arrival_ns + round(e2e_s * 1e9)
    first_ns = None if ttft_s is None or output == 0 else min(end_ns, arrival_ns + round(ttft_s * 1e9))
    if first_ns is not None and prefill_s is not None:
        scheduled_ns: int | None = max(arrival_ns, first_ns - round(prefill_s * 1e9))
    else:
        scheduled_ns = None if queue_s is None else min(end_ns, arrival_ns + round(queue_s * 1e9))
    return {
        "request_id": str(about.get(NAME) or span.span_id.hex())[:LONGEST_NAME],
        "group": None,
        "priority": 0,
        "arrival_ns": arrival_ns,
        "first_scheduled_ns": scheduled_ns,
        "first_token_ns": first_ns,
        "end_ns": end_ns,
        "prompt_tokens": prompt,
        "cached_tokens": 0,
        "output_tokens": output,
        "preemptions": 0,
        "drafted_tokens": 0,
        "accepted_tokens": 0,
        "end_reason": "length" if output and output == about.get(MOST_TOKENS) else "stop",
        "error": None,
        "text": None,
        "output_token_ids": None,
    }


def spans_of(body: bytes, content_type: str) -> list[Span]:
    """The spans of an OTLP ``ExportTraceServiceRequest``, as protobuf or as JSON. Raises ``NoSpans``."""
    from google.protobuf.json_format import Parse, ParseError
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    message = ExportTraceServiceRequest()
    try:
        if content_type == "application/json":
            Parse(body, message, ignore_unknown_fields=True)
        else:
            message.ParseFromString(body)
    except (DecodeError, ParseError, ValueError, RecursionError) as error:
        raise NoSpans(f"no OTLP message ({type(error).__name__})") from error
    spans = [span for each in message.resource_spans for scope in each.scope_spans for span in scope.spans]
    if len(spans) > MOST_SPANS:
        raise NoSpans(f"{len(spans):,} spans in one message, at most {MOST_SPANS:,}")
    return [Span(span.trace_id, span.span_id, span.start_time_unix_nano, _plain(span.attributes)) for span in spans]


def _plain(attributes: Iterable[Any]) -> dict[str, str | int | float]:
    told: dict[str, str | int | float] = {}
    for each in attributes:
        kind = each.value.WhichOneof("value")
        if kind in ("string_value", "int_value", "double_value"):
            told[each.key] = getattr(each.value, kind)
    return told


def _seconds(value: Any) -> float | None:
    known = isinstance(value, int | float) and math.isfinite(value) and 0 <= value < 1e8
    return float(value) if known else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and 0 <= value <= MOST_COUNT else None
