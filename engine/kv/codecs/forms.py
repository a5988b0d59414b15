"""How the keys, or the values, of one head are stored: numbers in, codes and metadata out.

A form works on rows of whole heads ``[..., tokens, head_dim]``. Its codes are always ``[..., tokens, code_width]``, so
a token's codes
have a place of their own in a block; metadata belongs to a *group* of numbers that share a step::

    per token       groups of channels of one token          per channel    groups of tokens of one channel
        t0 | c0 c1 c2 c3 | c4 c5 c6 c7 |                          t0 | c0 | c1 | c2 | ...
        t1 | c0 c1 c2 c3 | c4 c5 c6 c7 |                          t1 | :  | :  | :  |

Asymmetric, b bits (papers: KIVI): ``s = (max - min) / (2^b - 1)``, ``q = round((x - min) / s)``, ``x^ = q s + min``.
Codes are chosen with the step and the minimum as they are stored, so an element is off by half a step at most, and by
the rounding of the two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch

from engine.kv.codecs.packing import pack, packed_width, unpack

E4M3_MAX = 448.0


class Form(ABC):
    """One side (keys or values) of a codec."""

    span = 1  # tokens that have to be encoded together
    code_dtype = torch.uint8

    @abstractmethod
    def code_width(self, head_dim: int) -> int:
        """Elements of ``code_dtype`` per token and head; one byte each."""

    @abstractmethod
    def meta_shape(self, tokens: int, head_dim: int) -> tuple[int, ...]:
        """Shape of the metadata of that many tokens (whole spans) of one head; () where there is none per token."""

    @property
    def meta_dtype(self) -> torch.dtype:
        return torch.float16

    @abstractmethod
    def encode(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """x: [..., tokens, head_dim] -> codes [..., tokens, code_width], metadata [..., *meta_shape].

        ``scale``: of a form whose step is fixed for a head, broadcast to x.
        """

    @abstractmethod
    def decode(
        self, codes: torch.Tensor, meta: torch.Tensor | None, dtype: torch.dtype, scale: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What the codes stand for, [..., tokens, head_dim] in ``dtype``."""

    def numbers(self, codes: torch.Tensor) -> torch.Tensor:
        """The whole numbers that were packed, one for each of the head's channels."""
        return codes

    def bits(self, head_dim: int, block_size: int) -> float:
        """Stored bits per number, metadata included."""
        return 8 * self.block_bytes(head_dim, block_size) / (head_dim * block_size)

    def block_bytes(self, head_dim: int, block_size: int) -> int:
        """Bytes of a block of one head."""
        count = 1
        shape = self.meta_shape(block_size, head_dim)
        for size in shape:
            count *= size
        return block_size * self.code_width(head_dim) + (count * self.meta_dtype.itemsize if shape else 0)


@dataclass(frozen=True)
class Symmetric8(Form):
    """8 bits, a step per token and group of channels: ``q = round(127 x / max |x|)``."""

    group: int  # channels
    metadata: torch.dtype = torch.float16
    code_dtype = torch.int8

    def code_width(self, head_dim: int) -> int:
        return head_dim

    def meta_shape(self, tokens: int, head_dim: int) -> tuple[int, ...]:
        return (tokens, head_dim // self.group)

    @property
    def meta_dtype(self) -> torch.dtype:
        return self.metadata

    def encode(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        grouped = x.float().unflatten(-1, (-1, self.group))
        step = (grouped.abs().amax(-1) / 127).to(self.metadata)
        divisor = step.float().masked_fill(step == 0, 1.0)[..., None]
        return (grouped / divisor).round_().clamp_(-127, 127).to(torch.int8).flatten(-2), step

    def decode(
        self, codes: torch.Tensor, meta: torch.Tensor | None, dtype: torch.dtype, scale: torch.Tensor | None = None
    ) -> torch.Tensor:
        assert meta is not None
        if self.group == codes.shape[-1]:
            return codes.to(dtype).mul_(meta.to(dtype))
        return codes.to(dtype).unflatten(-1, (-1, self.group)).mul_(meta.to(dtype)[..., None]).flatten(-2)


@dataclass(frozen=True)
class PerToken(Form):
    """``width`` bits, asymmetric; a step and a minimum per token and group of channels."""

    width: int  # bits
    group: int  # channels
    metadata: torch.dtype = torch.float16

    def code_width(self, head_dim: int) -> int:
        return packed_width(head_dim, self.width)

    def meta_shape(self, tokens: int, head_dim: int) -> tuple[int, ...]:
        return (tokens, head_dim // self.group, 2)

    @property
    def meta_dtype(self) -> torch.dtype:
        return self.metadata

    def encode(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        codes, meta = _asymmetric(x.float().unflatten(-1, (-1, self.group)), -1, self.width, self.metadata)
        return pack(codes.flatten(-2), self.width), meta

    def numbers(self, codes: torch.Tensor) -> torch.Tensor:
        return unpack(codes, self.width)

    def decode(
        self, codes: torch.Tensor, meta: torch.Tensor | None, dtype: torch.dtype, scale: torch.Tensor | None = None
    ) -> torch.Tensor:
        assert meta is not None
        step, least = meta.float().unbind(-1)
        numbers = unpack(codes, self.width)
        if self.group == numbers.shape[-1]:
            return _affine(numbers, step, least, dtype)
        return _affine(numbers.unflatten(-1, (-1, self.group)), step[..., None], least[..., None], dtype).flatten(-2)


@dataclass(frozen=True)
class PerChannel(Form):
    """``width`` bits, asymmetric; a step and a minimum per channel and group of consecutive tokens."""

    width: int  # bits
    group: int  # tokens
    metadata: torch.dtype = torch.float16

    @property
    def span(self) -> int:  # type: ignore[override]
        return self.group

    def code_width(self, head_dim: int) -> int:
        return packed_width(head_dim, self.width)

    def meta_shape(self, tokens: int, head_dim: int) -> tuple[int, ...]:
        return (tokens // self.group, head_dim, 2)

    @property
    def meta_dtype(self) -> torch.dtype:
        return self.metadata

    def encode(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        codes, meta = _asymmetric(x.float().unflatten(-2, (-1, self.group)), -2, self.width, self.metadata)
        return pack(codes.flatten(-3, -2), self.width), meta

    def numbers(self, codes: torch.Tensor) -> torch.Tensor:
        return unpack(codes, self.width)

    def decode(
        self, codes: torch.Tensor, meta: torch.Tensor | None, dtype: torch.dtype, scale: torch.Tensor | None = None
    ) -> torch.Tensor:
        assert meta is not None
        step, least = (part[..., None, :] for part in meta.float().unbind(-1))
        return _affine(unpack(codes, self.width).unflatten(-2, (-1, self.group)), step, least, dtype).flatten(-3, -2)


@dataclass(frozen=True)
class Float8(Form):
    """e4m3: one sign, four exponent and three mantissa bits, after division by a scale that is fixed for the head."""

    def code_width(self, head_dim: int) -> int:
        return head_dim

    def meta_shape(self, tokens: int, head_dim: int) -> tuple[int, ...]:
        return ()

    def encode(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> tuple[torch.Tensor, None]:
        assert scale is not None
        scaled = (x.float() / scale).clamp_(-E4M3_MAX, E4M3_MAX)
        return scaled.to(torch.float8_e4m3fn).view(torch.uint8), None

    def decode(
        self, codes: torch.Tensor, meta: torch.Tensor | None, dtype: torch.dtype, scale: torch.Tensor | None = None
    ) -> torch.Tensor:
        assert scale is not None
        if codes.device.type == "cpu" and dtype in _E4M3_WITHIN:
            return _e4m3(codes, dtype, scale)
        return codes.view(torch.float8_e4m3fn).to(dtype).mul_(scale.to(dtype))


def alike_but_for_bits(keys: Form, values: Form) -> bool:
    """Whether both sides are grouped alike and have metadata of the same shape and format."""
    if isinstance(keys, PerToken) and isinstance(values, PerToken):
        return keys == replace(values, width=keys.width)
    return keys == values


def _asymmetric(x: torch.Tensor, dim: int, bits: int, metadata: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of x's shape, and step and minimum side by side [..., 2] without the grouped dimension."""
    # apart: together they are much slower on a CPU
    least, most = x.amin(dim, keepdim=True), x.amax(dim, keepdim=True)
    top = (1 << bits) - 1
    least = least.to(metadata)
    step = ((most - least.float()).clamp_(min=0) / top).to(metadata)
    divisor = step.float().masked_fill(step == 0, 1.0)
    codes = (x - least.float()).div_(divisor).round_().clamp_(0, top)
    small = codes.to(torch.int8).view(torch.uint8) if bits < 8 else codes.to(torch.uint8)  # the same bytes, sooner
    return small, torch.stack((step, least), -1).squeeze(dim - 1)


def _affine(codes: torch.Tensor, step: torch.Tensor, least: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``codes * step + least`` (float32), rounded once to ``dtype``."""
    return codes.float().mul_(step).add_(least).to(dtype)


# Where the bits of e4m3 lie within wider formats: a whole number as wide, how far its exponent and mantissa are moved
# up, and what the difference of the exponents' biases then makes up for.
_E4M3_WITHIN = {
    torch.float32: (torch.int32, 20, 2.0**120),
    torch.bfloat16: (torch.int16, 4, 2.0**120),
    torch.float16: (torch.int16, 7, 2.0**8),
}


def _e4m3(codes: torch.Tensor, dtype: torch.dtype, scale: torch.Tensor) -> torch.Tensor:
    """What e4m3 ``codes`` (uint8) times ``scale`` are in ``dtype``; no code is a NaN. PyTorch converts them one by one
    on a CPU."""
    whole, up, bias = _E4M3_WITHIN[dtype]
    bits = codes.view(torch.int8).to(whole)  # the sign fills everything above
    sign = -1 << (8 * dtype.itemsize - 1)
    return bits.bitwise_left_shift_(up).bitwise_and_(sign | 0x7F << up).view(dtype).mul_(scale.to(dtype) * bias)
