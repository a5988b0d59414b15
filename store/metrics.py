"""What each figure means: one definition each, used by every query, page and export.

Per request r: arrival a, first scheduled s, first token f, emission times t_1..t_n (t_1 = f), completion c = t_n.
With speculation several tokens share one emission: ``itl_ms`` counts emissions, ``itl_token_ms`` and TPOT count tokens.
Percentiles interpolate linearly between order statistics (numpy's and DuckDB's ``quantile_cont`` default).

``expression`` is the figure of one row in SQL, over ``requests`` or ``slices``, or of a program over the rows of its
turns; null where there is no such figure. ``request_latencies`` is the same for rows in memory, which a live run has; tests hold the two to each other, and fail when
another module has a definition of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from telemetry.rows import COMPLETED, Provenance

PERCENTILES = (0.5, 0.9, 0.95, 0.99)
COMPLETED_SQL = f"end_reason IN {COMPLETED}"

STALL_MS = 200.0
"""A gap between two tokens above this is a stall: text then comes slower than people read, five tokens a second. The bound that
Sarathi-Serve's capacity search puts on p99 TBT (papers 4.0). The same for every run, so that a run has as many stalls beside another as on
its own."""
FULL = 0.9  # share of the most requests in flight from which a step counts as full
FEWEST_STEADY = 10  # steps of the steady state, below which a rate over it says little
FEWEST_BEYOND = 5
"""Samples that must lie beyond a percentile before it says more than the largest one does: a p99 takes 500. By MLPerf's
early stopping (99 % confidence that so large a share is below the bound, none of the samples being above) it takes 459."""


def is_completed(end_reason: str | None) -> bool:
    """Whether a request that ended so was served to its end, as ``COMPLETED_SQL`` says of rows."""
    return end_reason in COMPLETED


@dataclass(frozen=True)
class Metric:
    """A figure's definition. ``better`` is the direction a comparison prefers; None where neither is."""

    name: str
    title: str
    formula: str
    unit: str
    better: Literal["lower", "higher"] | None
    provenance: Provenance
    source: Literal["requests", "slices", "iterations", "programs", "run"]
    expression: str | None = None
    times: str | None = None  # in SQL: how many samples a row stands for; None: one


def _metrics(*metrics: Metric) -> dict[str, Metric]:
    return {m.name: m for m in metrics}


METRICS: dict[str, Metric] = _metrics(
    Metric(
        "scheduling_delay_ms",
        "Scheduling delay",
        "s - a: from arrival to the start of the first step that computed for the request.",
        "ms",
        "lower",
        "derived",
        "requests",
        "(first_scheduled_ns - arrival_ns) / 1e6",
    ),
    Metric(
        "ttft_ms",
        "TTFT",
        "Time to first token, f - a: from arrival to the end of the step that gave the first token. Every request that got one counts.",
        "ms",
        "lower",
        "derived",
        "requests",
        "(first_token_ns - arrival_ns) / 1e6",
    ),
    Metric(
        "itl_ms",
        "ITL",
        "Inter-token latency, t_i - t_(i-1): time between one emission to a request and the next, per emission (also called TBT).",
        "ms",
        "lower",
        "derived",
        "slices",
        "itl_ns / 1e6",
    ),
    Metric(
        "itl_token_ms",
        "ITL, per token",
        "Inter-token latency per token, (t_i - t_(i-1)) / k for each of the k tokens of an emission: as if its tokens had come evenly. Without speculation it is the "
        "inter-token latency.",
        "ms",
        "lower",
        "derived",
        "slices",
        "itl_ns / 1e6 / emitted",
        "emitted",
    ),
    Metric(
        "stalls",
        "Stalls",
        f"Inter-token latencies above {STALL_MS:g} ms, in all requests: text then comes slower than people read.",
        "",
        "lower",
        "derived",
        "run",
    ),
    Metric(
        "tpot_ms",
        "TPOT",
        "Time per output token, (t_n - t_1) / (n - 1) of each completed request; a request with one token has none.",
        "ms",
        "lower",
        "derived",
        "requests",
        f"CASE WHEN {COMPLETED_SQL} AND output_tokens > 1 THEN (end_ns - first_token_ns) / 1e6 / (output_tokens - 1) END",
    ),
    Metric(
        "e2e_ms",
        "E2E latency",
        "End-to-end latency, c - a: from arrival to completion, of each completed request.",
        "ms",
        "lower",
        "derived",
        "requests",
        f"CASE WHEN {COMPLETED_SQL} THEN (end_ns - arrival_ns) / 1e6 END",
    ),
    Metric(
        "normalized_latency_ms",
        "Normalized latency",
        "(c - a) / n: E2E latency per output token, of each completed request.",
        "ms/token",
        "lower",
        "derived",
        "requests",
        f"CASE WHEN {COMPLETED_SQL} AND output_tokens > 0 THEN (end_ns - arrival_ns) / 1e6 / output_tokens END",
    ),
    Metric(
        "output_tokens_per_s",
        "Output tokens per second",
        "Tokens emitted / time from the first arrival to the last emission.",
        "tokens/s",
        "higher",
        "derived",
        "run",
    ),
    Metric(
        "output_tokens_per_s_steady",
        "Output tokens per second, steady",
        f"Tokens emitted per second of the steady state, which leaves out how the batch fills and empties: from the first step with "
        f"{FULL:.0%} of the most requests in flight to the last arrival, or the last such step where that comes later. Of "
        f"{FEWEST_STEADY} steps or more, else there is none.",
        "tokens/s",
        "higher",
        "derived",
        "run",
    ),
    Metric(
        "requests_per_s",
        "Completed requests per second",
        "Completed requests / time from the first arrival to the last emission.",
        "requests/s",
        "higher",
        "derived",
        "run",
    ),
    Metric(
        "makespan_s",
        "Makespan",
        "From the first arrival to the last emission: how long the whole workload took.",
        "s",
        "lower",
        "derived",
        "run",
    ),
    Metric(
        "job_completion_s",
        "Job completion time",
        "From the arrival of a program's first turn to the end of its last, of each program all of whose turns completed.",
        "s",
        "lower",
        "derived",
        "programs",
        "(max(end_ns) - min(arrival_ns)) / 1e9",
    ),
    Metric(
        "slo_attainment",
        "SLO attainment",
        "Requests with TTFT and TPOT within the objective / all submitted requests (dropped and failed ones have missed).",
        "share",
        "higher",
        "derived",
        "run",
    ),
    Metric(
        "in_time_per_s",
        "Request goodput",
        "Requests that met the objective / time from the first arrival to the last emission, at this rate of arrivals.",
        "requests/s",
        "higher",
        "derived",
        "run",
    ),
    Metric(
        "iteration_ms",
        "Iteration time",
        "End minus start of an engine step.",
        "ms",
        "lower",
        "measured",
        "iterations",
        "(end_ns - start_ns) / 1e6",
    ),
    Metric(
        "host_share",
        "Host overhead",
        "1 - forward time / iteration time: the share of a step spent scheduling, preparing, sampling and recording.",
        "share",
        "lower",
        "derived",
        "iterations",
        "1 - forward_ns / nullif(end_ns - start_ns, 0)",
    ),
    Metric(
        "acceptance_rate",
        "Draft acceptance rate",
        "Accepted speculative tokens / speculative tokens verified.",
        "share",
        "higher",
        "derived",
        "run",
    ),
    Metric(
        "prefix_hit_rate",
        "Prefix-cache hit rate",
        "Prompt tokens found in the prefix cache at first admission / prompt tokens.",
        "share",
        "higher",
        "derived",
        "run",
    ),
    Metric(
        "preemptions",
        "Preemptions",
        "Times a request was thrown out of the KV pool.",
        "",
        "lower",
        "measured",
        "run",
    ),
    Metric(
        "energy_per_token_j",
        "Energy per output token",
        "Joules from the start of the first step to the end of the last, by the device's own counter / tokens emitted.",
        "J/token",
        "lower",
        "derived",
        "run",
    ),
    Metric(
        "peak_kv_tokens",
        "Peak KV tokens",
        "Most tokens whose keys and values requests held at the end of any step.",
        "tokens",
        "lower",
        "measured",
        "iterations",
        "kv_tokens",
    ),
)


def ttft_ms(arrival_ns: np.ndarray, first_token_ns: np.ndarray) -> np.ndarray:
    """Time to first token, ms; NaN where a request has got none."""
    return (first_token_ns - arrival_ns) / 1e6


def request_latencies(columns: Mapping[str, np.ndarray], reasons: Sequence[str | None]) -> dict[str, np.ndarray]:
    """``ttft_ms``, ``tpot_ms`` and ``e2e_ms`` of request rows in memory: float64 [requests], NaN where a request has none.

    ``columns``: ``arrival_ns``, ``first_token_ns``, ``end_ns`` and ``output_tokens`` as float64 [requests], NaN for null. ``reasons``:
    ``end_reason`` of each.
    """
    arrival, first, end = columns["arrival_ns"], columns["first_token_ns"], columns["end_ns"]
    tokens = columns["output_tokens"]
    completed = np.array([reason in COMPLETED for reason in reasons], bool)
    return {
        "ttft_ms": ttft_ms(arrival, first),
        "tpot_ms": np.where(completed & (tokens > 1), (end - first) / 1e6 / np.maximum(tokens - 1, 1), np.nan),
        "e2e_ms": np.where(completed, (end - arrival) / 1e6, np.nan),
    }


def percentile(values: Sequence[float] | np.ndarray, share: float) -> float | None:
    """The percentile at ``share`` in [0, 1], interpolated linearly; None of no values (nulls are left out)."""
    array = np.asarray(values, np.float64)
    array = array[~np.isnan(array)]
    return float(np.quantile(array, share)) if array.size else None


def percentile_name(share: float) -> str:
    """``p99`` of 0.99."""
    return f"p{round(100 * share)}"


def carries(count: int, share: float) -> bool:
    """Whether ``count`` samples carry the percentile at ``share``: enough of them lie beyond it, on its thinner side."""
    return count * min(share, 1 - share) >= FEWEST_BEYOND - 1e-9


def carried_up_to(count: int) -> float:
    """The highest share whose percentile ``count`` samples carry; 0 of too few for any."""
    return max(0.0, 1 - FEWEST_BEYOND / count) if count >= 2 * FEWEST_BEYOND else 0.0


def too_few(count: int, shares: Sequence[float] = PERCENTILES) -> list[str]:
    """The percentiles that ``count`` samples do not carry: ``[p95, p99]``; none of no samples."""
    return [percentile_name(share) for share in shares if count and not carries(count, share)]


def too_few_in_words(title: str, count: int, shares: Sequence[float] = PERCENTILES) -> str:
    """What to say beside a figure's percentiles where the sample is too small for some; empty where it carries all."""
    names = too_few(count, shares)
    if not names:
        return ""
    which = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    verb = "rests" if len(names) == 1 else "rest"
    largest = ": p99 is close to the largest" if "p99" in names else ""
    return f"{title}: {which} {verb} on too few of {count:,} {'sample' if count == 1 else 'samples'}{largest}."
