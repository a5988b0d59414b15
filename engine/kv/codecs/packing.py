"""Small whole numbers side by side in bytes.

A byte holds 8 / bits codes. Code ``c`` of a row lies in byte ``c % width``, where ``width`` is the row's number of bytes; so a row comes
apart into whole planes, with no interleaving (4 bits, 8 codes)::

    byte         0       1       2       3
    low nibble   code 0  code 1  code 2  code 3
    high nibble  code 4  code 5  code 6  code 7
"""

from __future__ import annotations

import torch

BITS = (1, 2, 4, 8)


def packed_width(count: int, bits: int) -> int:
    """Bytes of a row of ``count`` codes."""
    return count * bits // 8


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """codes: [..., count] integers below 2**bits, count a multiple of 8 / bits -> [..., count * bits / 8] uint8."""
    codes = codes.to(torch.uint8)
    planes = codes.chunk(8 // bits, -1)
    packed = planes[0]
    for number, plane in enumerate(planes[1:], 1):
        packed = packed | (plane << (number * bits))
    return packed


def unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """What ``pack`` was given, [..., count] uint8."""
    if bits == 8:
        return packed
    planes = [packed & ((1 << bits) - 1)]
    for number in range(1, 8 // bits):
        shifted = packed >> (number * bits)
        planes.append(shifted if (number + 1) * bits == 8 else shifted & ((1 << bits) - 1))
    return torch.cat(planes, -1)
