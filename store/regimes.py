"""Regimes of papers' claims: whether an effect can exist on this device at these sizes, by the cost model's bound and the measured peaks.

    kv bytes of a decode step = kv_bytes_per_token * (tokens read + tokens written); the other bytes it moves are the weights
    balance point T* = F * W / (2 N M): decodes beyond which arithmetic bounds a step, N the parameters, W their bytes

Each answers with the value that was reached and, where it is too small, the size of the knob that would reach it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import duckdb

from store.claim_figures import STEPS, RunFigures
from store.query import Query


@dataclass(frozen=True)
class Reached:
    """What a run says of a regime."""

    value: float | None  # None: it cannot be told
    says: str
    size: str  # of the knob, that would reach it


def work_query(run: RunFigures) -> Query:
    """What the steps of a run moved and computed, as the cost model has it."""
    peaks, model = run.facts.get("peaks") or {}, run.facts.get("model") or {}
    return Query(
        f"""{STEPS.strip()}
SELECT (SELECT median($kv * (context_tokens + tokens)) FROM full_decodes) AS kv_bytes,
       (SELECT median(bytes) FROM full_decodes) AS decode_bytes,
       (SELECT median(decode_requests) FROM full_decodes) AS decode_batch,
       (SELECT median(context_tokens) FROM full_decodes) AS decode_context,
       (SELECT avg((bytes / $m >= flops / $f)::INTEGER) FROM full_decodes) AS memory_bound,
       (SELECT median(flops / decode_requests) FROM full_decodes) AS flops_per_decode,
       (SELECT median(greatest(flops / $f, bytes / $m)) FROM full_decodes) AS decode_bound,
       (SELECT max(greatest(flops / $f, bytes / $m)) FROM steps WHERE prefill_tokens > 0) AS prefill_bound,
       (SELECT max(prefill_tokens) FROM steps) AS most_prefill,
       (SELECT max(blocks_used) / max(blocks_total) FROM steps) AS pool_used,
       (SELECT max(blocks_total) FROM steps) AS blocks,
       (SELECT avg((waiting > 0)::INTEGER) FROM steps) AS queued""",
        {
            "run": run.run_id,
            "kv": model.get("kv_bytes_per_token"),
            "f": peaks.get("flops_per_s"),
            "m": peaks.get("bytes_per_s"),
        },
    )


def regime(con: duckdb.DuckDBPyConnection, kind: str, run: RunFigures, least: float) -> Reached:
    """What a run says of the regime ``kind`` (``KINDS``)."""
    work = work_query(run).rows(con)[0] | (run.facts.get("peaks") or {})
    try:
        return KINDS[kind]({name: value for name, value in work.items() if value is not None}, least)
    except (KeyError, ZeroDivisionError):
        return Reached(None, "the run's rows or this device's measured peaks do not tell", "")


def _kv_bytes(work: Mapping[str, float], least: float) -> Reached:
    share = work["kv_bytes"] / work["decode_bytes"]
    weights = work["decode_bytes"] - work["kv_bytes"]
    per_token = work["kv_bytes"] / (work["decode_context"] + work["decode_batch"])
    tokens = least / (1 - least) * weights / per_token if least < 1 else float("inf")
    size = f"{tokens:,.0f} tokens read by a decode step in all, {tokens / work['decode_batch']:,.0f} for each of its {work['decode_batch']:.0f} requests"
    said = f"keys and values are {share:.0%} of what a decode step reads, {least:.0%} is needed"
    return Reached(share, said, f"{size} (here {work['decode_context']:,.0f})")


def _memory_bound_decode(work: Mapping[str, float], least: float) -> Reached:
    balance = work["decode_bytes"] / work["bytes_per_s"] * work["flops_per_s"] / work["flops_per_decode"]
    said = f"reading bounds {work['memory_bound']:.0%} of the full decode steps, {least:.0%} is needed"
    return Reached(
        work["memory_bound"], said, f"at most about {balance:.0f} requests at once (here {work['decode_batch']:.0f})"
    )


def _arithmetic_bound_decode(work: Mapping[str, float], least: float) -> Reached:
    balance = work["decode_bytes"] / work["bytes_per_s"] * work["flops_per_s"] / work["flops_per_decode"]
    share = 1 - work["memory_bound"]
    said = f"arithmetic bounds {share:.0%} of the full decode steps, {least:.0%} is needed"
    return Reached(share, said, f"more than about {balance:.0f} requests at once (here {work['decode_batch']:.0f})")


def _prefill_spike(work: Mapping[str, float], least: float) -> Reached:
    spike = work["prefill_bound"] / work["decode_bound"]
    tokens = work["most_prefill"] * least / spike
    said = f"the largest prompt step needs {spike:.1f} times as long as a decode step, {least:g} times is needed"
    return Reached(spike, said, f"prompts of about {tokens:,.0f} tokens (here {work['most_prefill']:,.0f})")


def _pool_full(work: Mapping[str, float], least: float) -> Reached:
    blocks = int(work["blocks"] * work["pool_used"] / least)
    said = f"at most {work['pool_used']:.0%} of the KV pool was in use, {least:.0%} is needed"
    return Reached(work["pool_used"], said, f"{blocks:,} blocks or fewer (here {work['blocks']:,.0f})")


def _queue(work: Mapping[str, float], least: float) -> Reached:
    said = f"a request waited in {work['queued']:.0%} of the steps, {least:.0%} is needed"
    return Reached(work["queued"], said, "a higher rate, or fewer requests at once")


KINDS: Mapping[str, Callable[[Mapping[str, float], float], Reached]] = {
    "kv-bytes": _kv_bytes,
    "memory-bound-decode": _memory_bound_decode,
    "arithmetic-bound-decode": _arithmetic_bound_decode,
    "prefill-spike": _prefill_spike,
    "pool-full": _pool_full,
    "queue": _queue,
}
