"""``/metrics``: the newest run for Prometheus and its kin, in the OpenMetrics text format, under vLLM's names where it
has one.

Series carry the run's id and model, so a counter never falls: the next run begins a series of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from app.runs.listing import entry
from store.metrics import METRICS
from store.speculation import LONGEST
from telemetry.status import ACTIVE_STATES, read_status

if TYPE_CHECKING:
    import duckdb

    from app.lab import Lab

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
TTFT_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
ITL_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
E2E_S = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0)


@dataclass
class Page:
    """An OpenMetrics document that is being written."""

    lines: list[str] = field(default_factory=list)

    def family(self, name: str, kind: str, help: str) -> None:
        self.lines += [f"# TYPE {name} {kind}", f"# HELP {name} {_escaped(help)}"]

    def sample(self, name: str, labels: dict[str, Any], value: float | None) -> None:
        if value is not None:
            inside = ",".join(f'{key}="{_escaped(str(text), quote=True)}"' for key, text in labels.items())
            self.lines.append(f"{name}{{{inside}}} {float(value):.10g}" if inside else f"{name} {float(value):.10g}")

    def histogram(
        self, name: str, help: str, labels: dict[str, Any], bounds: Iterable[float], counted: Histogram
    ) -> None:
        self.family(name, "histogram", help)
        for bound, count in zip([*map(str, bounds), "+Inf"], counted.cumulative, strict=True):
            self.sample(f"{name}_bucket", labels | {"le": bound}, count)
        self.sample(f"{name}_sum", labels, counted.total)
        self.sample(f"{name}_count", labels, counted.cumulative[-1])

    def text(self) -> str:
        return "\n".join([*self.lines, "# EOF"]) + "\n"


@dataclass(frozen=True)
class Histogram:
    """Observations at or below each bound (the last: all of them), and their sum."""

    cumulative: tuple[int, ...]
    total: float


def metrics_page(lab: Lab, clients: int = 0) -> str:
    """The document as of now."""
    page = Page()
    page.family("servescope_live_clients", "gauge", "Pages that follow a run live.")
    page.sample("servescope_live_clients", {}, clients)
    page.family("servescope_queued_runs", "gauge", "Runs that wait for the device.")
    page.sample("servescope_queued_runs", {}, len(lab.queue.queued()))
    run_id = _newest(lab)
    if run_id is not None:
        _run(page, lab, run_id)
    return page.text()


def _newest(lab: Lab) -> str | None:
    """The run in progress, else the one that was served last."""
    running = lab.queue.running()
    if running:
        return running[-1]
    with lab.cursor() as cursor:
        rows = cursor.execute("SELECT run_id FROM runs ORDER BY started_unix_ns DESC NULLS LAST LIMIT 1").fetchall()
    known = [row[0] for row in rows if row[0] in lab.home.run_ids()]
    return known[0] if known else None


def _run(page: Page, lab: Lab, run_id: str) -> None:
    about = entry(lab.home, run_id)
    labels = {"model_name": about["model"], "run": run_id}
    active = about["status"] in ACTIVE_STATES
    figures = lab.figures(run_id, read_status(lab.home.run_dir(run_id))) if active else {}
    gauges = (
        ("vllm:num_requests_running", "Requests that hold a place in the engine.", figures.get("running")),
        ("vllm:num_requests_waiting", "Requests that have arrived and hold no place.", figures.get("waiting")),
        ("vllm:kv_cache_usage_perc", "Share of the KV pool in use; 1 is all of it.", figures.get("kv_used_share")),
        ("servescope_output_tokens_per_second", "Tokens emitted per second.", figures.get("tokens_per_s")),
    )
    for name, help, value in gauges:
        page.family(name, "gauge", help)
        page.sample(name, labels, (value or 0.0) if active else 0.0)
    page.family("servescope_run_state", "gauge", "1 for the state the run is in.")
    page.sample("servescope_run_state", labels | {"state": about["status"]}, 1)
    first_tokens = lab.live(run_id).first_token_latencies_ms if active else None
    with lab.cursor() as cursor:
        _counters(page, cursor, run_id, labels)
        for name, metric, bounds in (
            ("vllm:time_to_first_token_seconds", "ttft_ms", TTFT_S),
            ("vllm:inter_token_latency_seconds", "itl_ms", ITL_S),
            ("vllm:e2e_request_latency_seconds", "e2e_ms", E2E_S),
        ):
            if (
                metric == "ttft_ms" and first_tokens is not None
            ):  # a first token counts when it comes, not when its request ends
                counted = _counted(first_tokens / 1e3, bounds)
            else:
                counted = _histogram(cursor, run_id, metric, bounds)
            page.histogram(name, METRICS[metric].formula, labels, bounds, counted)


_COUNTERS = (
    ("servescope_iterations", "Engine steps.", "count(*)"),
    (
        "vllm:prompt_tokens",
        "Prompt tokens of requests that got their first token, cached ones included.",
        "sum(prompt_tokens)",
    ),
    (
        "servescope_prefill_tokens",
        "Prompt tokens computed, recomputation after preemption included.",
        "sum(prefill_tokens)",
    ),
    ("vllm:generation_tokens", "Tokens emitted.", "sum(emitted_tokens)"),
    ("vllm:num_preemptions", "Requests thrown out of the KV pool.", "sum(preempted)"),
    ("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", "sum(prefix_query_tokens)"),
    ("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache.", "sum(prefix_hit_tokens)"),
    ("vllm:spec_decode_num_draft_tokens", "Speculative tokens verified.", "sum(draft_tokens)"),
    ("vllm:spec_decode_num_accepted_tokens", "Speculative tokens accepted.", "sum(accepted_tokens)"),
)


def _counters(page: Page, cursor: duckdb.DuckDBPyConnection, run_id: str, labels: dict[str, Any]) -> None:
    sums = ", ".join(f"coalesce({expression}, 0)" for *_, expression in _COUNTERS)
    steps = cursor.execute(f"SELECT {sums} FROM iterations WHERE run_id = ?", [run_id]).fetchall()[0]
    for (name, help, _), value in zip(_COUNTERS, steps, strict=True):
        page.family(name, "counter", help)
        page.sample(f"{name}_total", labels, value)
    places = ", ".join(f"count(*) FILTER (accepted > {place})" for place in range(LONGEST))
    drafts = f"SELECT count(*), coalesce(max(drafted), 0), {places} FROM slices WHERE run_id = ? AND drafted > 0"
    verified, longest, *accepted = cursor.execute(drafts, [run_id]).fetchall()[0]
    page.family("vllm:spec_decode_num_drafts", "counter", "Drafts verified: one per request and step that guessed.")
    page.sample("vllm:spec_decode_num_drafts_total", labels, verified)
    page.family(
        "vllm:spec_decode_num_accepted_tokens_per_pos", "counter", "Speculative tokens accepted, by place in the draft."
    )
    for place, count in enumerate(accepted[:longest]):
        page.sample("vllm:spec_decode_num_accepted_tokens_per_pos_total", labels | {"position": place}, count)
    page.family("vllm:request_success", "counter", "Requests that ended, by reason.")
    ends = "SELECT end_reason, count(*) FROM requests WHERE run_id = ? GROUP BY end_reason ORDER BY end_reason"
    for reason, count in cursor.execute(ends, [run_id]).fetchall():
        page.sample("vllm:request_success_total", labels | {"finished_reason": reason}, count)


def _histogram(cursor: duckdb.DuckDBPyConnection, run_id: str, metric: str, bounds: tuple[float, ...]) -> Histogram:
    """A metric in ms as a histogram in seconds: one pass over a run's rows."""
    definition = METRICS[metric]
    counts = ", ".join("count(*) FILTER (x <= ?)" for _ in bounds)
    query = f"""SELECT {counts}, count(x), coalesce(sum(x), 0)
                FROM (SELECT ({definition.expression}) / 1e3 AS x FROM {definition.source} WHERE run_id = ?)"""
    *cumulative, total = cursor.execute(query, [*bounds, run_id]).fetchall()[0]
    return Histogram(tuple(cumulative), total)


def _counted(seconds: np.ndarray, bounds: tuple[float, ...]) -> Histogram:
    places = np.searchsorted(np.sort(seconds), bounds, side="right")
    return Histogram((*map(int, places), len(seconds)), float(seconds.sum()))


def _escaped(text: str, quote: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quote else text
