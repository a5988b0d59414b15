"""Every setting of the engine. A technique is one field that holds ``None`` (off) or the technique's own settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ValidationInfo, field_validator

from engine.config import combinations
from engine.config.models import EMBEDDED_MODEL
from engine.config.sampling import Sampling
from engine.config.settings import LARGEST_COUNT, SHORT_FORMATS, Accepts, OneOf, Settings, setting
from engine.config.techniques import (
    ChunkedPrefill,
    FarPool,
    KVLayout,
    KVQuantization,
    KVTiers,
    Placement,
    Preemption,
    PrefixSharing,
    Speculation,
    TimeToLive,
)

POLICY_NAMES = ["stall-free", "prefill-first", "orca", "chunk-only", "splitfuse", "static", "padded", "padded-sorted"]
PADDED_POLICIES = frozenset({"padded", "padded-sorted"})
"""Of ``engine.scheduling.policies.POLICIES``, which adds to them what is registered later. Kept here too, for the
classes are not imported to read a setting."""
Recording = Literal["full", "iterations", "off"]


class EngineConfig(Settings):
    """Every setting of the engine. See ``docs/architecture.md`` for how a new technique is added."""

    model: str = setting(
        EMBEDDED_MODEL,
        "Model",
        "The embedded SmolLM2-135M-Instruct, a local directory, a hub name, a .gguf file, or random:SHAPE for random "
        "weights of a known shape (speed only).",
        group="Model",
    )
    device: Annotated[str, Accepts("auto, cpu, cuda, or one GPU as cuda:0")] = setting(
        "auto",
        "Device",
        "auto takes the first GPU if there is one, else the CPU; cuda:1 picks one.",
        group="Model",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
    )
    dtype: Annotated[Literal["auto", "float32", "bfloat16", "float16"], SHORT_FORMATS] = setting(
        "auto",
        "Number format",
        "auto: bfloat16 on GPUs and on CPUs that multiply it in hardware, else float32.",
        group="Model",
    )
    threads: int | None = setting(
        None,
        "CPU threads",
        "Threads for CPU arithmetic. Empty: all cores but one, which is left for the page and the recording.",
        group="Model",
        ge=1,
        le=1024,
        advanced=True,
    )
    attention_backend: Literal["auto", "reference", "gathered", "native", "triton"] = setting(
        "auto",
        "Attention backend",
        "reference: plain PyTorch, one sequence at a time. gathered: all decodes in one pass. native: kernels compiled "
        "for this processor that read the cache where it lies. triton: the same for GPUs. auto: triton on a GPU, "
        "native on a CPU, gathered where they cannot run or do not serve the settings.",
        group="Model",
        advanced=True,
    )
    cuda_graphs: bool = setting(
        True,
        "CUDA graphs",
        "Decode steps are recorded once per batch size and replayed without Python in between. On a GPU with the "
        "custom kernels; no effect elsewhere.",
        group="Model",
        advanced=True,
    )
    graphs_of_longer_steps: bool = setting(
        True,
        "CUDA graphs of longer steps",
        "With CUDA graphs: steps with chunks of prompts or with guesses are recorded too, in padded sizes, as long as "
        "launching them takes longer than computing them. Off: decode steps alone.",
        group="Model",
        advanced=True,
    )
    overlap: Literal["auto", "on", "off"] = setting(
        "auto",
        "Overlapped loop",
        "on: the next step is planned and prepared while the device runs the last one, whose tokens are read a step "
        "late; the tokens are the same. auto: on a GPU. With speculation "
        "steps are planned ahead while nothing is guessed: a guess needs the tokens of the step before.",
        group="Model",
        advanced=True,
    )

    chunked_prefill: ChunkedPrefill | None = setting(
        ChunkedPrefill(),
        "Chunked prefill",
        "On: long prompts are cut into chunks that share iterations with decodes, so nobody's next token waits for a "
        "whole prompt (policy stall-free). Off: new prompts run first and whole, decodes wait (policy prefill-first).",
        group="Techniques",
        paper="Sarathi-Serve (2024), SARATHI (2023)",
        technique=True,
        leading=True,
    )
    prefix_sharing: PrefixSharing | None = setting(
        None,
        "Prefix sharing",
        "On: requests that begin alike (one system message, one document, an earlier turn) compute and hold their "
        "common beginning once. Off: everybody computes and holds everything.",
        group="Techniques",
        paper="Hydragen (2024), BatchLLM (2024)",
        technique=True,
        leading=True,
    )
    speculation: Speculation | None = setting(
        None,
        "Speculative decoding",
        "On: several tokens are guessed for each request and verified in one pass of the model; right guesses come for "
        "the price of one token, wrong ones are discarded. The output stays what it would have been.",
        group="Techniques",
        paper="SmartSpec (2024), EqSpec and ExSpec (2025)",
        technique=True,
        leading=True,
    )
    kv_quantization: KVQuantization | None = setting(
        None,
        "KV quantization",
        "On: keys and values are stored in fewer bits, so the same memory holds more requests and attention reads "
        "fewer bytes. The text may change; how much is measured. Off: full precision.",
        group="Techniques",
        paper="KIVI (2024), QServe (2024)",
        technique=True,
        leading=True,
    )
    preemption: Preemption | None = setting(
        None,
        "KV swapping",
        "On: the keys and values of requests that are preempted, as the KV pool is full, are swapped to host memory, "
        "and priorities may change while requests are served. Off: requests are preempted too, and computed again.",
        group="Techniques",
        paper="FastSwitch (2024)",
        technique=True,
    )
    kv_layout: KVLayout | None = setting(
        None,
        "Contiguous KV",
        "On: the keys and values of each request lie in one piece of memory, mapped page by page as it grows or "
        "reserved in full length, and attention needs no block table. Off: in blocks anywhere in the pool (paged).",
        group="Techniques",
        paper="vAttention (2024)",
        technique=True,
    )
    placement: Placement | None = setting(
        None,
        "Disaggregation",
        "On: prompts are computed in one engine process and their continuations in another, so neither waits for the "
        "other's steps; the KV pool and the CPU threads are divided between them. Off: one engine computes both.",
        group="Techniques",
        paper="DistServe (2024)",
        technique=True,
    )
    kv_tiers: KVTiers | None = setting(
        None,
        "KV tiers",
        "On: prefix blocks that the full KV pool evicts are kept in host memory, then on disk, and loaded back for the "
        "next request that begins with them; needs prefix sharing. Off: they are lost and computed again.",
        group="Techniques",
        paper="CacheGen (2023)",
        technique=True,
    )
    time_to_live: TimeToLive | None = setting(
        None,
        "Time to live",
        "On: the KV blocks of an agent's turn that ends in a tool call stay pinned for a time that follows the tool "
        "durations seen so far, and older programs go first; needs prefix sharing. Off: they are kept as long as "
        "nobody needs the room; the least recently used go first.",
        group="Techniques",
        paper="Continuum (2025)",
        technique=True,
    )
    far_pool: FarPool | None = setting(
        None,
        "Far KV pool",
        "On: where the KV pool is full, the oldest blocks of the longest request move to a second pool, which computes "
        "attention over them and returns partial results; requests longer than the KV pool are served. Off: requests "
        "wait or are preempted, and those that can never fit are refused.",
        group="Techniques",
        paper="Infinite-LLM (2024)",
        technique=True,
    )
    policy: Annotated[str, OneOf(POLICY_NAMES)] | None = setting(
        None,
        "Policy",
        "The scheduling rule. Empty: stall-free with chunked prefill, prefill-first without. Others: orca (whole "
        "prompts join the decodes), chunk-only (chunks and decodes take turns), splitfuse (every pass filled to the "
        "budget), static (finish a batch before the next), padded (the same in a rectangle whose padding is computed), "
        "padded-sorted (batches of prompts of like length).",
        group="Scheduling",
        paper="Orca (2022), Sarathi-Serve (2024), DeepSpeed-FastGen (2024)",
        advanced=True,
    )
    max_num_seqs: int = setting(
        16,
        "Requests at once",
        "Maximum number of requests in the engine at once; others wait.",
        group="Scheduling",
        unit="requests",
        ge=1,
        le=4096,
    )
    max_num_batched_tokens: int = setting(
        2048,
        "Prefill batch limit",
        "For policies that run whole prompts: once an iteration has this many tokens, no further prompt starts in it.",
        group="Scheduling",
        unit="tokens",
        ge=1,
        le=LARGEST_COUNT,
        advanced=True,
    )
    max_model_len: int | None = setting(
        None,
        "Longest sequence",
        "Maximum tokens of prompt and output together. Empty: the model's own limit.",
        group="Memory",
        unit="tokens",
        ge=2,
        le=LARGEST_COUNT,
        advanced=True,
    )
    block_size: int = setting(
        16, "Block size", "Tokens per KV block.", group="Memory", unit="tokens", ge=1, le=1024, advanced=True
    )
    kv_blocks: int | None = setting(
        None,
        "KV blocks",
        "Size of the KV pool, in blocks at full precision; with KV quantization as many blocks as fit into the same "
        "bytes. Empty: by the memory share below.",
        group="Memory",
        unit="blocks",
        ge=1,
        le=LARGEST_COUNT,
    )
    kv_memory_fraction: float = setting(
        0.1,
        "KV memory share",
        "Share of the device's free memory the KV pool takes when no number of blocks is given.",
        group="Memory",
        gt=0,
        le=0.95,
        advanced=True,
    )
    sampling: Sampling = setting(
        Sampling(), "Sampling", "Defaults for requests that bring no settings of their own.", group="Sampling"
    )
    seed: int = setting(0, "Seed", "Start of every random stream of the run.", group="Sampling", ge=0, le=2**63 - 1)
    recording: Recording = setting(
        "full",
        "Recording",
        "full: every row. iterations: no slice, block and decision rows. off: requests and the run only.",
        group="Recording",
        advanced=True,
    )
    keep_text: bool = setting(
        True, "Keep the text", "Store each request's output with the run.", group="Recording", advanced=True
    )
    keep_logprobs: bool = setting(
        False,
        "Keep log-probabilities",
        "Store how likely the model found each output token, with the run: the logits before temperature and filters. "
        "Costs a log-softmax over the vocabulary for each token, and waits for the device at every step.",
        group="Recording",
        advanced=True,
    )
    device_sample_ms: int = setting(
        100,
        "Device sampling",
        "How often the device's counters are read.",
        group="Recording",
        unit="ms",
        ge=10,
        le=60_000,
        advanced=True,
    )
    check_integrity: bool = setting(
        False,
        "Check the books",
        "Verify the KV pool's accounts after every step (slow; for tests).",
        group="Recording",
        advanced=True,
    )

    @field_validator(*combinations.RULES)
    @classmethod
    def _can_be_combined(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        reason = combinations.refusal(info.field_name, value, info.data)
        if reason is not None:
            raise ValueError(reason)
        return value

    @property
    def is_apart(self) -> bool:
        """Whether prefill and decode run in processes of their own."""
        return self.placement is not None and self.placement.is_apart

    @property
    def shares_attention(self) -> bool:
        """Whether requests that share a prefix attend to it together."""
        return self.prefix_sharing is not None and self.prefix_sharing.attention != "off"

    @property
    def pads(self) -> bool:
        """Whether batches are padded, for teaching: by the policy, or by the verification of guesses."""
        return self.policy in PADDED_POLICIES or self.pads_guesses

    @property
    def pads_guesses(self) -> bool:
        """Whether verification is one of the padded teaching variants."""
        return self.speculation is not None and self.speculation.verification != "ragged"

    @property
    def resolved_policy(self) -> str:
        if self.policy is not None:
            return self.policy
        return "stall-free" if self.chunked_prefill is not None else "prefill-first"
