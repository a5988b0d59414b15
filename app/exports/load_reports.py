"""Reports of load generators, read: GuideLLM's, AIPerf's and ``vllm bench serve``'s JSON, under our names for what each
measured.

The tools share words and not meanings. What AIPerf and GuideLLM call inter-token latency is a mean over each request's
tokens, which is TPOT here; AIPerf's inter-chunk latency and vLLM's ITL are gaps between chunks, which is ITL here.
GuideLLM's time per output token counts the first token in, and has no name here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from app.errors import LabError

MOST_BYTES = 256 << 20
MOST_BENCHMARKS = 100
SHARES = ("p50", "p90", "p95", "p99")
Stats = dict[str, float]
"""``p50`` ... ``p99``, ``mean``, ``max`` in ms, and the ``count`` of samples."""


@dataclass(frozen=True)
class LoadReport:
    """What a load generator reports of one measurement, by the clock of its client."""

    tool: str
    version: str
    model: str
    how: str  # the load, in a few words
    latencies: Mapping[str, Stats]  # by our names, such as ttft_ms
    output_tokens_per_s: float | None
    requests: Mapping[str, int] = field(default_factory=dict)  # finished, failed
    output_tokens: int | None = None
    prompt_tokens: int | None = None
    duration_s: float | None = None


def read_reports(path: Path) -> list[LoadReport]:
    """Raises ``LabError`` for a file that is none of theirs, or that says nothing of latencies."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise _refused(path, f"It has more than {MOST_BYTES >> 20} MiB.")
        told = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _refused(path, f"It is no JSON file ({type(error).__name__}).") from error
    if not isinstance(told, dict):
        raise _refused(path, "It holds no object.")
    if isinstance(told.get("benchmarks"), list):
        reports = [_guidellm(told, one) for one in told["benchmarks"][:MOST_BENCHMARKS] if isinstance(one, dict)]
    elif _stats_of_aiperf(told, "request_latency") or isinstance(told.get("aiperf_version"), str):
        reports = [_aiperf(told)]
    elif _number(told.get("mean_ttft_ms")) is not None or _number(told.get("request_throughput")) is not None:
        reports = [_vllm(told)]
    else:
        raise _refused(path, "It is none of these.")
    reports = [one for one in reports if one.latencies]
    if not reports:
        raise _refused(path, "It tells no latency of any request.")
    return reports


def _guidellm(told: Mapping[str, Any], one: Mapping[str, Any]) -> LoadReport:
    metrics, metadata, config = _map(one, "metrics"), _map(told, "metadata"), _map(one, "config")
    latencies = {
        ours: stats
        for ours, theirs, factor in (
            ("ttft_ms", "time_to_first_token_ms", 1.0),
            ("tpot_ms", "inter_token_latency_ms", 1.0),
            ("e2e_ms", "request_latency", 1e3),
        )
        if (stats := _stats_of_guidellm(_map(metrics, theirs), factor))
    }
    totals, duration = _map(metrics, "request_totals"), _number(one.get("duration"))
    output, prompt = (
        _whole(_map(_map(metrics, name), "successful").get("total_sum"))
        for name in ("output_token_count", "prompt_token_count")
    )
    strategy = _map(config, "strategy")
    backend = _map(config, "backend") or _map(_map(told, "config"), "backend") or _map(told, "args")
    return LoadReport(
        "GuideLLM",
        _text(metadata.get("guidellm_version")),
        _text(backend.get("model")),
        " ".join(filter(None, [_text(strategy.get("type_")), _rate(strategy)])),
        latencies,
        output / duration if output and duration else None,
        {"finished": _whole(totals.get("successful")) or 0, "failed": _whole(totals.get("errored")) or 0},
        output,
        prompt,
        duration,
    )


def _stats_of_guidellm(summary: Mapping[str, Any], factor: float) -> Stats:
    known = _map(summary, "successful")
    shares = _map(known, "percentiles")
    stats = {**{share: shares.get(share) for share in SHARES}, "mean": known.get("mean"), "max": known.get("max")}
    return _stats(stats, known.get("count"), factor)


def _rate(strategy: Mapping[str, Any]) -> str:
    for name, unit in (("rate", "requests/s"), ("streams", "streams"), ("max_concurrency", "at once")):
        value = _number(strategy.get(name))
        if value is not None:
            return f"{value:g} {unit}"
    return ""


def _aiperf(told: Mapping[str, Any]) -> LoadReport:
    latencies = {
        ours: stats
        for ours, theirs in (
            ("ttft_ms", "time_to_first_token"),
            ("itl_ms", "inter_chunk_latency"),
            ("tpot_ms", "inter_token_latency"),
            ("e2e_ms", "request_latency"),
        )
        if (stats := _stats_of_aiperf(told, theirs))
    }

    def average(name: str) -> float | None:
        return _number(_map(told, name).get("avg"))

    config = _map(told, "input_config")
    return LoadReport(
        "AIPerf",
        _text(told.get("aiperf_version")),
        _model_of_aiperf(config),
        _load_of_aiperf(config),
        latencies,
        average("output_token_throughput"),
        {"finished": _whole(average("request_count")) or 0, "failed": _whole(average("error_request_count")) or 0},
        _whole(average("total_osl") if average("total_osl") is not None else average("total_output_tokens")),
        _whole(average("total_isl")),
        average("benchmark_duration"),
    )


def _model_of_aiperf(config: Mapping[str, Any]) -> str:
    """The first it names; where it says so differs between versions."""
    models = config.get("models")
    named = models.get("items") if isinstance(models, dict) else models
    for names in (_map(config, "endpoint").get("model_names"), named):
        if isinstance(names, list) and names:
            return _text(names[0].get("name") if isinstance(names[0], dict) else names[0])
    return ""


def _load_of_aiperf(config: Mapping[str, Any]) -> str:
    phases = config.get("phases")
    for phase in phases if isinstance(phases, list) else ():
        if isinstance(phase, dict) and phase.get("kind") == "profiling":
            rate, most = _number(phase.get("rate")), _whole(phase.get("concurrency"))
            known = [_text(phase.get("type")), "" if rate is None else f"{rate:g} requests/s"]
            return " ".join(filter(None, [*known, "" if most is None else f"{most} at once"]))
    return ""


def _stats_of_aiperf(told: Mapping[str, Any], name: str) -> Stats:
    known = _map(told, name)
    factor = {"ms": 1.0, "s": 1e3, "sec": 1e3, "us": 1e-3, "ns": 1e-6}.get(str(known.get("unit")), math.nan)
    stats = {**{share: known.get(share) for share in SHARES}, "mean": known.get("avg"), "max": known.get("max")}
    return _stats(stats, known.get("count"), factor)


def _vllm(told: Mapping[str, Any]) -> LoadReport:
    latencies = {}
    samples = {"ttft_ms": "ttfts", "itl_ms": "itls", "e2e_ms": "latencies"}
    for ours, theirs in (("ttft_ms", "ttft"), ("itl_ms", "itl"), ("tpot_ms", "tpot"), ("e2e_ms", "e2el")):
        stats = {share: told.get(f"{share}_{theirs}_ms") for share in SHARES} | {"mean": told.get(f"mean_{theirs}_ms")}
        stats["p50"] = told.get(f"median_{theirs}_ms", stats["p50"])
        count = told.get("completed") if ours in ("ttft_ms", "e2e_ms") else None
        known = _stats(stats, count, 1.0) | _stats_of_samples(told.get(samples.get(ours, "")), told.get("errors"))
        if known:
            latencies[ours] = known
    return LoadReport(
        "vllm bench serve",
        _text(told.get("vllm_version")),
        _text(told.get("model_id")),
        _load_of_vllm(told),
        latencies,
        _number(told.get("output_throughput")),
        {"finished": _whole(told.get("completed")) or 0, "failed": _whole(told.get("failed")) or 0},
        _whole(told.get("total_output_tokens")),
        _whole(told.get("total_input_tokens")),
        _number(told.get("duration")),
    )


def _load_of_vllm(told: Mapping[str, Any]) -> str:
    rate, most = told.get("request_rate"), _whole(told.get("max_concurrency"))
    known = [
        "" if rate is None else f"{_text(str(rate))} requests/s",
        "" if most is None else f"at most {most} at once",
    ]
    return ", ".join(filter(None, known))


def _stats_of_samples(samples: Any, errors: Any) -> Stats:
    """Of ``--save-detailed``: seconds by request, or lists of them; of requests that failed none."""
    if not isinstance(samples, list):
        return {}
    failed = errors if isinstance(errors, list) and len(errors) == len(samples) else [""] * len(samples)
    values = [
        value * 1e3
        for sample, error in zip(samples, failed, strict=True)
        if not error
        for one in (sample if isinstance(sample, list) else [sample])
        if (value := _number(one)) is not None
    ]
    if not values:
        return {}
    shares = np.percentile(values, [float(share[1:]) for share in SHARES])
    return dict(zip(SHARES, map(float, shares), strict=True)) | {
        "mean": float(np.mean(values)),
        "max": max(values),
        "count": float(len(values)),
    }


def _stats(told: Mapping[str, Any], count: Any, factor: float) -> Stats:
    known = {name: value * factor for name, one in told.items() if (value := _number(one)) is not None}
    known = {name: value for name, value in known.items() if math.isfinite(value)}
    samples = _whole(count)
    return known | ({"count": float(samples)} if known and samples is not None else {})


def _map(told: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = told.get(name)
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float | None:
    usual = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
    return float(value) if usual and math.isfinite(value) and value >= 0 else None


def _whole(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else round(number)


def _text(value: Any) -> str:
    return " ".join(value.split())[:200] if isinstance(value, str) else ""


def stated(report: LoadReport) -> Iterable[tuple[str, float]]:
    """A report's figures by dotted names, as a run's summary has them."""
    for name, stats in report.latencies.items():
        for stat, value in stats.items():
            yield f"{name}.{stat}", value
    if report.output_tokens_per_s is not None:
        yield "output_tokens_per_s", report.output_tokens_per_s


def _refused(path: Path, message: str) -> LabError:
    return LabError(
        "no-report",
        field="file",
        value=str(path),
        message=message,
        mend="A report is the JSON of GuideLLM (benchmarks.json), AIPerf (profile_export_aiperf.json) or vllm bench "
        "serve (--save-result); a snapshot of runs ends in .servescope.",
    )
