"""Everything one run is told: the engine's settings and the requests it will serve.

``EngineConfig`` is a tree of pydantic models. A technique is one field that holds ``None`` (off) or the technique's own settings
(``engine.config.techniques``); the page builds its controls from the fields' metadata, the snapshot stores them, the command line parses them. Importing this
module must stay cheap: no torch, no numpy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from engine.config.earlier import SPEC_VERSION, spec_of_today
from engine.config.overrides import ConfigError, apply_overrides, check_settings
from engine.config.rates import Sizing
from engine.config.schema import suggest
from engine.config.settings import LARGEST_COUNT, LATEST_NS, SHORT_FORMATS, Accepts, Settings, setting, worth_saying
from engine.config.techniques import ChunkedPrefill, KVQuantization, PrefixSharing, Speculation
from telemetry.limits import MOST_PROMPT_CHARACTERS, MOST_PROMPT_TOKENS, MOST_REQUESTS

__all__ = [
    "EMBEDDED_MODEL",
    "LARGEST_COUNT",
    "LATEST_NS",
    "RANDOM_SHAPES",
    "ChunkedPrefill",
    "ConfigError",
    "EngineConfig",
    "KVQuantization",
    "PolicyName",
    "PrefixSharing",
    "Recording",
    "RequestSpec",
    "RunSpec",
    "Sampling",
    "Settings",
    "Speculation",
    "apply_overrides",
    "check_settings",
    "setting",
    "suggest",
    "worth_saying",
]

EMBEDDED_MODEL = "smollm2-135m-instruct"
RANDOM_SHAPES = ("tiny", "smollm2-135m", "qwen3-0.6b", "llama-3.1-8b")

PolicyName = Literal["stall-free", "prefill-first", "orca", "chunk-only", "splitfuse", "static"]
Recording = Literal["full", "iterations", "off"]


class Sampling(Settings):
    """How a token is drawn from the model's distribution, and when a request ends."""

    temperature: float = setting(
        0.0, "Temperature", "0 always takes the most likely token (greedy).", group="Sampling", ge=0, le=10
    )
    top_k: int = setting(
        0,
        "Top-k",
        "Keep only the k most likely tokens. 0: all.",
        group="Sampling",
        ge=0,
        le=LARGEST_COUNT,
        advanced=True,
    )
    top_p: float = setting(
        1.0,
        "Top-p",
        "Keep the most likely tokens that together reach this probability.",
        group="Sampling",
        gt=0,
        le=1,
        advanced=True,
    )
    min_p: float = setting(
        0.0,
        "Min-p",
        "Drop tokens less likely than this share of the most likely one.",
        group="Sampling",
        ge=0,
        le=1,
        advanced=True,
    )
    repetition_penalty: float = setting(
        1.0,
        "Repetition penalty",
        "Above 1 makes tokens already seen less likely. 1: none.",
        group="Sampling",
        ge=0.01,
        le=10,
        advanced=True,
    )
    ignore_eos: bool = setting(
        False,
        "Ignore end of sequence",
        "Go on to the token limit whatever the model says; for benchmarks.",
        group="Sampling",
        advanced=True,
    )
    stop: tuple[str, ...] = setting(
        (), "Stop strings", "End the request when its text contains one of these.", group="Sampling", advanced=True
    )

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken. So it is at temperatures that leave no second one any weight: logits in
        float32 lie further apart than that, and dividing them would only overflow."""
        return self.temperature < 1e-8

    @field_validator("stop")
    @classmethod
    def _every_text_contains_nothing(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if "" in stop:
            raise ValueError("a stop string needs at least one character: every text contains the empty one")
        return stop


class EngineConfig(Settings):
    """Every setting of the engine. See ``docs/architecture.md`` for how a new technique is added."""

    model: str = setting(
        EMBEDDED_MODEL,
        "Model",
        "The embedded SmolLM2-135M-Instruct, a local directory, a hub name, a .gguf file, or random:SHAPE for random weights of a known "
        "shape (speed only).",
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
    attention_backend: Literal["auto", "reference", "gathered", "triton"] = setting(
        "auto",
        "Attention backend",
        "reference: plain PyTorch, one sequence at a time. gathered: all decodes in one pass. triton: custom kernels that read the "
        "cache where it lies, for GPUs. auto: triton on a GPU that can run it, else gathered.",
        group="Model",
        advanced=True,
    )
    cuda_graphs: bool = setting(
        True,
        "CUDA graphs",
        "Decode steps are recorded once per batch size and replayed without Python in between. On a GPU with the custom kernels; no "
        "effect elsewhere.",
        group="Model",
        advanced=True,
    )
    overlap: Literal["auto", "on", "off"] = setting(
        "auto",
        "Overlapped loop",
        "on: the next step is planned and prepared while the device runs the last one, whose tokens are read a step late; the tokens "
        "are the same. auto: on a GPU. Speculation needs each step's tokens before the next and runs without.",
        group="Model",
        advanced=True,
    )

    chunked_prefill: ChunkedPrefill | None = setting(
        ChunkedPrefill(),
        "Chunked prefill",
        "On: long prompts are cut into chunks that share iterations with decodes, so nobody's next token waits for a whole prompt "
        "(policy stall-free). Off: new prompts run first and whole, decodes wait (policy prefill-first).",
        group="Techniques",
        paper="Sarathi-Serve (2024), SARATHI (2023)",
        technique=True,
    )
    prefix_sharing: PrefixSharing | None = setting(
        None,
        "Prefix sharing",
        "On: requests that begin alike (one system message, one document, an earlier turn) compute and hold their common beginning "
        "once. Off: everybody computes and holds everything.",
        group="Techniques",
        paper="Hydragen (2024), BatchLLM (2024)",
        technique=True,
    )
    speculation: Speculation | None = setting(
        None,
        "Speculative decoding",
        "On: several tokens are guessed for each request and verified in one pass of the model; right guesses come for the price of "
        "one token, wrong ones are discarded. The output stays what it would have been.",
        group="Techniques",
        paper="SmartSpec (2024), EqSpec and ExSpec (2025)",
        technique=True,
    )
    kv_quantization: KVQuantization | None = setting(
        None,
        "KV quantization",
        "On: keys and values are stored in fewer bits, so the same memory holds more requests and attention reads fewer bytes. The text "
        "may change; how much is measured. Off: full precision.",
        group="Techniques",
        paper="KIVI (2024), QServe (2024)",
        technique=True,
    )
    policy: PolicyName | None = setting(
        None,
        "Policy",
        "The scheduling rule. Empty: stall-free with chunked prefill, prefill-first without. Others: orca (whole prompts join the "
        "decodes), chunk-only (chunks and decodes take turns), splitfuse (every pass filled to the budget), static (finish a "
        "batch before the next).",
        group="Scheduling",
        paper="Orca (2022), Sarathi-Serve (2024), DeepSpeed-FastGen (2024)",
        advanced=True,
    )
    max_num_seqs: int = setting(
        16,
        "Requests at once",
        "Most requests that may hold a place in the engine.",
        group="Scheduling",
        unit="requests",
        ge=1,
        le=4096,
    )
    max_num_batched_tokens: int = setting(
        2048,
        "Prefill batch limit",
        "Policies that run whole prompts start no further prompt in an iteration once this many tokens are in it.",
        group="Scheduling",
        unit="tokens",
        ge=1,
        le=LARGEST_COUNT,
        advanced=True,
    )
    max_model_len: int | None = setting(
        None,
        "Longest sequence",
        "Most tokens of prompt and output together. Empty: the model's own limit.",
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
        "Size of the KV pool, in blocks at full precision; with KV quantization as many blocks as fit into the same bytes. Empty: by "
        "the memory share below.",
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

    @field_validator("prefix_sharing")
    @classmethod
    def _attention_has_a_backend(cls, sharing: PrefixSharing | None, info: ValidationInfo) -> PrefixSharing | None:
        backend = info.data.get("attention_backend")
        if sharing is not None and sharing.attention != "off" and backend not in (None, "auto", "gathered", "triton"):
            raise ValueError(f"shared-prefix attention needs attention_backend gathered or triton, not {backend}")
        return sharing

    @field_validator("block_size")
    @classmethod
    def _blocks_can_be_shared(cls, size: int, info: ValidationInfo) -> int:
        sharing = info.data.get("prefix_sharing")
        if sharing is None:
            return size
        if size & (size - 1):
            raise ValueError(f"prefix_sharing needs a block_size that is a power of two, not {size}")
        if sharing.attention != "off" and sharing.min_prefix_tokens < size:
            raise ValueError(
                f"prefix_sharing.min_prefix_tokens ({sharing.min_prefix_tokens}) is less than one block of {size} tokens: only whole "
                "blocks are shared"
            )
        return size

    @field_validator("kv_quantization")
    @classmethod
    def _verification_reads_packed(cls, asked: KVQuantization | None, info: ValidationInfo) -> KVQuantization | None:
        speculation = info.data.get("speculation")
        if asked is not None and speculation is not None and speculation.verification != "ragged":
            raise ValueError(
                f"speculation.verification {speculation.verification} does not read a packed cache: set it to ragged"
            )
        return asked

    @field_validator("block_size")
    @classmethod
    def _blocks_can_be_packed(cls, size: int, info: ValidationInfo) -> int:
        asked = info.data.get("kv_quantization")
        if asked is None or asked.codec != "kivi":
            return size
        per_channel = "channel" in (asked.key_axis, asked.value_axis)
        if per_channel and asked.group is not None and size % asked.group:
            raise ValueError(
                f"the group of {asked.group} tokens (kv_quantization.group) does not divide block_size ({size})"
            )
        if asked.residual % size:
            raise ValueError(
                f"the exact window of {asked.residual} tokens (kv_quantization.residual) is not a multiple of block_size ({size}): whole blocks are packed"
            )
        sharing = info.data.get("prefix_sharing")
        if sharing is not None and sharing.attention != "off":
            raise ValueError(
                "prefix_sharing.attention does not read an exact window: set it to off, or choose another codec"
            )
        return size

    @property
    def shares_attention(self) -> bool:
        """Whether requests that share a prefix attend to it together."""
        return self.prefix_sharing is not None and self.prefix_sharing.attention != "off"

    @property
    def pads(self) -> bool:
        """Whether verification is one of the padded teaching variants."""
        return self.speculation is not None and self.speculation.verification != "ragged"

    @property
    def resolved_policy(self) -> str:
        if self.policy is not None:
            return self.policy
        return "stall-free" if self.chunked_prefill is not None else "prefill-first"


class RequestSpec(Settings):
    """One request: when it comes, what it asks, how it may end.

    The prompt is either token ids or text. ``prompt_tokens`` cuts the tokenised text to exactly that many tokens (the text is
    repeated first where it is too short), so lengths are the same whatever the prompt says.
    """

    request_id: str = Field(min_length=1, max_length=200)
    arrival_ns: int = Field(
        0, ge=0, le=LATEST_NS, description="After the run's start; with `after`, after that request's end."
    )
    after: str | None = Field(None, description="Arrive only once this request has ended (closed loop, conversations).")
    prompt: str | None = None
    prompt_token_ids: tuple[int, ...] | None = None
    prompt_tokens: int | None = Field(None, ge=1, le=LARGEST_COUNT)
    chat: bool = Field(False, description="Wrap the prompt in the model's chat template as one user message.")
    system: str | None = Field(None, description="System message, with `chat`.")
    max_tokens: int = Field(64, ge=1, le=LARGEST_COUNT)
    sampling: Sampling | None = None
    seed: int | None = Field(None, ge=0, le=2**63 - 1)
    priority: int = Field(0, ge=-LARGEST_COUNT, le=LARGEST_COUNT)
    group: str | None = None
    cancel_after_ns: int | None = Field(
        None, ge=0, le=LATEST_NS, description="The user gives up this long after arrival."
    )

    @model_validator(mode="after")
    def _one_prompt(self) -> RequestSpec:
        if (self.prompt is None) == (self.prompt_token_ids is None):
            raise ValueError(f"request {self.request_id!r}: give either prompt or prompt_token_ids")
        if self.prompt_token_ids is not None and not self.prompt_token_ids:
            raise ValueError(
                f"request {self.request_id!r}: prompt_token_ids is empty; a prompt needs at least one token"
            )
        if self.prompt is not None and not self.prompt:
            raise ValueError(f"request {self.request_id!r}: prompt is empty; a prompt needs at least one token")
        return self


class RunSpec(Settings):
    """A run with nothing left to choose: written to ``RUN_DIR/spec.json`` and read by ``engine.worker``."""

    spec_version: Literal[2] = SPEC_VERSION
    run_id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")
    scenario: str = Field(max_length=4096)
    title: str = Field("", max_length=4096)
    engine: EngineConfig = EngineConfig()
    requests: tuple[RequestSpec, ...] = Field(min_length=1, max_length=MOST_REQUESTS)
    labels: tuple[str, ...] = Field((), max_length=100)
    licences: dict[str, str] = Field(default_factory=dict, description="Of recorded traces the requests come from.")
    time_limit_s: float | None = Field(None, gt=0, le=LATEST_NS / 1e9)
    sizing: Sizing | None = Field(None, description="How the requests were made to fit the machine. None: not at all.")
    experiment_id: str | None = None
    created_unix_ns: int = Field(0, ge=0, le=2**63 - 1)
    asked_unix_ns: int = Field(
        0,
        ge=0,
        le=2**63 - 1,
        description="When the requests were made, the same in every run of them: the date for chat templates that ask. 0: as created.",
    )

    @model_validator(mode="before")
    @classmethod
    def _as_stored(cls, data: Any) -> Any:
        return spec_of_today(data) if isinstance(data, Mapping) else data

    @field_validator("requests")
    @classmethod
    def _bounded(cls, requests: tuple[RequestSpec, ...]) -> tuple[RequestSpec, ...]:
        tokens = sum(len(r.prompt_token_ids or ()) or r.prompt_tokens or 1 for r in requests)
        characters = sum(len(r.prompt or "") + len(r.system or "") for r in requests)
        if tokens > MOST_PROMPT_TOKENS:
            raise ValueError(f"the prompts have {tokens:,} tokens together; a run takes {MOST_PROMPT_TOKENS:,} at most")
        if characters > MOST_PROMPT_CHARACTERS:
            raise ValueError(
                f"the prompts have {characters:,} characters together; a run takes {MOST_PROMPT_CHARACTERS:,} at most"
            )
        return requests

    @property
    def asked_at(self) -> datetime:
        """The moment that chat templates take for now."""
        known = self.asked_unix_ns or self.created_unix_ns
        return datetime.fromtimestamp(known / 1e9) if known else datetime.now()

    @property
    def workload_hash(self) -> str:
        """SHA-256 over everything that is asked of the engine, and nothing of how it is served."""
        payload = [r.model_dump(mode="json") for r in self.requests]
        default = self.engine.sampling.model_dump(mode="json")
        text = json.dumps([default, self.engine.seed, payload], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
