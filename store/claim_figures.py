"""Figures that papers' claims are about, one number for each run: those of comparisons, and some about steps.

A *full* decode step is one without prompt tokens in which at least nine tenths of the run's most decoding requests decode.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np

from store.claim_fit import marginal_decode_ms, mixed_steps_query
from store.metrics import too_few_in_words
from store.programs import OF_THIS_RUN, per_program
from store.query import Query
from store.samples import Alone, RunSamples, read_samples, with_slo
from store.slo import Slo
from store.statistics import STATISTICS, value_of
from store.tiers import FOUND

STEPS = """
WITH steps AS (
  SELECT *, (end_ns - start_ns) / 1e6 AS ms, prefill_tokens + decode_tokens + draft_tokens AS tokens FROM iterations WHERE run_id = $run
), decodes AS (
  FROM steps WHERE prefill_requests = 0 AND decode_requests > 0
), full_decodes AS (
  FROM decodes WHERE decode_requests >= 0.9 * (SELECT max(decode_requests) FROM decodes)
)
"""


@dataclass(frozen=True)
class StepFigure:
    """A figure of a run's steps: the SQL of its value, and the tables of ``STEPS`` that it is drawn from."""

    title: str
    unit: str
    value: str
    source: str = "steps"


STEP_FIGURES: Mapping[str, StepFigure] = {
    "decode_step_ms": StepFigure("Full decode step, median", "ms", "median(ms)", "full_decodes"),
    "decode_batch": StepFigure(
        "Requests in a full decode step, median", "requests", "median(decode_requests)", "full_decodes"
    ),
    "decode_ms_per_token": StepFigure(
        "Full decode step per decoding request, median", "ms", "median(ms / decode_requests)", "full_decodes"
    ),
    "decode_read_mb": StepFigure(
        "Bytes that a full decode step moves by the cost model, median", "MB", "median(bytes / 1e6)", "full_decodes"
    ),
    "decode_read_mb_per_request": StepFigure(
        "The same per decoding request, median", "MB", "median(bytes / 1e6 / decode_requests)", "full_decodes"
    ),
    "step_cv": StepFigure(
        "Standard deviation of step time over its mean", "", "stddev_pop(ms) / avg(ms)", "steps WHERE tokens > 0"
    ),
    "tokens_cv": StepFigure(
        "Standard deviation of tokens in a step over their mean",
        "",
        "stddev_pop(tokens) / avg(tokens)",
        "steps WHERE tokens > 0",
    ),
    "longest_step_ms": StepFigure("Longest step", "ms", "max(ms)"),
    "computed_prompt_tokens": StepFigure(
        "Prompt tokens computed, again after preemption included", "tokens", "sum(prefill_tokens)"
    ),
    "emitted_per_decode": StepFigure(
        "Tokens emitted per decoding request and step",
        "tokens",
        "sum(emitted_tokens) / sum(decode_requests)",
        "decodes",
    ),
    "most_running": StepFigure("Most requests in flight", "requests", "max(running)"),
    "most_blocks": StepFigure("Most KV blocks in use", "blocks", "max(blocks_used)"),
    "kv_tokens_cv": StepFigure(
        "Standard deviation of KV tokens over time, over their mean",
        "",
        "sqrt(greatest(0, sum(ms * kv_tokens * kv_tokens) / sum(ms) - pow(sum(ms * kv_tokens) / sum(ms), 2))) / (sum(ms * kv_tokens) / sum(ms))",
    ),
    "straggler_share": StepFigure(
        "Share of the busy time with a quarter of the most requests at once, or fewer, and none waiting",
        "",
        "coalesce(sum(ms) FILTER (running <= 0.25 * (SELECT max(running) FROM steps) AND waiting = 0 AND iteration > "
        "(SELECT arg_max(iteration, running) FROM steps)), 0) / sum(ms)",
    ),
    "padding_share": StepFigure(
        "Share of padding in the rows that steps computed",
        "",
        "sum(padded_tokens) / nullif(sum(padded_tokens + tokens), 0)",
    ),
    "padded_key_share": StepFigure(
        "Share of padding in the keys that attention read",
        "",
        "sum(padded_keys) / nullif(sum(padded_keys + context_tokens), 0)",
    ),
    "beats_bound_share": StepFigure(
        "Share of steps that took less than the cost model's bound at the measured peaks",
        "",
        "avg((ms < greatest(flops / $f, bytes / $m) * 1e3)::INTEGER)",
        "steps WHERE tokens > 0 AND $f > 0 AND $m > 0",
    ),
    "bound_share": StepFigure(
        "Bound of the cost model over the time of a full decode step, median",
        "",
        "median(greatest(flops / $f, bytes / $m) * 1e3 / ms)",
        "full_decodes WHERE $f > 0 AND $m > 0",
    ),
    "overhead_share": StepFigure(
        "Share of step time outside the model's forward pass",
        "",
        "1 - sum(forward_ns) / sum(end_ns - start_ns)",
    ),
    "copies_per_swap": StepFigure(
        "Copies per swap out or in, those made ahead included",
        "",
        "sum(copies) / nullif(count(*) FILTER (direction <> 'ahead'), 0)",
        "swaps WHERE run_id = $run",
    ),
    "swap_mb": StepFigure(
        "Bytes copied between the KV pool and host memory",
        "MB",
        "coalesce(sum(bytes), 0) / 1e6",
        "swaps WHERE run_id = $run",
    ),
    "swap_wait_share": StepFigure(
        "Share of the time in steps spent waiting for copies",
        "",
        "coalesce((SELECT sum(waited_ns) FROM swaps WHERE run_id = $run), 0) / sum(end_ns - start_ns)",
    ),
    "held_waste_share": StepFigure(
        "Share of the memory held by requests that holds no computed token, mean over steps",
        "",
        "avg(1 - used_bytes / (used_bytes + internal_bytes + reserved_bytes))",
        "layouts WHERE run_id = $run AND used_bytes + internal_bytes + reserved_bytes > 0",
    ),
    "internal_waste_share": StepFigure(
        "Share of the memory held by requests that is the rest of blocks or pages, mean over steps",
        "",
        "avg(internal_bytes / (used_bytes + internal_bytes + reserved_bytes))",
        "layouts WHERE run_id = $run AND used_bytes + internal_bytes + reserved_bytes > 0",
    ),
    "mapped_mb": StepFigure(
        "Memory that pages were mapped for", "MB", "sum(mapped_bytes) / 1e6", "layouts WHERE run_id = $run"
    ),
    "resident_mb": StepFigure(
        "Most memory resident behind the KV pool", "MB", "max(resident_bytes) / 1e6", "layouts WHERE run_id = $run"
    ),
    "job_completion_s": StepFigure(
        "Job completion time, mean over programs", "s", "avg(completion_s)", f"({per_program(OF_THIS_RUN)}) WHERE done"
    ),
    "recomputed_tokens": StepFigure(
        "Tokens that late turns of programs computed again, mean over programs",
        "tokens",
        "avg(recomputed_tokens)",
        f"({per_program(OF_THIS_RUN)}) WHERE done",
    ),
    "pins_in_time_share": StepFigure(
        "Share of pins that lasted until the next turn had its place",
        "",
        "count(*) FILTER (reason = 'back') / nullif(count(*), 0)",
        "pins WHERE run_id = $run AND action = 'unpin'",
    ),
    "tier_loaded_mb": StepFigure(
        "Bytes loaded from the disk tier, as it stores them",
        "MB",
        "coalesce(sum(stored_bytes), 0) / 1e6",
        "tiers WHERE run_id = $run AND tier = 'disk' AND action = 'load'",
    ),
    "tier_ttft_ms": StepFigure(
        "TTFT of requests whose prefix was loaded from the disk tier, median",
        "ms",
        "median(ttft_ms)",
        f"({FOUND}) WHERE place = 'disk'",
    ),
    "computed_ttft_ms": StepFigure(
        "TTFT of requests whose prefix was nowhere, median",
        "ms",
        "median(ttft_ms)",
        f"({FOUND}) WHERE place = 'nothing'",
    ),
    "tier_decode_share": StepFigure(
        "Share of the time to load from the disk tier that decoding took",
        "",
        "sum(codec_ns) / nullif(sum(duration_ns), 0)",
        "tiers WHERE run_id = $run AND tier = 'disk' AND action = 'load'",
    ),
    "far_time_share": StepFigure(
        "Share of the time in steps that attention in the far pool and the emulated link took",
        "",
        "coalesce((SELECT sum(compute_ns + link_ns) FROM far_steps WHERE run_id = $run), 0) / sum(end_ns - start_ns)",
    ),
    "far_moved_mb": StepFigure(
        "Bytes of blocks that moved to the far pool",
        "MB",
        "coalesce(sum(bytes), 0) / 1e6",
        "lendings WHERE run_id = $run",
    ),
    "kv_capacity_tokens": StepFigure("Tokens that the KV pool holds", "tokens", "$capacity::DOUBLE", ""),
}
FITTED: dict[str, tuple[str, str]] = {
    "marginal_decode_ms": ("What one more decode adds to a step with prompt tokens, by least squares", "ms"),
}
AGAINST_BASELINE: dict[str, tuple[str, str]] = {
    "same_tokens": ("Whether every request's tokens are the baseline's: 1 or 0", ""),
    "matched_share": (
        "Share of an answer before its first token that differs from the baseline's, mean over requests",
        "",
    ),
}
"""Figures that need the baseline's run of the same repeat beside the run."""


def names() -> list[str]:
    """Every metric that a claim can name."""
    return [*STATISTICS, *STEP_FIGURES, *FITTED, *AGAINST_BASELINE]


def title_of(name: str) -> str:
    """A metric's title and unit."""
    title, unit = _title_and_unit(name)
    return f"{title}, {unit}" if unit else title


def unit_of(name: str) -> str:
    """A metric's unit; empty of counts and shares."""
    return _title_and_unit(name)[1]


def _title_and_unit(name: str) -> tuple[str, str]:
    if name in STATISTICS:
        return STATISTICS[name].title, STATISTICS[name].unit
    if name in STEP_FIGURES:
        return STEP_FIGURES[name].title, STEP_FIGURES[name].unit
    return (FITTED | AGAINST_BASELINE)[name]


@dataclass(frozen=True)
class RunFigures:
    """One run, ready to be asked for figures."""

    run_id: str
    samples: RunSamples
    facts: Mapping[str, Any]  # its row of the table of runs, JSON columns decoded

    @classmethod
    def read(cls, con: duckdb.DuckDBPyConnection, run_id: str, slo: Slo, unloaded: Alone) -> RunFigures:
        return cls.of(con, with_slo(read_samples(con, run_id), slo, unloaded))

    @classmethod
    def of(cls, con: duckdb.DuckDBPyConnection, samples: RunSamples) -> RunFigures:
        """Of a run whose samples were read already."""
        query = Query("SELECT model, peaks, summary, labels FROM runs WHERE run_id = $run", {"run": samples.run_id})
        facts = {name: json.loads(text) if text else {} for name, text in (query.one(con) or {}).items()}
        return cls(samples.run_id, samples, facts)

    def value(self, con: duckdb.DuckDBPyConnection, name: str, baseline: RunFigures) -> float:
        """A metric's value in this run; NaN where it has none. ``baseline``: the baseline's run of the same repeat."""
        if name in STATISTICS:
            return value_of(self.samples, STATISTICS[name])
        if name == "same_tokens":
            own, other = self.samples.output_digest, baseline.samples.output_digest
            return float(own == other) if own and other else float("nan")
        if name == "marginal_decode_ms":
            return marginal_decode_ms(mixed_steps_query(self.run_id).table(con))
        if name == "matched_share":
            return matched_share(con, self.run_id, baseline.run_id)
        row = step_figure_query(self.run_id, name, self.facts).one(con)
        value = None if row is None else row["value"]
        return float("nan") if value is None else float(value)

    def too_few(self, name: str) -> str:
        """What to say where the run's samples do not carry the metric's percentile; empty where they do."""
        statistic = STATISTICS.get(name)
        if statistic is None or statistic.share is None:
            return ""
        return too_few_in_words(statistic.title, self.samples.samples_of(statistic.metric), [statistic.share])


def step_figure_query(run_id: str, name: str, facts: Mapping[str, Any]) -> Query:
    """One of ``STEP_FIGURES`` as a row with ``value``."""
    figure = STEP_FIGURES[name]
    peaks, model = facts.get("peaks") or {}, facts.get("model") or {}
    known = {"f": peaks.get("flops_per_s"), "m": peaks.get("bytes_per_s"), "capacity": model.get("kv_capacity_tokens")}
    text = f"{STEPS.strip()}\nSELECT {figure.value} AS value" + (f" FROM {figure.source}" if figure.source else "")
    bound = {key: value for key, value in known.items() if f"${key}" in text}
    return Query(text, {"run": run_id} | bound)


def output_tokens_query(run_id: str) -> Query:
    return Query("SELECT request, output_token_ids FROM requests WHERE run_id = $run ORDER BY request", {"run": run_id})


def matched_share(con: duckdb.DuckDBPyConnection, run_id: str, baseline: str) -> float:
    """The share of each of the baseline's answers that comes before the first token that differs, mean over requests; NaN without text."""
    mine, theirs = (
        {row["request"]: row["output_token_ids"] for row in output_tokens_query(run).rows(con)}
        for run in (run_id, baseline)
    )
    shares = []
    for request, tokens in theirs.items():
        own = mine.get(request)
        if tokens is None or own is None:
            return float("nan")
        same = next(
            (n for n, (a, b) in enumerate(zip(own, tokens, strict=False)) if a != b), min(len(own), len(tokens))
        )
        shares.append(same / max(len(own), len(tokens), 1))
    return float(np.mean(shares)) if shares else float("nan")
