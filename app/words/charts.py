"""Every sentence the pages explain themselves with: charts, key figures, states, labels, glossary.

A figure's help ends with where the figure comes from (``measured``, ``derived``, ``modelled``, ``simulated``); for columns of
telemetry rows that is read from the rows themselves.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from store.metrics import METRICS, STALL_MS
from telemetry.rows import ROW_TYPES, DeviceRow, IterationRow, Provenance, columns

PROVENANCE = {
    "measured": "Measured: read from a clock or a counter.",
    "derived": "Derived: computed from measured values.",
    "modelled": "Modelled: computed from a formula, not observed.",
    "simulated": "Simulated: no such thing happened on this machine.",
}


def number(value: Any) -> str:
    """A figure in four digits, whole from 1,000 on and never in powers of ten for its size; a dash where there is none."""
    if not isinstance(value, int | float) or value != value:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def in_sentence(title: str) -> str:
    """A title as it stands within a sentence: ``KV Quantization`` -> ``KV quantization``."""
    return " ".join(word if word.isupper() else word.lower() for word in title.split(" "))


DISTURBED = "The machine was disturbed while some runs were served; see Served below."
DISTURBED_RATES = (
    "The machine was disturbed while some rates were served; the table says which, their runs say by what."
)
"""What a comparison and a search for capacity warn of."""

PARTS = ("Charts", "Latency", "Requests", "Iterations", "KV cache", "Setup")
"""The tabs of a finished run."""


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


@dataclass(frozen=True)
class FigureWords:
    label: str
    help: str


def _figure(label: str, words: str, origin: Provenance) -> FigureWords:
    return FigureWords(label, f"{words} {PROVENANCE[origin]}")


TILES = {
    "speed": _figure(
        "Output",
        "Tokens given to users per second: over the last seconds while the run goes on, over all of it once it has ended.",
        METRICS["output_tokens_per_s"].provenance,
    ),
    "ttft": _figure(
        "First token",
        "TTFT: from a request's arrival to its first token. A request still without one counts with its wait so far once that is longer "
        "than the median. The large figure is the median, p99 is what one request in a hundred exceeds (of too few for that, their number "
        "stands beside it); the trend is the median lately.",
        METRICS["ttft_ms"].provenance,
    ),
    "itl": _figure(
        "Token gap",
        "ITL: between two tokens of one request, over the run. A gap that is still open counts with its length so far once that is longer "
        "than the median. The large figure is the median; the trend is p99 lately, where stalls show.",
        METRICS["itl_ms"].provenance,
    ),
    "requests": _figure(
        "Running", "Requests that hold a place in the engine now.", columns(IterationRow)["running"].provenance
    ),
    "kv": _figure("KV use", "Share of the KV pool's blocks that requests hold.", "derived"),
    "capacity": _figure(
        "KV capacity",
        "Tokens whose keys and values the KV pool holds. It takes its share of the free memory, but no more than this workload can fill; "
        "then the second line says how many tokens the share could hold. The requests are how many of this workload fit into that at once: of "
        "its mean prompt and asked output, each with memory of its own (shared prefixes leave room for more). Below: how a number is stored, and the bits it takes "
        "on average with the steps and minima stored beside it (effective bits).",
        "derived",
    ),
    "device": _figure(
        "Device",
        "How busy the device is, its memory in use and its power. On a CPU: this process's share of its cores, its memory.",
        columns(DeviceRow)["utilization"].provenance,
    ),
}


TILES_AFTER = {
    "requests": _figure("Finished", "Requests that were served to their end, of all that were asked.", "measured"),
    "kv": _figure("KV use at most", "Share of the KV pool's blocks that requests held when it was fullest.", "derived"),
    "device": _figure(
        "Device",
        "How busy the device was over the run, the most memory in use and the mean power. On a CPU: this process's share of its cores, "
        "its memory.",
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
}
"""The figures behind the judgement of what limits the engine: label, unit, where it comes from. All over the last 5 s, or over a run that has ended."""


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


STATES = {
    "queued": ("Waiting", "The device is busy with another run; this one starts by itself."),
    "starting": ("Starting", "The engine process is starting."),
    "loading": ("Loading", "The engine is loading the model."),
    "running": ("Running", "The engine is serving the requests."),
    "finished": ("Finished", "Every request was served."),
    "failed": ("Failed", "The engine ended the run because of an error."),
    "cancelled": ("Cancelled", "The run was cancelled; what it had done is kept."),
    "crashed": ("Crashed", "The engine process ended before the run was done; what it had written is kept."),
}
"""Title and one sentence for each state a run can be in."""

LABELS = {
    "random weights": "The model's weights are random: the speed is real, the text is noise.",
    "synthetic acceptance": "Drafts were accepted by a random draw, not by the model.",
    "simulated": "Times come from a model of the machine, not from this machine.",
    "fp8 emulated": "This device has no 8-bit floating point: the text is what it would be, the speed is not.",
    "unfinished": "The run ended before every request was served.",
    "telemetry incomplete": "Some rows were not recorded; figures drawn from them are incomplete.",
    "telemetry damaged": "Rows that were recorded are missing or changed on disk; figures drawn from them are incomplete.",
    "status unreadable": "The file that says how the run went cannot be read; what it recorded is kept.",
}
"""What the labels that never leave a run mean."""

QUALITY = {
    "how": "Each codec against full precision with this run's model and real weights, on English reference text that was held back. "
    "Every token attends to the cache as it is stored. Perplexity: how surprised the model is by the text. KL: how far the law of the "
    "next token moves. Same greedy text: how much of a continuation is equal before the first difference. Logits, cut otherwise: the largest "
    "change of a logit when the same text is read in other pieces.",
    "button": "Reads a few texts once at full precision and once per codec, in a process of its own: minutes on a CPU, seconds on a GPU.",
    "none": "Not measured yet for this run.",
    "stored": "How keys and values are stored: a codec, or the model's own format at full precision.",
    "tokens": "Tokens whose keys and values the run's KV pool could hold.",
    "could_hold": "Tokens whose keys and values the pool's share of the free memory could hold, whatever the workload.",
    "requests": "Requests of this run's mean size (prompt and output) that fit, each with memory of its own: into the memory's share where the "
    "pool took no more of it than the workload needs, else into the pool. With a codec that keeps "
    "the last tokens of a request exact, no more than there are such windows.",
    "bits": "Bits that one stored number takes on average, with the steps and minima stored beside it; 16 or 32 at full precision.",
    "bits_served": "The same for a request of this workload's mean length, of which the last tokens stay exact: what decides how many requests fit.",
    "gain": "How many times more tokens the packed pool holds than the same bytes, exact windows among them, would at full precision.",
    "chart": "Right is more room, up is more loss. Room is what packed blocks take; exact windows beside the pool are not in it.",
    "heads": "How far the stored keys and values of each layer and KV head are from the true ones, relative to their size.",
}
"""Words of the KV cache's quality section."""

REASONS = {
    "scheduled": "there was room",
    "budget": "the token budget was spent",
    "blocks": "the KV pool had too few free blocks",
    "max_requests": "the most requests at once were running",
    "policy": "the policy does not mix this with what runs",
    "pool_full": "the KV pool was full",
    "priority": "another request was more important",
    "acceptance": "of how many drafts were accepted lately",
    "probe": "the guess had to be checked again",
    "request_end": "the request had ended",
    "asked": "it was asked for",
    "prefix": "another request computes the same tokens in this iteration",
    "recomputed": "they are needed again and computed a second time",
    "predicted": "that promised the most tokens per second",
    "tails": "the memory for exact windows beside the packed cache was taken",
}


def decision_in_words(decision: dict[str, Any]) -> str:
    """One decision of the scheduler as a sentence, with the numbers it was decided on (a row of ``decisions``)."""
    if decision.get("reason") == "predicted":
        expected = f"; the step was expected to take {decision['value'] / 1e6:,.1f} ms" if decision.get("value") else ""
        return f"This step verifies {decision.get('tokens') or 'no'} guesses in all{expected}."
    request = f"request {decision['request']}" if decision.get("request") is not None else "a request"
    tokens = decision.get("tokens") or "some"
    verbs = {
        "admitted": f"{request} was let in",
        "chunked": f"the prompt of {request} was cut: {tokens} tokens now, the rest later",
        "refused": f"{request} had to wait",
        "preempted": f"{request} was thrown out of the KV pool and will be computed again ({tokens} tokens lost)",
        "evicted": f"cached blocks with {tokens} tokens were given up",
        "speculation": f"{request} now guesses {decision.get('tokens') or 'no'} tokens ahead",
        "finished": f"{request} ended",
        "cancelled": f"{request} was cancelled",
    }
    words = verbs.get(str(decision.get("action")), f"{decision.get('action')} {request}")
    reason = REASONS.get(str(decision.get("reason")), str(decision.get("reason")))
    numbers = [
        f"{decision[name]} {label.replace('s ', ' ', 1) if decision[name] == 1 else label}"
        for name, label in (
            ("tokens_left", "tokens of budget left"),
            ("blocks_needed", "blocks needed"),
            ("blocks_free", "blocks to be had"),
        )
        if decision.get(name) is not None
    ]
    told = f" ({', '.join(numbers)})" if numbers else ""
    return f"{words[0].upper()}{words[1:]}, because {reason}{told}."


def iteration_in_words(row: dict[str, Any]) -> str:
    """One iteration as two sentences (a row of ``iterations``)."""
    took = (row["end_ns"] - row["start_ns"]) / 1e6
    forward = row["forward_ns"] / 1e6
    did = []
    if row["prefill_tokens"]:
        did.append(f"{row['prefill_tokens']} prompt tokens for {_requests(row['prefill_requests'])}")
    if row["decode_tokens"]:
        did.append(f"{row['decode_tokens']} decode tokens for {_requests(row['decode_requests'])}")
    work = " and ".join(did) or "nothing"
    return (
        f"Iteration {row['iteration']} took {took:,.1f} ms, {forward:,.1f} ms of it in the model. It computed {work}; "
        f"{_requests(row['running'])} held a place and {row['waiting']} waited."
    )


def _requests(count: int) -> str:
    return "1 request" if count == 1 else f"{count} requests"


GLOSSARY = {
    "Prefill": "Computing a prompt's keys and values. All its tokens can be computed at once.",
    "Decode": "Making output tokens, one per step and request; each step reads all the model's weights.",
    "Iteration": "One step of the engine: one pass of the model over the tokens the scheduler chose.",
    "TTFT": "Time to first token: from a request's arrival to its first output token.",
    "ITL": "Inter-token latency: the gap between two output tokens of one request.",
    "TPOT": "Time per output token: the mean gap of one request, first token left out.",
    "E2E": "End-to-end latency: from arrival to the last token.",
    "KV pool": "Memory for the keys and values of every token that running requests may look back at, in blocks.",
    "Token budget": "The most tokens one iteration may compute with chunked prefill.",
    "p50, p99": "The value half of the samples, or 99 in a hundred, do not exceed. A p99 needs about 500 samples; of a dozen it is nearly the "
    "largest.",
}
"""Words of the field in a sentence each."""
