"""The settings of the four techniques. Importing this module must stay cheap: no torch, no numpy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import model_validator

from engine.config.settings import LARGEST_COUNT, SHORT_FORMATS, Settings, setting


class ChunkedPrefill(Settings):
    """Stall-free scheduling: prompts are cut into chunks that ride along with the decodes (Sarathi-Serve)."""

    token_budget: int | None = setting(
        None,
        "Token budget",
        "Most tokens one iteration may compute. Decodes take theirs first, prompt chunks get what is left. Smaller is smoother, "
        "larger prefills faster. Empty: 64 on a CPU, 512 on a GPU.",
        group="Chunked prefill",
        unit="tokens",
        ge=1,
        le=LARGEST_COUNT,
    )
    chunk_size: int | None = setting(
        None,
        "Chunk size",
        "Most prompt tokens one request may compute in one iteration. Empty: whatever the budget leaves.",
        group="Chunked prefill",
        unit="tokens",
        ge=1,
        le=LARGEST_COUNT,
    )


class PrefixSharing(Settings):
    """Requests that begin alike compute and hold their common beginning once.

    Three effects, each of which can be switched alone: prefill not done again, memory not held twice, bytes not read twice while
    decoding.
    """

    skip_prefill: bool = setting(
        True,
        "Skip known prefill",
        "A request takes over the keys and values of the longest prefix that the pool still holds, instead of computing them again.",
        group="Prefix sharing",
    )
    share_memory: bool = setting(
        True,
        "Share memory",
        "Requests hold equal blocks together. Off: what is taken over is copied, and what was computed twice is kept twice.",
        group="Prefix sharing",
    )
    copy_partial: bool = setting(
        True,
        "Copy partial blocks",
        "Where two prompts part in the middle of a block, the tokens before that are copied instead of computed.",
        group="Prefix sharing",
        advanced=True,
    )
    wait_in_flight: bool = setting(
        True,
        "Wait for blocks in flight",
        "A request whose next block another one computes in this very iteration waits for it instead of computing it too.",
        group="Prefix sharing",
        advanced=True,
    )
    attention: Literal["off", "one-level", "tree"] = setting(
        "off",
        "Shared-prefix attention",
        "Decoding requests that hold the same blocks read them in one pass and merge it with a pass over their own. one-level: one shared "
        "prefix for each; tree: one pass per level of the tree of prefixes.",
        group="Prefix sharing",
        paper="Hydragen (2024)",
    )
    min_group: int = setting(
        4,
        "Smallest group",
        "Shared-prefix attention takes that many requests at least.",
        group="Prefix sharing",
        unit="requests",
        ge=2,
        le=LARGEST_COUNT,
        advanced=True,
    )
    min_prefix_tokens: int = setting(
        64,
        "Shortest prefix",
        "Shared-prefix attention takes a common stretch this long at least.",
        group="Prefix sharing",
        unit="tokens",
        ge=1,
        le=LARGEST_COUNT,
        advanced=True,
    )
    order: Literal["arrival", "grouped"] = setting(
        "arrival",
        "Order",
        "arrival: first come, first served. grouped: waiting requests that share a prefix run together, those with the larger share of "
        "decoding first; for batches known in advance.",
        group="Prefix sharing",
        paper="BatchLLM (2024)",
    )
    admission: Literal["on-demand", "memory"] = setting(
        "on-demand",
        "Admission",
        "on-demand: a request is let in when its prompt fits and a place is free; others may be preempted later. memory: when all it may "
        "grow to fits beside all that the others may grow to, however many they are.",
        group="Prefix sharing",
        paper="BatchLLM (2024)",
        advanced=True,
    )
    salt_by_group: bool = setting(
        False,
        "Keep groups apart",
        "Requests share within their workload group only: no tenant can learn from the speed of an answer what another one asked.",
        group="Prefix sharing",
        advanced=True,
    )

    @model_validator(mode="after")
    def _attention_needs_common_blocks(self) -> PrefixSharing:
        if self.attention != "off" and not self.share_memory:
            raise ValueError(
                "shared-prefix attention reads blocks that requests hold together, so it needs share_memory"
            )
        return self


class Speculation(Settings):
    """Speculative decoding: guess several tokens, verify them in one pass, keep what the model would have said anyway."""

    proposer: Literal["prompt-lookup", "layer-skip", "draft-model", "trained-head"] = setting(
        "prompt-lookup",
        "Proposer",
        "Who guesses. prompt-lookup: what followed the last few tokens when they occurred earlier in the same request. layer-skip: "
        "the model itself with some of its layers left out. draft-model: a smaller model of the same vocabulary. trained-head: two "
        "layers trained to go on from what the model leaves behind, mixed with what followed the last few tokens before.",
        group="Speculative decoding",
    )
    control: Literal["smart", "fixed"] = setting(
        "smart",
        "Length control",
        "smart: as many tokens as promise the most useful tokens per second, none included, from measured acceptance and this run's own "
        "step times. fixed: always the draft length.",
        group="Speculative decoding",
        paper="SmartSpec (2024)",
    )
    k: int = setting(
        8,
        "Draft length",
        "Tokens guessed per request and iteration; with smart control the most.",
        group="Speculative decoding",
        unit="tokens",
        ge=1,
        le=16,
    )
    ngram_min: int = setting(
        2,
        "Shortest match",
        "prompt-lookup: fewest tokens at the end that must have occurred before.",
        group="Speculative decoding",
        unit="tokens",
        ge=1,
        le=16,
        advanced=True,
    )
    ngram_max: int = setting(
        4,
        "Longest match",
        "prompt-lookup: matches are looked for from this length downwards.",
        group="Speculative decoding",
        unit="tokens",
        ge=1,
        le=16,
        advanced=True,
    )
    target_speedup: float = setting(
        2.0,
        "Target speedup of guessing",
        "layer-skip: layers of the model per layer that guesses; the layers left out are evenly spaced.",
        group="Speculative decoding",
        paper="Unified Layer Skipping (2024)",
        ge=1,
        le=64,
        advanced=True,
    )
    draft_model: str | None = setting(
        None,
        "Draft model",
        "draft-model: who guesses, named as Model is; it must have the same vocabulary.",
        group="Speculative decoding",
        advanced=True,
    )
    head: str | None = setting(
        None,
        "Trained head",
        "trained-head: the weights file that engine.speculation.train wrote for this model. Empty: the one of the embedded model.",
        group="Speculative decoding",
        advanced=True,
    )

    verification: Literal["ragged", "padded", "same-length"] = setting(
        "ragged",
        "Verification",
        "ragged: each request is verified as far as it guessed, from its own pages. For teaching: padded lays the batch out as a "
        "rectangle anew for every step (EqSpec); same-length runs requests of equal length together where there are some (ExSpec).",
        group="Speculative decoding",
        paper="EqSpec and ExSpec (2025)",
        advanced=True,
    )
    pool_group: int = setting(
        2,
        "Same-length group",
        "verification same-length: as many requests of equal length run without the others.",
        group="Speculative decoding",
        unit="requests",
        ge=2,
        le=64,
        advanced=True,
    )
    inject_bug: Literal[
        "none",
        "stale-positions",
        "no-rollback",
        "padding-in-text",
        "visible-padding",
        "finished-goes-on",
        "shared-stream",
        "stale-draft",
    ] = setting(
        "none",
        "Inject a known bug",
        "Make a mistake that batched speculation is known for, to see how output breaks; with Check the books the run ends where it is "
        "noticed. The run is labelled.",
        group="Speculative decoding",
        paper="EqSpec and ExSpec (2025)",
        advanced=True,
    )

    @model_validator(mode="after")
    def _consistent(self) -> Speculation:
        if self.inject_bug == "visible-padding" and self.verification == "ragged":
            raise ValueError("inject_bug visible-padding needs pads: set verification to padded")
        if self.proposer == "draft-model" and self.draft_model is None:
            raise ValueError("proposer is draft-model, and draft_model names no model")
        if self.ngram_min > self.ngram_max:
            raise ValueError(f"ngram_min is {self.ngram_min}, above ngram_max, {self.ngram_max}")
        return self


READ_BY = {
    "wide_keys": ("int4",),
    **dict.fromkeys(("key_bits", "value_bits", "residual", "key_axis", "value_axis"), ("kivi",)),
    **dict.fromkeys(("rotate", "centre"), ("int8", "int4")),
}
"""Settings of ``KVQuantization`` that only some codecs read."""


class KVQuantization(Settings):
    """Keys and values in fewer bits: the same memory holds more tokens, and attention reads fewer bytes."""

    codec: Literal["int8", "int4", "fp8", "kivi"] = setting(
        "int8",
        "Codec",
        "int8: 8-bit whole numbers with a step per token and head. int4: 4 bits a value and 5 a key, with step and minimum per token and head. fp8: 8-bit "
        "floating point with a scale per head. kivi: 2 to 8 bits, keys in groups along the tokens of a channel, values along the channels "
        "of a token, the latest tokens exact.",
        group="KV quantization",
        paper="KIVI (2024), QServe (2024)",
    )
    key_bits: Literal[2, 4, 8] = setting(
        2, "Bits of a key", "kivi: bits per number of a key.", group="KV quantization", unit="bits", paper="KIVI (2024)"
    )
    value_bits: Literal[2, 4, 8] = setting(
        2, "Bits of a value", "kivi: bits per number of a value.", group="KV quantization", unit="bits"
    )
    residual: int = setting(
        128,
        "Exact window",
        "kivi: tokens that are packed together once they are complete. Until then they stay exact, beside the pool, so a longer window "
        "is better text and less room.",
        group="KV quantization",
        unit="tokens",
        paper="KIVI (2024)",
        ge=0,
        le=4096,
    )
    wide_keys: bool = setting(
        True,
        "Wide keys",
        "int4: keys take 5 bits, values 4. The model's text depends on its keys far more than on its values. Off: both take 4.",
        group="KV quantization",
        advanced=True,
    )
    group: int | None = setting(
        None,
        "Group",
        "Numbers that share a step: tokens of one channel, or channels of one token. Empty: the whole head for int8; else the "
        "largest power of two up to 32 (int4: 64) that divides the head size or, along tokens, the block size.",
        group="KV quantization",
        ge=1,
        le=1024,
        advanced=True,
    )
    metadata: Annotated[Literal["float16", "bfloat16", "float32"], SHORT_FORMATS] = setting(
        "float16",
        "Format of steps",
        "Number format of each group's step and minimum.",
        group="KV quantization",
        advanced=True,
    )
    key_axis: Literal["channel", "token"] = setting(
        "channel",
        "Grouping of keys",
        "kivi: channel groups tokens of one channel, which is right for keys: a few of their channels are much larger than the others. "
        "token groups channels of one token, to see what that costs.",
        group="KV quantization",
        paper="KIVI (2024)",
        advanced=True,
    )
    value_axis: Literal["channel", "token"] = setting(
        "token",
        "Grouping of values",
        "kivi: token groups channels of one token, which is right for values. channel groups tokens of one channel.",
        group="KV quantization",
        paper="KIVI (2024)",
        advanced=True,
    )
    rotate: bool = setting(
        True,
        "Rotate channels",
        "int8, int4: mix the channels of a head by a Hadamard matrix before packing, so that none is an outlier. Queries and outputs are "
        "turned along, so nothing else changes.",
        group="KV quantization",
        advanced=True,
    )
    centre: bool = setting(
        True,
        "Centre keys",
        "int8, int4: subtract from every key the mean of its channel, found on text at start. All scores of a query shift alike, which "
        "softmax does not see, and what is left needs a smaller step.",
        group="KV quantization",
        advanced=True,
    )
    smooth: float = setting(
        0.0,
        "Smoothing",
        "SmoothAttention: channels of keys are divided by their largest value to this power, queries multiplied by it; both are folded "
        "into the weights, found on text at start. 0: off, 0.5: as published.",
        group="KV quantization",
        paper="QServe (2024)",
        ge=0,
        le=1,
        advanced=True,
    )
    calibration_tokens: int = setting(
        256,
        "Calibration tokens",
        "fp8, centring and smoothing: tokens of text read at start to find how large keys and values are.",
        group="KV quantization",
        unit="tokens",
        ge=1,
        le=8192,
        advanced=True,
    )
    prefill: Literal["stored", "exact"] = setting(
        "stored",
        "Prefill reads",
        "stored: every token attends to what the cache holds, so how prompts are cut into chunks, shared or computed again never changes "
        "a token. exact: a prompt's chunk attends to its own keys and values as they were before packing.",
        group="KV quantization",
        advanced=True,
    )

    def reads(self, name: str) -> bool:
        return self.codec in READ_BY.get(name, (self.codec,))

    @property
    def calibrates(self) -> bool:
        """Whether text is read at start."""
        return self.codec == "fp8" or self.smooth > 0 or self.centres

    @property
    def centres(self) -> bool:
        return self.centre and self.codec in ("int8", "int4")

    @model_validator(mode="after")
    def _window_holds_whole_groups(self) -> KVQuantization:
        if self.codec != "kivi":
            return self
        if self.group is not None and self.residual % self.group:
            raise ValueError(
                f"the exact window (residual) of {self.residual} tokens is not a multiple of the group of {self.group}: it is packed in whole groups"
            )
        if self.residual == 0 and "channel" in (self.key_axis, self.value_axis):
            raise ValueError(
                "the exact window (residual) is 0, and grouping per channel packs several tokens at once: they have to be kept until a group is complete"
            )
        return self
