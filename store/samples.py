"""What a comparison needs of one run: each request's latencies, its inter-token gaps as counts, totals, machine state.

Inter-token gaps are counted per request in ``BINS_PER_DECADE`` logarithmic bins: a run has millions of gaps, its
uncertainty needs only how they are spread over requests. Values themselves are exact; they come from the run's summary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import duckdb
import numpy as np

from store.machine import machine_of
from store.metrics import METRICS
from store.query import Query
from store.slo import Alone, Slo, in_time
from store.summary import GROUP, summary

BINS_PER_DECADE = 100
REQUEST_FIGURES = ("scheduling_delay_ms", "ttft_ms", "tpot_ms", "e2e_ms", "normalized_latency_ms")


@dataclass(frozen=True)
class RunSamples:
    """One run's samples. ``requests``: metric -> value by request number [requests], NaN where there is none."""

    run_id: str
    requests: dict[str, np.ndarray]
    gaps: np.ndarray  # [requests, bins] emissions per logarithmic bin of their gap
    gap_edges_ms: np.ndarray  # [bins + 1]
    totals: dict[str, float]  # figures of the run as a whole; NaN where it has none
    prompt_tokens: np.ndarray = field(default_factory=lambda: np.zeros(0))  # [requests], NaN of those that never ended
    submitted: int = 0
    output_digest: str | None = None
    machine: dict[str, Any] = field(default_factory=dict)
    group_of: np.ndarray = field(
        default_factory=lambda: np.zeros(0, object)
    )  # [requests] name of its group, "" of none
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)  # the summary's figures of each group

    def of_group(self, group: str) -> RunSamples:
        """The latencies, stalls and tokens/s of one group of requests alone."""
        inside = self.group_of == group
        figures, gaps = self.groups[group], self.groups[group]["itl_ms"]
        totals = {
            "itl_ms": gaps["p50"],
            "itl_ms_p99": gaps["p99"],
            "itl_ms_max": gaps["max"],
            "stalls": figures["stalls"],
            "output_tokens_per_s": figures["output_tokens_per_s"],
        }
        return replace(
            self,
            requests={
                name: np.where(inside, own, np.nan) for name, own in self.requests.items() if name in REQUEST_FIGURES
            },
            gaps=self.gaps[: len(inside)] * inside[: len(self.gaps), None],
            totals={name: np.nan if value is None else float(value) for name, value in totals.items()},
        )

    def samples_of(self, metric: str) -> int:
        """How many samples a percentile of a metric rests on."""
        if metric in self.requests:
            return int(np.isfinite(self.requests[metric]).sum())
        return int(self.gaps.sum()) if metric == "itl_ms" else 0


def request_figures_query(run_id: str) -> Query:
    figures = ", ".join(f"{METRICS[name].expression} AS {name}" for name in REQUEST_FIGURES)
    return Query(
        f"SELECT request, {GROUP}, prompt_tokens, arrival_ns, {figures}\nFROM requests WHERE run_id = $run ORDER BY request",
        {"run": run_id},
    )


def gap_counts_query(run_id: str) -> Query:
    return Query(
        """
SELECT request, floor(log10(itl_ns) * $bins)::INTEGER AS bin, count(*) AS emissions
FROM slices WHERE run_id = $run AND itl_ns > 0 GROUP BY ALL ORDER BY request, bin""".strip(),
        {"run": run_id, "bins": BINS_PER_DECADE},
    )


def iteration_figures_query(run_id: str) -> Query:
    steps, host = METRICS["iteration_ms"].expression, METRICS["host_share"].expression
    return Query(
        f"SELECT median({steps}) AS iteration_ms, median({host}) AS host_share\nFROM iterations WHERE run_id = $run",
        {"run": run_id},
    )


def emission_query(run_ids: Sequence[str], gap_ms: float) -> Query:
    return Query(
        f"""
SELECT run_id, iteration, request, {METRICS["itl_ms"].expression} AS itl_ms FROM slices
WHERE run_id IN (SELECT unnest($runs)) AND itl_ns > 0 ORDER BY abs(itl_ns - $gap_ns), run_id, iteration LIMIT 1""".strip(),
        {"runs": list(run_ids), "gap_ns": gap_ms * 1e6},
    )


def emission_near(con: duckdb.DuckDBPyConnection, run_ids: Sequence[str], gap_ms: float) -> dict[str, Any] | None:
    """The emission whose gap is nearest to ``gap_ms``: ``run_id``, ``iteration``, ``request``; None without any."""
    return emission_query(run_ids, gap_ms).one(con)


def read_samples(con: duckdb.DuckDBPyConnection, run_id: str) -> RunSamples:
    """A run's samples from the database."""
    rows = request_figures_query(run_id).table(con)
    numbers = np.asarray(rows["request"], np.int64)
    size = int(numbers.max()) + 1 if len(numbers) else 0
    requests = {}
    for name in REQUEST_FIGURES:
        values = np.full(size, np.nan)
        values[numbers] = np.asarray(rows[name], np.float64)
        requests[name] = values
    group_of = np.full(size, "", object)
    group_of[numbers] = rows["group"].to_pylist()
    prompt_tokens = np.full(size, np.nan)
    prompt_tokens[numbers] = np.asarray(rows["prompt_tokens"], np.float64)
    arrivals = np.asarray(rows["arrival_ns"], np.float64)
    span_s = float(np.ptp(arrivals)) / 1e9 if len(arrivals) else 0.0
    offered = (len(arrivals) - 1) / span_s if span_s > 0 else np.nan
    gaps, edges = _gaps(gap_counts_query(run_id).table(con), size)
    figures = summary(con, run_id) or {}
    steps = iteration_figures_query(run_id).rows(con)[0]
    return RunSamples(
        run_id,
        requests,
        gaps,
        edges,
        _totals(figures, steps, float(np.sum(np.asarray(rows["prompt_tokens"], np.float64))))
        | {"offered_per_s": offered},
        prompt_tokens,
        max(size, figures.get("requests", {}).get("total") or 0),
        figures.get("output_digest"),
        machine_of(con, run_id),
        group_of,
        figures.get("groups") or {},
    )


def alone_query(run_ids: Sequence[str]) -> Query:
    return Query(
        """
WITH steps AS (
  SELECT (end_ns - start_ns) / 1e6 AS ms, prefill_tokens, prefill_requests, decode_requests FROM iterations
  WHERE run_id IN (SELECT unnest($runs))
)
SELECT (SELECT quantile_cont(ms, 0.05) FROM steps WHERE prefill_requests = 0 AND decode_requests = (
          SELECT min(decode_requests) FROM steps WHERE prefill_requests = 0 AND decode_requests > 0)) AS step_ms,
       (SELECT quantile_cont(ms / prefill_tokens, 0.05) FROM steps WHERE prefill_tokens > 0 AND prefill_tokens * 2 >= (
          SELECT max(prefill_tokens) FROM steps)) AS prompt_token_ms""".strip(),
        {"runs": list(run_ids)},
    )


def alone(con: duckdb.DuckDBPyConnection, run_ids: Sequence[str]) -> Alone:
    """What a request alone would see on this machine, from the runs' own fastest steps.

    A decode step: the 5th percentile of steps that decoded for the fewest requests and did nothing else. A prompt token: the
    5th percentile of time per prompt token in the steps with large chunks.
    """
    row = alone_query(run_ids).rows(con)[0]
    return Alone(*(np.nan if row[name] is None else row[name] for name in ("step_ms", "prompt_token_ms")))


def with_slo(run: RunSamples, slo: Slo, alone: Alone | None) -> RunSamples:
    """The run with ``slo_attainment`` (1 or 0 of each submitted request) and requests in time per second."""
    met = np.zeros(run.submitted)
    bounds = slo.bounds_ms(run.prompt_tokens, alone)
    met[: len(run.prompt_tokens)] = in_time(run.requests["ttft_ms"], run.requests["tpot_ms"], *bounds)
    share = float(met.mean()) if run.submitted else np.nan
    in_time_per_s = float(met.sum()) / run.totals["makespan_s"]
    return replace(
        run,
        requests=run.requests | {"slo_attainment": met},
        totals=run.totals | {"slo_attainment": share, "in_time_per_s": in_time_per_s},
    )


def objective_figures(con: duckdb.DuckDBPyConnection, run_id: str, slo: Slo) -> dict[str, Any]:
    """How one run met an objective, as plain data: ``attainment`` (share of all submitted requests) and ``in_time_per_s`` (goodput at its
    own rate); None where nothing is known. What a request alone would see is read from the run's own fastest steps.
    """
    unloaded = alone(con, [run_id])
    run = with_slo(read_samples(con, run_id), slo, unloaded)
    unknown = slo.relative and not np.isfinite(unloaded.step_ms)
    told = {
        "attainment": run.totals["slo_attainment"],
        "in_time_per_s": run.totals["in_time_per_s"],
        "alone_step_ms": unloaded.step_ms,
        "alone_prompt_token_ms": unloaded.prompt_token_ms,
    }
    return {"name": slo.name, "words": slo.words} | {
        name: None if unknown or not np.isfinite(value) else float(value) for name, value in told.items()
    }


def attainment_by_scale(runs: Sequence[RunSamples], slo: Slo, alone: Alone | None, scales: np.ndarray) -> np.ndarray:
    """Attainment of the runs together with both bounds multiplied by each scale (DistServe's plot)."""
    submitted = sum(run.submitted for run in runs)
    met = [
        sum(
            int(np.sum(in_time(run.requests["ttft_ms"], run.requests["tpot_ms"], *bounds)))
            for run in runs
            for bounds in [slo.scaled(float(scale)).bounds_ms(run.prompt_tokens, alone)]
        )
        for scale in scales
    ]
    return np.array(met, np.float64) / max(1, submitted)


def _gaps(table: Any, size: int) -> tuple[np.ndarray, np.ndarray]:
    bins = np.asarray(table["bin"], np.int64)
    if not len(bins):
        return np.zeros((size, 0), np.float32), np.zeros(1)
    first, last = int(bins.min()), int(bins.max())
    request = np.asarray(table["request"], np.int64)
    counts = np.zeros((max(size, int(request.max()) + 1), last - first + 1), np.float32)
    counts[request, bins - first] = np.asarray(table["emissions"], np.float32)
    return counts, 10 ** (np.arange(first, last + 2) / BINS_PER_DECADE) / 1e6


def _totals(figures: dict[str, Any], steps: dict[str, Any], prompt_tokens: float) -> dict[str, float]:
    speed, tokens = figures.get("output_tokens_per_s"), figures.get("output_tokens") or 0
    span_s = tokens / speed if speed else np.nan
    finished = figures.get("requests", {}).get("finished") or 0
    gaps = figures.get("itl_ms") or {}
    totals = {
        "itl_ms": gaps.get("p50"),
        "itl_ms_p99": gaps.get("p99"),
        "itl_ms_max": gaps.get("max"),
        "output_tokens_per_s": speed,
        "output_tokens_per_s_steady": figures.get("output_tokens_per_s_steady"),
        "requests_per_s": finished / span_s if span_s == span_s else None,
        "makespan_s": span_s,
        "iteration_ms": steps["iteration_ms"],
        "host_share": steps["host_share"],
        "acceptance_rate": _share(figures.get("accepted_tokens"), figures.get("draft_tokens")),
        "prefix_hit_rate": _share(figures.get("prefix_hit_tokens"), prompt_tokens),
        "stalls": figures.get("stalls"),
        "preemptions": figures.get("preemptions"),
        "peak_kv_tokens": figures.get("peak_kv_tokens"),
        "energy_per_token_j": figures.get("energy_per_token_j"),
    }
    return {name: np.nan if value is None else float(value) for name, value in totals.items()}


def _share(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None
