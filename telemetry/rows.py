"""The rows an engine run leaves behind: one frozen dataclass per row type.

A column has one home, here. The Arrow schema of the spool, the DuckDB table and the help texts on the page are all derived
from these fields. Times are integer nanoseconds since the run's start on one monotonic clock; every column names its unit.

Null convention on the hot path: an integer column declared ``nullable`` writes ``NULL_INT``, a float one writes NaN; the recorder
turns both into Arrow nulls. Enumerated columns (``choices``) are written as the index of the choice and stored as text.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

Provenance = Literal["measured", "derived", "modelled", "simulated"]

NULL_INT = -1


@dataclass(frozen=True)
class Column:
    """What is known about one column besides its name."""

    arrow_type: str  # one of: int64 int32 int8 float64 float32 bool string list<int32> list<float32>
    unit: str  # "ns", "tokens", "blocks", "requests", "bytes", "", ...
    help: str
    provenance: Provenance = "measured"
    nullable: bool = False
    choices: tuple[str, ...] = ()


def column(
    arrow_type: str,
    unit: str,
    help: str,
    *,
    provenance: Provenance = "measured",
    nullable: bool = False,
    choices: tuple[str, ...] = (),
) -> Any:
    return field(metadata={"column": Column(arrow_type, unit, help, provenance, nullable, choices)})


ADMISSION_STOPS = ("none_waiting", "budget", "blocks", "max_requests", "policy", "prefix", "tails")
SLICE_KINDS = ("prefill", "decode", "verify")
COMPLETED = ("stop", "length", "stop_string")  # how a request ends that was served to its end
END_REASONS = (*COMPLETED, "cancelled", "failed")
DECISIONS = ("admitted", "chunked", "refused", "preempted", "evicted", "speculation", "finished", "cancelled")
DECISION_REASONS = (
    "scheduled",
    "budget",
    "blocks",
    "max_requests",
    "policy",
    "pool_full",
    "priority",
    "acceptance",
    "probe",
    "request_end",
    "asked",
    "prefix",
    "recomputed",
    "predicted",
    "tails",
    "swapped_in",
    "host_full",
)
HALVES = ("prefill", "decode")
SWAP_DIRECTIONS = ("out", "in", "ahead")
TIERS = ("host", "disk")
TIER_LEVELS = ("delta-fine", "delta-medium", "delta-coarse", "text")
TIER_ACTIONS = ("store", "load", "decline", "lose", "damaged")
PIN_ACTIONS = ("pin", "unpin", "decline", "evict")
UNPIN_REASONS = ("back", "ttl", "forced", "cancelled", "end")
FOREIGN_SOURCES = ("metrics", "kv_events", "forward_pass", "report")
FOREIGN_CLOCKS = ("reader", "engine wall", "gpu span", "client")
BLOCK_EVENTS = ("allocate", "share", "fill", "quantise", "free", "evict")
RUN_EVENTS = ("start", "end")


@dataclass(frozen=True)
class IterationRow:
    """One engine step."""

    iteration: int = column("int64", "", "Number of the engine step, from 0.")
    start_ns: int = column("int64", "ns", "When the step began.")
    end_ns: int = column("int64", "ns", "When the step's tokens were known; the time stamp of every token it emitted.")
    schedule_ns: int = column("int64", "ns", "Time spent deciding who computes how many tokens.")
    draft_ns: int = column("int64", "ns", "Part of schedule_ns: guessing what speculative decoding then verifies.")
    prepare_ns: int = column("int64", "ns", "Time spent building the batch: token ids, positions, block tables.")
    forward_ns: int = column("int64", "ns", "Time spent in the model's forward pass (on a GPU: by device events).")
    sample_ns: int = column("int64", "ns", "Time spent turning logits into tokens.")
    finish_ns: int = column("int64", "ns", "Time spent on results: stop conditions, freeing blocks, recording.")
    running: int = column("int32", "requests", "Requests holding a place in the engine in this step.")
    waiting: int = column("int32", "requests", "Requests that had arrived and held no place once the step was planned.")
    preempted: int = column("int32", "requests", "Requests thrown out of the KV pool while this step was planned.")
    prefill_requests: int = column("int32", "requests", "Requests that computed prompt tokens in this step.")
    decode_requests: int = column("int32", "requests", "Requests that computed a decode token in this step.")
    prefill_tokens: int = column("int32", "tokens", "Prompt tokens computed, recomputation after preemption included.")
    decode_tokens: int = column("int32", "tokens", "Decode tokens computed (one per decoding request).")
    draft_tokens: int = column("int32", "tokens", "Speculative tokens verified in this step.")
    accepted_tokens: int = column("int32", "tokens", "Speculative tokens that were accepted.")
    emitted_tokens: int = column("int32", "tokens", "Tokens given to users in this step.")
    prompt_tokens: int = column(
        "int32", "tokens", "Prompts, cached tokens included, of requests that got their first token in this step."
    )
    prefix_query_tokens: int = column(
        "int32", "tokens", "Prompt tokens looked up in the prefix cache when their requests were first admitted."
    )
    prefix_hit_tokens: int = column(
        "int32", "tokens", "Prompt tokens found in the prefix cache at a request's first admission."
    )
    preempted_hit_tokens: int = column(
        "int32", "tokens", "Tokens found there when a preempted request came back: mostly its own, so no prefix hits."
    )
    padded_tokens: int = column(
        "int32",
        "tokens",
        "Rows computed for nothing, to make a rectangle: of the whole pass with a padded policy, of attention with padded verification.",
    )
    padded_keys: int = column("int64", "tokens", "KV entries read for nothing in one layer, to make such a rectangle.")
    context_tokens: int = column("int64", "tokens", "KV entries read by attention in one layer, summed over the batch.")
    token_budget: int = column("int32", "tokens", "Most tokens the scheduler would give to this step.", nullable=True)
    admission_stop: str = column("int8", "", "What ended admission of waiting requests.", choices=ADMISSION_STOPS)
    blocks_total: int = column("int32", "blocks", "Blocks in the KV pool.")
    blocks_used: int = column("int32", "blocks", "Blocks referenced by at least one request after the step.")
    blocks_cached: int = column("int32", "blocks", "Unreferenced blocks that still hold a findable prefix.")
    blocks_shared: int = column("int32", "blocks", "Blocks referenced by more than one request.")
    blocks_spared: int = column("int32", "blocks", "Blocks more that requests would hold if nothing were shared.")
    kv_tokens: int = column("int64", "tokens", "Tokens whose keys and values requests hold in the pool after the step.")
    graph_size: int = column(
        "int32", "tokens", "Padded size of the CUDA graph that ran; null without one.", nullable=True
    )
    flops: float = column(
        "float64", "FLOP", "Arithmetic this batch needs (papers: theoretical peak).", provenance="modelled"
    )
    bytes: float = column("float64", "bytes", "Least memory traffic this batch needs.", provenance="modelled")
    kv_bytes_spared: float = column(
        "float64",
        "bytes",
        "Keys and values not read again, because requests that share them read them in one pass.",
        provenance="modelled",
    )
    half: str = column(
        "int8",
        "",
        "The engine process that computed it, where prefill and decode run apart. What says how things stand (running, "
        "waiting, blocks, tokens in the pool) then counts both.",
        choices=HALVES,
        nullable=True,
    )
    half_threads: int = column(
        "int32",
        "threads",
        "CPU threads that this half had for the step, where prefill and decode run apart.",
        nullable=True,
    )


@dataclass(frozen=True)
class SliceRow:
    """One request's part in one step: the exact make-up of the batch."""

    iteration: int = column("int64", "", "The engine step.")
    request: int = column("int32", "", "Number of the request in the run.")
    kind: str = column("int8", "", "What the tokens were for.", choices=SLICE_KINDS)
    tokens: int = column("int32", "tokens", "Tokens computed for this request in this step.")
    context_len: int = column("int32", "tokens", "Tokens of this request already in the KV pool before the step.")
    drafted: int = column("int32", "tokens", "Speculative tokens among them.")
    accepted: int = column("int32", "tokens", "Speculative tokens accepted.")
    emitted: int = column("int32", "tokens", "Tokens this request received.")
    itl_ns: int = column(
        "int64",
        "ns",
        "Time since this request's previous emission; null where nothing was emitted and for the first token.",
        provenance="derived",
        nullable=True,
    )


@dataclass(frozen=True)
class RequestRow:
    """One request, written when it ends."""

    request: int = column("int32", "", "Number of the request in the run, in arrival order.")
    request_id: str = column("string", "", "The request's name in the workload.")
    group: str = column("string", "", "The workload's group the request belongs to.", nullable=True)
    priority: int = column("int32", "", "Larger is more important.")
    arrival_ns: int = column("int64", "ns", "When the request arrived.")
    first_scheduled_ns: int = column("int64", "ns", "Start of the first step that computed for it.", nullable=True)
    first_token_ns: int = column("int64", "ns", "When its first token was known.", nullable=True)
    end_ns: int = column("int64", "ns", "When it ended.")
    prompt_tokens: int = column("int32", "tokens", "Length of the prompt.")
    cached_tokens: int = column("int32", "tokens", "Prompt tokens taken from the prefix cache, first admission.")
    output_tokens: int = column("int32", "tokens", "Tokens emitted.")
    preemptions: int = column("int32", "", "How often it was thrown out of the KV pool.")
    drafted_tokens: int = column("int32", "tokens", "Speculative tokens verified for it.")
    accepted_tokens: int = column("int32", "tokens", "Speculative tokens accepted for it.")
    end_reason: str = column("int8", "", "Why it ended.", choices=END_REASONS)
    error: str = column("string", "", "What went wrong, for a failed request.", nullable=True)
    text: str = column("string", "", "The output as text, if kept.", nullable=True)
    output_token_ids: list[int] = column("list<int32>", "", "The output's token ids, if kept.", nullable=True)  # noqa: RUF009
    program: int = column(
        "int32",
        "",
        "Number of the first turn of the program that the request is a turn of: what it continues, and what continues it. Null where "
        "it stands alone.",
        nullable=True,
    )
    output_logprobs: list[float] = column(  # noqa: RUF009
        "list<float32>",
        "nat",
        "Natural log-probability of each output token, of the logits before temperature and filters, if kept.",
        nullable=True,
    )


@dataclass(frozen=True)
class DecisionRow:
    """Something the scheduler did that is worth explaining, with the numbers it decided on."""

    iteration: int = column("int64", "", "The engine step being planned.")
    time_ns: int = column("int64", "ns", "When it was decided.")
    request: int = column("int32", "", "The request concerned.", nullable=True)
    action: str = column("int8", "", "What was done.", choices=DECISIONS)
    reason: str = column("int8", "", "Why.", choices=DECISION_REASONS)
    tokens: int = column("int32", "tokens", "Tokens at stake (granted, refused or lost).", nullable=True)
    tokens_left: int = column("int32", "tokens", "Budget left when it was decided.", nullable=True)
    blocks_needed: int = column("int32", "blocks", "Blocks the step needed.", nullable=True)
    blocks_free: int = column("int32", "blocks", "Blocks that could be had.", nullable=True)
    value: float = column("float64", "", "A further figure the action explains itself with.", nullable=True)


@dataclass(frozen=True)
class BlockRow:
    """A change of one KV block; replaying these rebuilds the pool at any iteration."""

    iteration: int = column("int64", "", "The engine step during which it happened.")
    time_ns: int = column("int64", "ns", "When.")
    block: int = column("int32", "", "The block's number in the pool.")
    event: str = column("int8", "", "What happened to it.", choices=BLOCK_EVENTS)
    request: int = column("int32", "", "The request on whose behalf.", nullable=True)
    position: int = column("int32", "", "The block's place in that request's block table.", nullable=True)
    ref_count: int = column("int32", "requests", "Requests that hold it afterwards.")
    block_hash: int = column("int64", "", "Prefix hash of a full block's content; null if none.", nullable=True)


@dataclass(frozen=True)
class SwapRow:
    """Keys and values of one request copied between the KV pool and host memory; written when the copies have landed."""

    iteration: int = column("int64", "", "The engine step in which it was found to have landed.")
    request: int = column("int32", "", "The request whose keys and values were copied.")
    direction: str = column(
        "int8",
        "",
        "out: it was preempted. in: it came back. ahead: it still ran, and was likely to be preempted next.",
        choices=SWAP_DIRECTIONS,
    )
    asked_ns: int = column("int64", "ns", "When the copies were asked for.")
    start_ns: int = column("int64", "ns", "When the first copy began.")
    end_ns: int = column("int64", "ns", "When the last copy had ended.")
    waited_ns: int = column("int64", "ns", "Time the engine stood still for it, computing nothing.")
    tokens: int = column("int32", "tokens", "Tokens of the request whose keys and values were computed by then.")
    blocks: int = column("int32", "blocks", "Blocks that were copied.")
    blocks_kept: int = column("int32", "blocks", "Blocks that were there already, and not copied again.")
    copies: int = column("int32", "", "Copies it took: pieces of memory that lay together on both sides.")
    bytes: int = column("int64", "bytes", "Bytes that were copied.")


@dataclass(frozen=True)
class HandoverRow:
    """Keys and values of one request handed from the prefill half to the decode half; written when it goes on there."""

    request: int = column("int32", "", "The request.")
    prefilled_ns: int = column("int64", "ns", "When its prompt was computed and its first token known.")
    asked_ns: int = column("int64", "ns", "When it had a place in the decode half, and its blocks were asked for.")
    start_ns: int = column("int64", "ns", "When the first copy began.")
    end_ns: int = column("int64", "ns", "When its blocks had arrived and were held against their checksums.")
    joined_ns: int = column("int64", "ns", "When the decode half took it up: the begin of a step it could be in.")
    tokens: int = column("int32", "tokens", "Tokens whose keys and values were handed over or there already.")
    blocks: int = column("int32", "blocks", "Blocks that were copied.")
    blocks_kept: int = column("int32", "blocks", "Blocks that the decode half had already, and shares.")
    copies: int = column("int32", "", "Copies it took: pieces of memory that lay together on both sides.")
    bytes: int = column("int64", "bytes", "Bytes that were copied.")


@dataclass(frozen=True)
class LayoutRow:
    """What the KV pool's memory was used for after a step; the five parts add up to the pool."""

    iteration: int = column("int64", "", "The engine step.")
    time_ns: int = column("int64", "ns", "When: the end of the step.")
    used_bytes: int = column("int64", "bytes", "Keys and values of computed tokens; shared ones count once.")
    internal_bytes: int = column(
        "int64", "bytes", "Internal fragmentation: the unused rest of each request's last block or last pages."
    )
    reserved_bytes: int = column(
        "int64", "bytes", "More that requests hold: for tokens that are not computed yet, or never will be."
    )
    kept_bytes: int = column("int64", "bytes", "Held by no request: cached blocks, and pages that stay mapped.")
    free_bytes: int = column("int64", "bytes", "The rest of the pool.")
    resident_bytes: int = column(
        "int64",
        "bytes",
        "Memory that the operating system really has behind the pool, where it is mapped on demand; read four times a second.",
        nullable=True,
    )
    mapped_bytes: int = column("int64", "bytes", "Memory that this step needed pages mapped for.")
    released_bytes: int = column("int64", "bytes", "Memory that this step gave back to the operating system.")
    mapping_ns: int = column(
        "int64", "ns", "Time the engine spent mapping pages larger than the system's, and giving pages back."
    )


@dataclass(frozen=True)
class TierRow:
    """What was done with prefix blocks of a tier below the KV pool in a step: each load by itself, the rest added up."""

    iteration: int = column("int64", "", "The engine step that had been planned last.")
    time_ns: int = column("int64", "ns", "When it was done.")
    tier: str = column("int8", "", "Host memory or disk.", choices=TIERS)
    action: str = column(
        "int8",
        "",
        "store: kept there. load: copied into the KV pool for a request. decline: found, and computed again as that was predicted "
        "to take less time. lose: gone for want of room. damaged: its file was gone or not what was written.",
        choices=TIER_ACTIONS,
    )
    request: int = column("int64", "", "The request that it was done for; null if none.", nullable=True)
    duration_ns: int = column("int64", "ns", "Time that it took to copy, read, write and code.")
    asked_ns: int = column("int64", "ns", "When a load was asked for; null for anything else.", nullable=True)
    waited_ns: int = column(
        "int64", "ns", "Time that the engine stood still for it; the rest of it was hidden behind steps."
    )
    level: str = column(
        "int8",
        "",
        "Where the tier codec's level follows the link: that which was read; text: the rest of what was found is computed again. Null "
        "where nothing was chosen.",
        choices=TIER_LEVELS,
        nullable=True,
    )
    link_bytes_per_s: float = column(
        "float64",
        "bytes/s",
        "Rate of the block before, by which the level was chosen; null where none was.",
        nullable=True,
    )
    left_s: float = column(
        "float64",
        "s",
        "Time that was left to the bound on TTFT when the level was chosen; negative: none. Null where none was.",
        nullable=True,
    )
    blocks: int = column("int64", "blocks", "KV blocks.")
    tokens: int = column("int64", "tokens", "Tokens in these blocks.")
    bytes: int = column("int64", "bytes", "Their size, as the cache stores them.")
    stored_bytes: int = column(
        "int64", "bytes", "Their size as the tier stores them: on disk, what the tier codec made."
    )
    codec_ns: int = column(
        "int64", "ns", "Time of it that the tier codec took: to encode what is stored, to decode what is loaded."
    )
    load_ns: int = column(
        "int64",
        "ns",
        "Predicted time to load them; null if it was not asked for.",
        provenance="modelled",
        nullable=True,
    )
    recompute_ns: int = column(
        "int64",
        "ns",
        "Predicted time to compute their tokens again; null if it was not asked for, or nothing had been computed yet.",
        provenance="modelled",
        nullable=True,
    )


@dataclass(frozen=True)
class PinRow:
    """What became of the KV blocks of an ended turn: that they were pinned, for how long, and why they are no more."""

    iteration: int = column("int64", "", "The engine step that was the last one begun.")
    time_ns: int = column("int64", "ns", "When.")
    action: str = column(
        "int8",
        "",
        "pin: its blocks stay for a time to live. unpin: they may be evicted again. decline: holding them was not worth its cost. "
        "evict: they were given up as it ended.",
        choices=PIN_ACTIONS,
    )
    reason: str = column(
        "int8",
        "",
        "Why a pin ended. back: the next turn came in time and has its place. ttl: the time was over. forced: somebody needed the "
        "room. cancelled: the next turn was given up. end: the run was over.",
        choices=UNPIN_REASONS,
        nullable=True,
    )
    request: int = column("int32", "", "The turn that ended.")
    blocks: int = column("int32", "blocks", "Its blocks that could be found, from the first token on.")
    tokens: int = column("int32", "tokens", "Tokens in these blocks.")
    pinned: int = column("int32", "blocks", "Blocks of the pool that were pinned afterwards, each counted once.")
    ttl_ns: int = column("int64", "ns", "Time to live that was chosen; null but of pin and decline.", nullable=True)
    held_ns: int = column("int64", "ns", "How long the pin lasted; null but of unpin.", nullable=True)
    chance: float = column(
        "float64",
        "",
        "Chance that the tool is back in time, by the durations seen; null without adaptive times.",
        provenance="modelled",
        nullable=True,
    )
    recompute_ns: int = column(
        "int64",
        "ns",
        "Predicted time to compute the tokens again; null likewise.",
        provenance="modelled",
        nullable=True,
    )
    wait_ns: int = column(
        "int64",
        "ns",
        "Predicted wait in the queue of a turn without its blocks; null likewise.",
        provenance="modelled",
        nullable=True,
    )
    cost_ns: int = column(
        "int64",
        "ns",
        "Expected cost of holding the memory: share of the pool times expected time; null likewise.",
        provenance="modelled",
        nullable=True,
    )


@dataclass(frozen=True)
class FarRow:
    """Where keys and values lay in a step of a run with a far pool, and what attention over the far part took."""

    iteration: int = column("int64", "", "The engine step.")
    time_ns: int = column("int64", "ns", "When the step ended.")
    near_blocks: int = column("int32", "blocks", "Blocks of the KV pool that requests held after the step.")
    far_blocks: int = column("int32", "blocks", "Blocks of the far pool that requests held after the step.")
    rows: int = column("int32", "tokens", "Tokens of the step that attended to keys in the far pool.")
    keys: int = column(
        "int64",
        "tokens",
        "Keys in the far pool of the step's sequences, those of guesses included; each layer reads them.",
    )
    near_keys: int = column(
        "int64", "tokens", "Keys of the same sequences in the KV pool; 0 where no sequence has any in the far pool."
    )
    stored_tokens: int = column(
        "int32", "tokens", "Tokens whose keys and values went to the far pool as they were computed."
    )
    sent_bytes: int = column(
        "int64", "bytes", "Queries, and those keys and values, sent to the far pool, over all layers."
    )
    returned_bytes: int = column("int64", "bytes", "Partial outputs and log-sum-exps that came back.")
    compute_ns: int = column(
        "int64", "ns", "Time that attention in the far pool took, over all layers; part of forward_ns."
    )
    link_ns: int = column("int64", "ns", "Time the step waited for the emulated link beyond that; likewise.")


@dataclass(frozen=True)
class LendingRow:
    """Blocks of one request that went to the far pool, or were given back."""

    iteration: int = column("int64", "", "The engine step that had been planned last.")
    request: int = column("int32", "", "The request whose oldest blocks they are.")
    start_ns: int = column("int64", "ns", "When that began.")
    end_ns: int = column("int64", "ns", "When they were there, the emulated link included.")
    blocks: int = column(
        "int32", "blocks", "How many more it has there; below 0: so many were given back, as it ended or was preempted."
    )
    copied_blocks: int = column(
        "int32",
        "blocks",
        "Blocks of these that were copied; others are shared and moved with another request's, or had nothing in them.",
    )
    bytes: int = column("int64", "bytes", "Bytes that were copied.")
    far_blocks: int = column("int32", "blocks", "Blocks that the request then had in the far pool.")


@dataclass(frozen=True)
class DeviceRow:
    """One sample of the machine's counters. A counter the device or driver lacks is null."""

    time_ns: int = column("int64", "ns", "When the sample was taken.")
    device: str = column("string", "", "cpu, or cuda:N.")
    utilization: float = column(
        "float32",
        "%",
        "GPU: share of the driver's window in which any kernel ran. CPU: this process's share of its cores.",
        nullable=True,
    )
    memory_utilization: float = column(
        "float32", "%", "Share of the window in which device memory was read or written.", nullable=True
    )
    memory_used: int = column(
        "int64", "bytes", "GPU: memory in use on the device. CPU: this process's resident memory.", nullable=True
    )
    memory_total: int = column("int64", "bytes", "Memory of the device or the machine.", nullable=True)
    power: float = column(
        "float32", "W", "Power draw of the board; on a CPU: of the processor's packages.", nullable=True
    )
    energy: float = column(
        "float64",
        "J",
        "GPU: energy since the driver was loaded. CPU: of the processor's packages, since the first sample. Differences count.",
        nullable=True,
    )
    sm_clock: int = column("int32", "MHz", "SM clock, or the CPU's mean clock.", nullable=True)
    memory_clock: int = column("int32", "MHz", "Memory clock.", nullable=True)
    temperature: float = column("float32", "°C", "Temperature of the chip.", nullable=True)
    pcie_tx: float = column("float64", "bytes/s", "Sent over PCIe.", nullable=True)
    pcie_rx: float = column("float64", "bytes/s", "Received over PCIe.", nullable=True)
    throttle_reasons: int = column("int64", "", "NVML's bit mask of what holds the clocks down.", nullable=True)
    sm_active: float = column("float32", "%", "GPM: share of SMs with work.", nullable=True)
    sm_occupancy: float = column("float32", "%", "GPM: resident warps of the most possible.", nullable=True)
    tensor_active: float = column("float32", "%", "GPM: tensor cores at work.", nullable=True)
    dram_active: float = column("float32", "%", "GPM: DRAM bandwidth in use.", nullable=True)
    cpu_percent: float = column("float32", "%", "This process's CPU use; 100 is one core.", nullable=True)
    process_memory: int = column("int64", "bytes", "This process's resident memory.", nullable=True)
    host_cpu_percent: float = column("float32", "%", "All processes' share of all cores.", nullable=True)
    host_memory_available: int = column("int64", "bytes", "Memory the machine could still give.", nullable=True)


@dataclass(frozen=True)
class ForeignRow:
    """One figure that another engine told of itself: a sum over its requests, never about one of them."""

    time_ns: int = column("int64", "ns", "When it was read, on the clock of the process that reads.")
    span_ns: int = column(
        "int64", "ns", "Stretch of time up to then that the figure covers; null for a state.", nullable=True
    )
    source: str = column(
        "int8",
        "",
        "Where it comes from: a page of Prometheus metrics, events of the KV cache, forward passes, or a load "
        "generator's report.",
        choices=FOREIGN_SOURCES,
    )
    address: str = column("string", "", "The address it was read from.")
    engine: str = column("string", "", "The engine, as far as its metrics tell.")
    engine_version: str = column("string", "", "The version it names.", nullable=True)
    worker: int = column("int32", "", "Data-parallel rank, where the message names one.", nullable=True)
    clock: str = column("int8", "", "The clock behind the times in it.", choices=FOREIGN_CLOCKS)
    gap: int = column(
        "int32", "", "Readings or messages known to be lost before this one; of a counter that began anew, 1 more."
    )
    name: str = column("string", "", "What it is; store.foreign lists the names.")
    bound: float = column(
        "float64", "", "Of a histogram: largest value that its bucket counts, inf for the last.", nullable=True
    )
    value: float = column("float64", "", "A state's value, or how much a count grew during the span.")


@dataclass(frozen=True)
class RunRow:
    """The run itself, at its start and at its end."""

    event: str = column("int8", "", "Start or end.", choices=RUN_EVENTS)
    time_ns: int = column("int64", "ns", "Run clock; 0 at the start.")
    unix_ns: int = column("int64", "ns", "Wall clock, since 1970.")
    status: str = column("string", "", "running, finished, failed, cancelled or crashed.")
    spec: str = column("string", "JSON", "The RunSpec, every setting resolved (prompts left out).", nullable=True)
    environment: str = column("string", "JSON", "Versions, device, driver, threads.", nullable=True)
    peaks: str = column("string", "JSON", "Measured FLOP/s and bytes/s of this device.", nullable=True)
    model: str = column("string", "JSON", "Shape, parameters, KV bytes per token.", nullable=True)
    labels: str = column("string", "JSON", "Labels that never leave the run, as a list.", nullable=True)
    error: str = column("string", "JSON", "Kind, message and mend of a failure.", nullable=True)
    summary: str = column("string", "JSON", "Totals the engine counted itself.", nullable=True)


ROW_TYPES: dict[str, type] = {
    "iteration": IterationRow,
    "slice": SliceRow,
    "request": RequestRow,
    "decision": DecisionRow,
    "block": BlockRow,
    "swap": SwapRow,
    "layout": LayoutRow,
    "handover": HandoverRow,
    "tier": TierRow,
    "pin": PinRow,
    "far": FarRow,
    "lending": LendingRow,
    "device": DeviceRow,
    "foreign": ForeignRow,
    "run": RunRow,
}


def columns(row_type: type) -> dict[str, Column]:
    """Column name -> Column, in the order of the dataclass."""
    return {f.name: f.metadata["column"] for f in fields(row_type)}
