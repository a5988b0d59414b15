"""Sentences about engines that are watched, and how their figures are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.words.charts import ChartWords
from app.words.plain import milliseconds
from app.words.text import number

CLOCKS = {
    "reader": "when this machine read it",
    "engine wall": "the engine's own wall clock",
    "gpu span": "the span of the pass on the GPU",
    "client": "the client's own clock",
}
SOURCES = {"metrics": "metrics", "kv_events": "KV events", "forward_pass": "forward passes", "report": "report"}
WHAT_IT_IS = (
    "Another engine, as its own metrics tell of it: sums over its requests between two readings. Which request did "
    "what is not known, so there are no requests, no iterations and no blocks here, and latencies are known to the "
    "width of a histogram's bucket."
)
WHAT_SPANS_ADD = (
    "Another engine, as its metrics and its spans tell of it: sums over its requests between two readings, and for "
    "each request that ended its latencies by the engine's own clock. There are no iterations and no blocks here."
)
WHAT_A_REPORT_IS = (
    "A load generator's report: figures of a measurement that was not made here, by the clock of its client, which "
    "includes the network and the client's own delays. What was asked is not known, so nothing is paired with it."
)
FOREIGN_CHARTS = {
    "foreign-requests": ChartWords(
        "Requests in the other engine",
        "What the engine said at each reading. What came and went between two readings is not seen.",
        "foreign",
        ("value",),
    ),
    "foreign-tokens": ChartWords(
        "Tokens per second in the other engine",
        "How much its counters grew between two readings, over the time between them. A counter that begins anew, "
        "because the engine was started again, counts from nothing.",
        "foreign",
        ("value", "span_ns"),
    ),
    "foreign-cache": ChartWords(
        "KV cache of the other engine",
        "The share of its pool in use, as the engine tells it at each reading.",
        "foreign",
        ("value",),
    ),
    "foreign-latencies": ChartWords(
        "Latency of each request in the other engine",
        "Two dots for each request that ended, over its arrival: its first token and its end, as the engine's span "
        "says.",
        "request",
        ("arrival_ns", "first_token_ns", "end_ns"),
    ),
    "foreign-passes": ChartWords(
        "Forward passes of the other engine",
        "One dot for each forward pass that was published, by its duration: on the GPU (SGLang), or from scheduling to "
        "the result (vLLM). The publisher drops messages when nobody keeps up; gaps are counted.",
        "foreign",
        ("value",),
    ),
}


def figure_in_words(figure: Mapping[str, Any]) -> tuple[str, str]:
    """A figure of ``store.foreign.told``, and where it comes from."""
    unit = figure["unit"]
    if figure["kind"] == "state":
        said = f"mean {_with_unit(figure['value'], unit)}, at most {_with_unit(figure['most'], unit)}"
    elif figure["kind"] == "count":
        said = _with_unit(figure["value"], unit)
    else:
        said = f"{number(figure['value'])} values"
        if figure.get("mean") is not None:
            said += f", mean {_with_unit(figure['mean'], unit)}"
        for share in ("p50", "p99"):
            if figure.get(share):
                _, low, high = figure[share]
                above = f"above {_with_unit(low, unit)}"
                within = f"{_with_unit(low, unit)} to {_with_unit(high, unit)}" if high is not None else above
                said += f", {share} {within}"
    return said, SOURCES.get(figure["source"], figure["source"])


def not_told_in_words(titles: Sequence[str]) -> str:
    """What an engine does not tell."""
    return f"Not told by this engine: {', '.join(titles)}."


def peer_in_words(peer: Mapping[str, Any]) -> str:
    """One row of ``store.foreign.peers_query``."""
    version = f" {peer['engine_version']}" if peer["engine_version"] else ", version not told"
    lost = f"{number(peer['lost'] or 0)} lost or begun anew"
    return (
        f"{SOURCES.get(peer['source'], peer['source'])}: {peer['engine']}{version}, {peer['address']}, "
        f"{number(peer['readings'])} readings, {lost}; clock: {CLOCKS.get(peer['clock'], peer['clock'])}"
    )


def report_in_words(peer: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """Where a report comes from. ``peer``: of ``store.foreign.peers_query``; ``figures``: the run's summary."""
    requests = figures.get("requests") or {}
    version = f" {peer['engine_version']}" if peer["engine_version"] else ""
    done = f"{number(requests.get('finished') or 0)} requests finished, {number(requests.get('failed') or 0)} failed"
    return f"{peer['address']}, written by {peer['engine']}{version}: {done}; clock: {CLOCKS['client']}"


def _with_unit(value: float, unit: str) -> str:
    if unit == "s":
        return milliseconds(value * 1e3)
    return f"{value:.1%}" if unit == "share" else f"{number(value)} {unit}"
