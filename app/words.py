"""Every sentence the pages explain themselves with: charts, key figures, states, labels, glossary.

A figure's help ends with where the figure comes from (``measured``, ``derived``, ``modelled``, ``simulated``); for columns of
telemetry rows that is read from the rows themselves.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from telemetry.rows import ROW_TYPES, columns

PROVENANCE = {
    "measured": "Measured: read from a clock or a counter.",
    "derived": "Derived: computed from measured values.",
    "modelled": "Modelled: computed from a formula, not observed.",
    "simulated": "Simulated: no such thing happened on this machine.",
}

STALL_FACTOR = 5
"""A gap is called a stall above this many median gaps: Sarathi-Serve's strict bound is five decode iterations."""


@dataclass(frozen=True)
class ChartWords:
    """Title and explanation of one chart, and the telemetry columns it is drawn from."""

    title: str
    help: str
    table: str
    columns: tuple[str, ...]

    @property
    def provenance(self) -> str:
        """The sentence on where the figures come from; the weakest of the columns' provenances counts."""
        known = columns(ROW_TYPES[self.table])
        order = list(PROVENANCE)
        found = [known[name].provenance for name in self.columns]
        return PROVENANCE[max(found, key=order.index)]

    @property
    def explained(self) -> str:
        return f"{self.help} {self.provenance}"


CHARTS = {
    "timeline": ChartWords(
        "Iterations",
        "Every bar is one engine step: as wide and as high as it took. The colour says what the step did, the grey caps are the "
        "time around the model's forward pass. A high bar is a step that kept everybody waiting.",
        "iteration",
        ("start_ns", "end_ns", "schedule_ns", "prepare_ns", "forward_ns", "sample_ns", "finish_ns"),
    ),
    "itl": ChartWords(
        "Gap before every token",
        "One dot per token: how long its reader waited since the token before (inter-token latency, ITL). Smooth text is a flat "
        f"band; a stall is a gap of more than {STALL_FACTOR} times the median.",
        "slice",
        ("itl_ns",),
    ),
    "makeup": ChartWords(
        "What each iteration computed",
        "Tokens per step: prompt tokens (prefill) on top of one decode token per generating request. With chunked prefill no "
        "step exceeds the token budget.",
        "iteration",
        ("prefill_tokens", "decode_tokens", "token_budget"),
    ),
    "queue": ChartWords(
        "Running and waiting",
        "Requests that hold a place in the engine, and requests that have arrived and wait for one.",
        "iteration",
        ("running", "waiting"),
    ),
    "kv": ChartWords(
        "KV pool",
        "Blocks of the key/value memory: used by a request, cached (free to take, still holding a findable prefix), and the "
        "whole pool.",
        "iteration",
        ("blocks_used", "blocks_cached", "blocks_total"),
    ),
    "device": ChartWords(
        "Device activity",
        "How busy the device was. On a GPU: the share of time in which any kernel ran, which says nothing about how full it "
        "was. On a CPU: the share of the cores this process may use.",
        "device",
        ("utilization", "cpu_percent", "host_cpu_percent"),
    ),
    "memory": ChartWords(
        "Memory and power",
        "Memory in use on the device (on a CPU: of this process), and the power the board draws where it can be read.",
        "device",
        ("memory_used", "process_memory", "power"),
    ),
}


@dataclass(frozen=True)
class FigureWords:
    label: str
    help: str


TILES = {
    "speed": FigureWords("Output", f"Tokens given to users per second over the last seconds. {PROVENANCE['derived']}"),
    "ttft": FigureWords(
        "First token",
        "TTFT: from a request's arrival to its first token. The large figure is the median, p99 is what one request in a "
        f"hundred exceeds. {PROVENANCE['derived']}",
    ),
    "itl": FigureWords(
        "Token gap",
        f"ITL: between two tokens of one request. The large figure is the median; the trend shows p99, where stalls are. "
        f"{PROVENANCE['derived']}",
    ),
    "requests": FigureWords("Running", f"Requests that hold a place in the engine now. {PROVENANCE['measured']}"),
    "kv": FigureWords("KV use", f"Share of the KV pool's blocks that requests hold. {PROVENANCE['derived']}"),
    "device": FigureWords(
        "Device",
        "How busy the device is, its memory in use and its power. On a CPU: this process's share of its cores and its memory. "
        f"{PROVENANCE['measured']}",
    ),
}


def board_words() -> dict[str, dict[str, dict[str, str]]]:
    """The words of charts and tiles for the live board, as plain data."""
    charts = {name: {"title": words.title, "help": words.explained} for name, words in CHARTS.items()}
    return {"charts": charts, "tiles": {name: asdict(words) for name, words in TILES.items()}}
