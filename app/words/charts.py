"""Titles and explanations of the charts that every run has.

A chart's help ends with where its figures come from, which is read from the telemetry rows themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.words.text import PROVENANCE
from store.limits import OTHERS_CPU
from store.metrics import STALL_MS
from telemetry.rows import ROW_TYPES, columns


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
        kinds = [known[name].provenance for name in self.columns]
        return PROVENANCE[max(kinds, key=order.index)]

    @property
    def explained(self) -> str:
        return f"{self.help} {self.provenance}"


CHARTS = {
    "timeline": ChartWords(
        "Iterations",
        "Every bar is one engine step: as wide and as high as it took. The colour says what the step did, the grey "
        "caps are the time around the model's forward pass. A high bar is a step that kept everybody waiting.",
        "iteration",
        ("start_ns", "end_ns", "schedule_ns", "draft_ns", "prepare_ns", "forward_ns", "sample_ns", "finish_ns"),
    ),
    "itl": ChartWords(
        "ITL of every token",
        "One dot per token: how long its reader waited since the token before (inter-token latency, ITL). Smooth text "
        "is a flat "
        f"band; a stall is a gap of more than {STALL_MS:g} ms, slower than people read. The bound is the same for "
        f"every run.",
        "slice",
        ("itl_ns",),
    ),
    "makeup": ChartWords(
        "Batch composition",
        "Tokens per step: prompt tokens (prefill) on top of one decode token per generating request. No step exceeds "
        "the token budget where there is one.",
        "iteration",
        ("prefill_tokens", "decode_tokens", "token_budget"),
    ),
    "roofline": ChartWords(
        "Roofline",
        "One dot per recent iteration: how much arithmetic it does per byte it must move, and the rate it reached. "
        "The line is what this device was measured to do: left of its bend memory is the limit, right of it "
        "arithmetic. Work and bytes are modelled.",
        "iteration",
        ("flops", "bytes", "forward_ns"),
    ),
    "queue": ChartWords(
        "Running and waiting requests",
        "Requests that hold a place in the engine, and requests that have arrived and wait for one.",
        "iteration",
        ("running", "waiting"),
    ),
    "kv": ChartWords(
        "KV pool",
        "Blocks of the key/value memory: used by a request, cached (free to take, still holding a findable prefix), "
        "and the whole pool. A cross: the pool was full, and a request was thrown out of it (preempted), to be "
        "computed again later.",
        "iteration",
        ("blocks_used", "blocks_cached", "blocks_total", "preempted"),
    ),
    "device": ChartWords(
        "Device activity",
        "How busy the device was. On a GPU: the share of time in which any kernel ran, which says nothing about how "
        "full it was. On a CPU: the share of the cores this process may use. Shaded: seconds in which the device "
        f"throttled itself or other processes used over {OTHERS_CPU:g} % of the machine.",
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
