"""What preemption copied between the KV pool and host memory in a run, and whether computing again would have been cheaper.

A copy of n bytes takes ``t_launch + n / X`` (papers: FastSwitch), so copies reach the bandwidth ``n / (t_launch + n / X)``. Both numbers
are fitted to the run's own swaps. Computing S tokens again takes ``(2 N S + 2 L H d S^2) / F`` with the arithmetic F that the run's own
prompt steps reached; swapping them out and in takes ``2 S (kv / X + c t_launch)`` with kv bytes and c copies per token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from store.link_fit import LinkFit, fit_link
from store.metrics import METRICS
from store.query import Query

BUCKETS = 120


def totals_query(run_id: str) -> Query:
    """One row for each direction: swaps, blocks, copies, bytes, and time spent copying and waiting."""
    return Query(
        """
SELECT direction, count(*) AS swaps, sum(blocks)::BIGINT AS blocks, sum(blocks_kept)::BIGINT AS blocks_kept, sum(copies)::BIGINT AS copies,
       sum(bytes)::BIGINT AS bytes, avg(copies) FILTER (copies > 0) AS copies_per_swap, avg(bytes) FILTER (copies > 0) AS bytes_per_swap,
       sum(bytes) / nullif(sum(copies), 0) AS bytes_per_copy, sum(bytes) / nullif(sum(end_ns - start_ns) / 1e9, 0) AS bytes_per_s,
       sum(end_ns - start_ns) / 1e6 AS copying_ms, sum(waited_ns) / 1e6 AS waited_ms
FROM swaps WHERE run_id = $run GROUP BY direction ORDER BY CASE direction WHEN 'out' THEN 0 WHEN 'in' THEN 1 ELSE 2 END""".strip(),
        {"run": run_id},
    )


def waits_query(run_id: str, buckets: int = BUCKETS) -> Query:
    """Of stretches of the run: time in steps without and with standing still for copies."""
    return Query(
        f"""
WITH waits AS (
  SELECT iteration, sum(waited_ns) / 1e6 AS wait_ms FROM swaps WHERE run_id = $run GROUP BY iteration
), steps AS (
  SELECT iteration, end_ns, {METRICS["iteration_ms"].expression} AS step_ms, coalesce(wait_ms, 0) AS wait_ms,
         ntile($buckets) OVER (ORDER BY iteration) AS bucket
  FROM iterations LEFT JOIN waits USING (iteration) WHERE run_id = $run
)
SELECT max(end_ns) / 1e9 AS t, min(iteration) AS first, max(iteration) AS last, greatest(0, sum(step_ms) - sum(wait_ms)) AS compute_ms,
       sum(wait_ms) AS wait_ms, sum(wait_ms) / nullif(sum(step_ms), 0) AS wait_share
FROM steps GROUP BY bucket ORDER BY bucket""".strip(),
        {"run": run_id, "buckets": buckets},
    )


def swaps_query(run_id: str, limit: int = 5000) -> Query:
    """Every swap that copied something, in the order in which they landed."""
    return Query(
        """
SELECT end_ns / 1e9 AS t, iteration, request, direction, tokens, blocks, blocks_kept, copies, bytes, bytes / copies / 1e3 AS kb_per_copy,
       (end_ns - start_ns) / 1e6 AS copying_ms, waited_ns / 1e6 AS waited_ms, bytes / nullif(end_ns - start_ns, 0) AS gb_per_s
FROM swaps WHERE run_id = $run AND copies > 0 ORDER BY end_ns LIMIT $limit""".strip(),
        {"run": run_id, "limit": limit},
    )


def spread_query(run_id: str, requests: Sequence[int], sessions: Sequence[int]) -> Query:
    """Each session's mean TTFT and TPOT. ``sessions``: of ``requests``, by number."""
    return Query(
        f"""
WITH named AS (SELECT unnest($requests::INTEGER[]) AS request, unnest($sessions::INTEGER[]) AS session)
SELECT session, count(*) AS requests, avg({METRICS["ttft_ms"].expression}) AS ttft_ms, avg({METRICS["tpot_ms"].expression}) AS tpot_ms,
       sum(preemptions)::BIGINT AS preemptions
FROM requests JOIN named USING (request) WHERE run_id = $run GROUP BY session ORDER BY session""".strip(),
        {"run": run_id, "requests": list(requests), "sessions": list(sessions)},
    )


def prompt_rate_query(run_id: str) -> Query:
    """The arithmetic that steps of mostly prompt tokens reached, FLOP/s; null where there were none."""
    return Query(
        """
SELECT sum(flops) / nullif(sum(forward_ns) / 1e9, 0) AS flops_per_s, count(*) AS steps FROM iterations
WHERE run_id = $run AND 2 * prefill_tokens >= prefill_tokens + decode_tokens + draft_tokens AND prefill_tokens > 0""".strip(),
        {"run": run_id},
    )


def jain(values: Sequence[float]) -> float:
    """Jain's index (Jain et al., 1984) of an allotment: 1 where all have the same, 1/n where one of n has everything; NaN of nothing."""
    x = np.asarray([v for v in values if v is not None and np.isfinite(v)], dtype=np.float64)
    return float(x.sum() ** 2 / (x.size * (x**2).sum())) if x.size and x.any() else float("nan")


@dataclass(frozen=True)
class Costs:
    """What it takes to have S tokens' keys and values again: by swapping, and by computing."""

    link: LinkFit
    copies_per_token: float
    bytes_per_token: float
    token_flops: float  # 2 N: of one token without attention
    pair_flops: float  # 4 L H d: of one (query, key) pair
    flops_per_s: float

    def swap_s(self, tokens: float) -> float:
        """Out and in."""
        return 2 * self.link.seconds(tokens * self.copies_per_token, tokens * self.bytes_per_token)

    def recompute_s(self, tokens: float) -> float:
        return (self.token_flops * tokens + self.pair_flops * tokens**2 / 2) / self.flops_per_s

    def crossover_tokens(self) -> float:
        """The length from which on swapping is cheaper: 0 where it always is."""
        per_token = self.swap_s(1)
        return max(0.0, 2 * (per_token * self.flops_per_s - self.token_flops) / self.pair_flops)


def costs_of(swaps: pa.Table, rate: Mapping[str, Any] | None, model: Mapping[str, Any]) -> Costs | None:
    """The costs that a run's own rows give; None where it swapped or computed too little.

    Args:
        swaps: of ``swaps_query``.
        rate: the row of ``prompt_rate_query``.
        model: the run's facts of its model.
    """
    rows = [row for row in swaps.to_pylist() if row["direction"] != "ahead"]
    needed = ("parameters", "layers", "heads", "head_dim", "vocab", "hidden", "kv_bytes_per_token")
    if not rate or not rate.get("flops_per_s") or any(not model.get(name) for name in needed):
        return None
    link = (
        fit_link(*zip(*[(r["copies"], r["bytes"], r["copying_ms"] / 1e3) for r in rows], strict=True)) if rows else None
    )
    if link is None:
        return None
    nbytes = sum(r["bytes"] for r in rows)
    return Costs(
        link,
        sum(r["copies"] for r in rows) / nbytes * model["kv_bytes_per_token"],
        model["kv_bytes_per_token"],
        2.0 * (model["parameters"] - model["vocab"] * model["hidden"]),
        4.0 * model["layers"] * model["heads"] * model["head_dim"],
        rate["flops_per_s"],
    )
