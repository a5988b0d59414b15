"""Small whole numbers side by side in bytes.

A byte holds 8 / bits codes. Code ``c`` of a row lies in byte ``c % width``, where ``width`` is the row's number of
bytes; so a row comes
apart into whole planes, with no interleaving (4 bits, 8 codes)::

    byte         0       1       2       3
    low nibble   code 0  code 1  code 2  code 3
    high nibble  code 4  code 5  code 6  code 7

5 bits are a row of nibbles as above, and behind it the fifth bits: code ``c``'s is bit ``c % 8`` of byte ``c // 8``. A
byte of them is looked up, eight codes at once.
"""

from __future__ import annotations

from functools import cache

import torch

BITS = (1, 2, 4, 5, 8)
# times eight bytes of 0 or 1: their bits side by side in the highest byte, the first one lowest
_GATHER = 0x0102040810204080


def packed_width(count: int, bits: int) -> int:
    """Bytes of a row of ``count`` codes."""
    return count * bits // 8


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """codes: [..., count] integers below 2**bits, count * bits a multiple of 8 -> [..., count * bits / 8] uint8."""
    codes = codes.to(torch.uint8)
    if bits == 5:
        ones = (codes >> 4).contiguous().view(torch.int64)  # eight bytes, each 0 or 1
        fifths = (ones * _GATHER >> 56).to(torch.uint8)
        return torch.cat((pack(codes & 15, 4), fifths), -1)
    planes = codes.chunk(8 // bits, -1)
    packed = planes[0]
    for number, plane in enumerate(planes[1:], 1):
        packed = packed | (plane << (number * bits))
    return packed


def unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """What ``pack`` was given, [..., count] uint8."""
    if bits == 8:
        return packed
    if bits == 5:
        nibbles = packed.shape[-1] * 4 // 5
        codes = unpack(packed[..., :nibbles].contiguous(), 4)
        fifths = _sixteens(packed.device).index_select(0, packed[..., nibbles:].flatten().int())
        return codes.bitwise_or_(fifths.view(torch.uint8).view(codes.shape))
    planes = [packed & ((1 << bits) - 1)]
    for number in range(1, 8 // bits):
        shifted = packed >> (number * bits)
        planes.append(shifted if (number + 1) * bits == 8 else shifted & ((1 << bits) - 1))
    return torch.cat(planes, -1)


@cache
def _sixteens(device: torch.device) -> torch.Tensor:
    """[256] int64: the eight bytes of a number are 16 where a bit of its place is set, else 0."""
    bits = torch.arange(256)[:, None] >> torch.arange(8) & 1
    return (bits << 4).to(torch.uint8).view(torch.int64).flatten().to(device)
