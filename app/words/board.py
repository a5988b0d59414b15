"""Words of the live board: its tiles, its charts, and the line on what limits the engine.

A figure's help ends with where the figure comes from.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from app.words.charts import CHARTS
from app.words.text import PROVENANCE
from store.metrics import METRICS
from telemetry.rows import DeviceRow, IterationRow, Provenance, columns


@dataclass(frozen=True)
class FigureWords:
    """A figure's label, the same in plain words, and its explanation."""

    label: str
    plain: str
    help: str


def _figure(label: str, plain: str, words: str, origin: Provenance) -> FigureWords:
    return FigureWords(label, plain, f"{words} {PROVENANCE[origin]}")


TILES = {
    "speed": _figure(
        "Throughput",
        "speed for all users",
        "Tokens given to users per second: over the last seconds while the run goes on, over all of it once it has "
        "ended.",
        METRICS["output_tokens_per_s"].provenance,
    ),
    "ttft": _figure(
        "TTFT",
        "time to first token",
        "Time to first token: from a request's arrival to its first token. A request still without one counts with "
        "its wait so far "
        "once that is longer than the median. The large figure is the median, p99 is what one request in a hundred "
        "exceeds (of too few for that, their number stands beside it); the trend is the median lately.",
        METRICS["ttft_ms"].provenance,
    ),
    "itl": _figure(
        "ITL",
        "time between tokens",
        "Inter-token latency: between two tokens of one request, over the run. A gap that is still open counts with "
        "its length so far "
        "once that is longer than the median. The large figure is the median; the trend is p99 lately, where stalls "
        "show.",
        METRICS["itl_ms"].provenance,
    ),
    "requests": _figure(
        "Running",
        "requests served now",
        "Requests that hold a place in the engine now.",
        columns(IterationRow)["running"].provenance,
    ),
    "kv": _figure("KV usage", "memory in use", "Share of the KV pool's blocks that requests hold.", "derived"),
    "capacity": _figure(
        "KV capacity",
        "tokens that fit",
        "Tokens whose keys and values the KV pool holds. It takes its share of the free memory, but no more than this "
        "workload can fill; then the second line says how many tokens the share could hold. The requests are the max "
        "concurrent requests, how many of this workload fit into that at once: of its mean prompt and asked output, "
        "each with memory of its own "
        "(shared prefixes leave room for more). Below: how a number is stored, and the bits it takes on average with "
        "the steps and minima stored beside it (effective bits).",
        "derived",
    ),
    "device": _figure(
        "Device",
        "how busy it is",
        "How busy the device is, its memory in use and its power. On a CPU: this process's share of its cores, its "
        "memory.",
        columns(DeviceRow)["utilization"].provenance,
    ),
}


TILES_AFTER = {
    "requests": _figure(
        "Finished", "requests served", "Requests that were served to their end, of all that were asked.", "measured"
    ),
    "kv": _figure(
        "Peak KV usage",
        "memory in use",
        "Share of the KV pool's blocks that requests held when it was fullest.",
        "derived",
    ),
    "device": _figure(
        "Device",
        "how busy it was",
        "How busy the device was over the run, the most memory in use and the mean power. On a CPU: this process's "
        "share of its cores, its memory.",
        columns(DeviceRow)["utilization"].provenance,
    ),
}
"""Tiles that say something else once the run is over."""


LIMIT_TITLE = "What limits the engine now"


LIMIT_TITLE_AFTER = "What limited the engine, over the run"


LIMIT_FIGURES: dict[str, tuple[str, str, str]] = {
    "busy_share": ("Engine busy", "share", "measured"),
    "others_share": ("Other processes, of the machine", "share", "measured"),
    "in_flight_ms": ("Iteration in flight, so far", "ms", "measured"),
    "blocked_share": ("Steps held up by the KV pool", "share", "derived"),
    "preemptions": ("Preemptions", "", "measured"),
    "outside_forward_share": ("Time outside the model", "share", "derived"),
    "iteration_ms": ("Mean iteration", "ms", "measured"),
    "bound_ms": ("Least time at this device's peaks", "ms", "modelled"),
    "compute_ms": ("Least time for the arithmetic", "ms", "modelled"),
    "memory_ms": ("Least time for memory traffic", "ms", "modelled"),
    "memory_bound_share": ("Memory traffic decides", "share", "modelled"),
    "overhead_share": ("Beyond that least time", "share", "modelled"),
    "launch_share": ("Launch overhead", "share", "modelled"),
    "memory_stall_share": ("Memory stalls", "share", "modelled"),
    "arithmetic_stall_share": ("Arithmetic stalls", "share", "modelled"),
}
"""The figures behind the judgement of what limits the engine: label, unit, where it comes from. All over the last 5 s,
or over a run that has ended.
"""


def board_words() -> dict[str, Any]:
    """The words of charts, tiles and the limit line for the live board, as plain data."""
    charts = {name: {"title": words.title, "help": words.explained} for name, words in CHARTS.items()}
    figures = {
        name: {"label": label, "unit": unit, "help": PROVENANCE[origin].split(":")[0].lower()}
        for name, (label, unit, origin) in LIMIT_FIGURES.items()
    }
    return {
        "charts": charts,
        "tiles": {name: asdict(words) for name, words in TILES.items()},
        "tiles_after": {name: asdict(words) for name, words in TILES_AFTER.items()},
        "limit": {"title": LIMIT_TITLE, "title_after": LIMIT_TITLE_AFTER, "figures": figures},
    }
