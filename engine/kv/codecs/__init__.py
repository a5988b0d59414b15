"""Codecs: how keys and values are stored. One class each, behind ``Codec``; ``make_codec`` picks one by the
settings."""

from __future__ import annotations

import math

import torch

from engine.config.errors import EngineError
from engine.config.techniques import KVQuantization
from engine.kv.codecs.base import Codec
from engine.kv.codecs.forms import Float8, Form, PerChannel, PerToken, Symmetric8

__all__ = ["CODECS", "Codec", "Fp8", "Int4", "Int8", "Kivi", "make_codec"]

METADATA = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
USUAL_GROUP = 32
INT4_GROUP = 64


class Fp8(Codec):
    """8-bit floating point (e4m3) with a scale per layer, side and head, found on text at start."""

    def __init__(self, asked: KVQuantization, head_dim: int, block_size: int) -> None:
        super().__init__("fp8", Float8(), Float8())


class Int8(Codec):
    """8-bit whole numbers, symmetric, a step per token, head and group of channels."""

    def __init__(self, asked: KVQuantization, head_dim: int, block_size: int) -> None:
        form = Symmetric8(asked.group or head_dim, METADATA[asked.metadata])
        super().__init__("int8", form, form, rotates=asked.rotate)


class Int4(Codec):
    """4-bit whole numbers, asymmetric: step and minimum per token, head and group of channels. Keys take one bit more.

    Without it and with a group of the whole head: QServe's KV4.
    """

    def __init__(self, asked: KVQuantization, head_dim: int, block_size: int) -> None:
        group, metadata = asked.group or math.gcd(INT4_GROUP, head_dim), METADATA[asked.metadata]
        keys = PerToken(5 if asked.wide_keys else 4, group, metadata)
        super().__init__("int4", keys, PerToken(4, group, metadata), rotates=asked.rotate)


class Kivi(Codec):
    """Few bits: keys per channel over groups of tokens, values per token over groups of channels, the last window exact
    (KIVI).

    Keys and values leave the exact window together, once it is full. (KIVI's own values leave it one by one.)
    """

    def __init__(self, asked: KVQuantization, head_dim: int, block_size: int) -> None:
        super().__init__(
            "kivi",
            _side(asked.key_axis, asked.key_bits, asked, head_dim, block_size),
            _side(asked.value_axis, asked.value_bits, asked, head_dim, block_size),
            window=asked.residual,
        )


CODECS: dict[str, type[Fp8] | type[Int8] | type[Int4] | type[Kivi]] = {
    "fp8": Fp8,
    "int8": Int8,
    "int4": Int4,
    "kivi": Kivi,
}


def make_codec(asked: KVQuantization, head_dim: int, block_size: int) -> Codec:
    """The codec for heads of this size.

    Raises:
        EngineError: the group does not divide the head size or a byte, or the rotation has no matrix for it.
    """
    along_channels = asked.codec in ("int8", "int4") or (
        asked.codec == "kivi" and "token" in (asked.key_axis, asked.value_axis)
    )
    if asked.group is not None and along_channels and head_dim % asked.group:
        raise EngineError(
            "bad-group",
            "kv_quantization.group",
            asked.group,
            f"a group of {asked.group} channels does not divide this model's head size of {head_dim}.",
            f"Set it to a divisor of {head_dim}.",
        )
    if asked.rotate and asked.codec in ("int8", "int4") and head_dim % 2:
        raise EngineError(
            "odd-head",
            "kv_quantization.rotate",
            True,
            f"a Hadamard matrix mixes an even number of channels; this model's head size is {head_dim}.",
            "Set it to off.",
        )
    codec = CODECS[asked.codec](asked, head_dim, block_size)
    for form in (codec.keys, codec.values):
        bits = getattr(form, "width", 8)
        if head_dim * bits % 8:
            raise EngineError(
                "bad-head",
                "kv_quantization.codec",
                asked.codec,
                f"a head of {head_dim} channels of {bits} bits does not fill whole bytes.",
                "Choose int8 or fp8.",
            )
    return codec


def _side(axis: str, bits: int, asked: KVQuantization, head_dim: int, block_size: int) -> Form:
    metadata = METADATA[asked.metadata]
    if axis == "channel":
        return PerChannel(bits, asked.group or math.gcd(USUAL_GROUP, block_size), metadata)
    return PerToken(bits, asked.group or math.gcd(USUAL_GROUP, head_dim), metadata)
