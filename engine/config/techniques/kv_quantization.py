"""Keys and values in fewer bits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import model_validator

from engine.config.settings import SHORT_FORMATS, Settings, setting

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
        "int8: 8-bit whole numbers with a step per token and head. int4: 4 bits a value and 5 a key, with step and "
        "minimum per token and head. fp8: 8-bit floating point with a scale per head. kivi: 2 to 8 bits, keys in "
        "groups along the tokens of a channel, values along the channels of a token, the latest tokens exact.",
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
        "kivi: the latest tokens stay exact, beside the pool, and are packed together when this many are there. "
        "A longer window gives better text and leaves less room.",
        group="KV quantization",
        unit="tokens",
        paper="KIVI (2024)",
        ge=0,
        le=4096,
    )
    wide_keys: bool = setting(
        True,
        "Wide keys",
        "int4: keys take 5 bits, values 4. The model's text depends on its keys far more than on its values. Off: both "
        "take 4.",
        group="KV quantization",
        advanced=True,
    )
    group: int | None = setting(
        None,
        "Group",
        "Numbers that share a step: tokens of one channel, or channels of one token. Empty: the whole head for int8; "
        "else the largest power of two up to 32 (int4: 64) that divides the head size or, along tokens, the block "
        "size.",
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
        "kivi: channel groups tokens of one channel, which is right for keys: a few of their channels are much larger "
        "than the others. token groups channels of one token, to see what that costs.",
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
        "int8, int4: mix the channels of a head by a Hadamard matrix before packing, so that none is an outlier. "
        "Queries and outputs are turned along, so nothing else changes.",
        group="KV quantization",
        advanced=True,
    )
    centre: bool = setting(
        True,
        "Centre keys",
        "int8, int4: subtract from every key the mean of its channel, found on text at start. All scores of a query "
        "shift alike, which softmax does not see, and what is left needs a smaller step.",
        group="KV quantization",
        advanced=True,
    )
    smooth: float = setting(
        0.0,
        "Smoothing",
        "SmoothAttention: channels of keys are divided by their largest value to this power, queries multiplied by it; "
        "both are folded into the weights, found on text at start. 0: off, 0.5: as published.",
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
        "stored: every token attends to what the cache holds, so how prompts are cut into chunks, shared or computed "
        "again never changes a token. exact: a prompt's chunk attends to its own keys and values as they were before "
        "packing.",
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
                f"the exact window (residual) of {self.residual} tokens is not a multiple of the group of "
                f"{self.group}: it is packed in whole groups"
            )
        if self.residual == 0 and "channel" in (self.key_axis, self.value_axis):
            raise ValueError(
                "the exact window (residual) is 0, and grouping per channel packs several tokens at once: they have to "
                "be kept until a group is complete"
            )
        return self
