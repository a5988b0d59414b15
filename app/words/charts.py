"""Titles and explanations of the charts that every run has.

A chart's help ends with where its figures come from, which is read from the telemetry rows themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.words.text import PROVENANCE
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
        ("start_ns", "end_ns", "schedule_ns", "draft_ns", "prepare_ns", "forward_ns", "sample_ns", "finish_ns"),
    ),
    "itl": ChartWords(
        "Gap before every token",
        "One dot per token: how long its reader waited since the token before (inter-token latency, ITL). Smooth text is a flat "
        f"band; a stall is a gap of more than {STALL_MS:g} ms, slower than people read. The bound is the same for every run.",
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
    "roofline": ChartWords(
        "Roofline",
        "One dot per recent iteration: how much arithmetic it does per byte it must move, and the rate it reached. The line is what this "
        "device was measured to do: left of its bend memory is the limit, right of it arithmetic. Work and bytes are modelled.",
        "iteration",
        ("flops", "bytes", "forward_ns"),
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
        "whole pool. A cross: the pool was full, and a request was thrown out of it (preempted), to be computed again later.",
        "iteration",
        ("blocks_used", "blocks_cached", "blocks_total", "preempted"),
    ),
    "prefix-effects": ChartWords(
        "Three effects of prefix sharing",
        "What was spared, of what there would have been without sharing: prompt tokens found instead of computed; blocks of KV "
        "memory that requests held together, over time; bytes (weights and KV cache) that shared-prefix attention did not read again.",
        "iteration",
        ("prefix_hit_tokens", "prefill_tokens", "blocks_spared", "blocks_used", "kv_bytes_spared", "bytes"),
    ),
    "prefix-tokens": ChartWords(
        "Prompt tokens found and computed",
        "Found: taken from blocks that somebody had computed before, at a request's first admission. Computed: everything else, also what was "
        "computed again after a preemption. What a preempted request found of its own blocks is neither.",
        "iteration",
        ("prefix_hit_tokens", "preempted_hit_tokens", "prefill_tokens"),
    ),
    "prefix-memory": ChartWords(
        "Memory not held twice",
        "Blocks more that the running requests would hold if each had its own copy.",
        "iteration",
        ("blocks_spared",),
    ),
    "prefix-tree": ChartWords(
        "Prefix tree",
        "All text the pool has held, from the first token on the left: a span is as high as the number of requests that used it. In use: "
        "held by a request. Cached: held by nobody, found when it comes again. Grey: evicted.",
        "block",
        ("block_hash", "ref_count", "event", "position"),
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
    "spec-speed": ChartWords(
        "Speed with and without guesses",
        "Tokens per second in steps that verified guesses and in steps that did not, by the number of requests in the step; steps with prompt "
        "work are left out. Speculation pays where the first lies above the second.",
        "iteration",
        ("draft_tokens", "emitted_tokens", "start_ns", "end_ns"),
    ),
    "spec-position": ChartWords(
        "Acceptance by place",
        "Of the guesses at each place of a draft that were tested, the share that was accepted. A guess is tested when all before it were "
        "accepted.",
        "slice",
        ("drafted", "accepted"),
    ),
    "spec-lengths": ChartWords(
        "Accepted lengths",
        "How many verifications accepted how many guesses. The model's own token comes on top of each.",
        "slice",
        ("drafted", "accepted"),
    ),
    "spec-time": ChartWords(
        "Acceptance over time",
        "Tokens per request and pass of the model, guesses per request, and the share of tested guesses that was accepted.",
        "slice",
        ("drafted", "accepted", "emitted"),
    ),
    "spec-chosen": ChartWords(
        "Chosen length",
        "Guesses per request by the number of requests in the step. With smart control it falls as the batch grows: verifying stops being free.",
        "iteration",
        ("draft_tokens", "decode_requests"),
    ),
    "spec-predicted": ChartWords(
        "Predicted and measured step time",
        "What smart control expected a step to take, from a regression on this run's own steps, against what it took.",
        "iteration",
        ("start_ns", "end_ns"),
    ),
}
