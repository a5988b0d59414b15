"""Where token p of a sequence lies: the one home of the arithmetic between tokens, blocks and slots.

    block table of a request      [ 3 | 7 | 1 ]        block_size 16
    token p                       in block ``table[p // 16]``, at place ``p % 16`` of it
    its slot in the pool          ``block * 16 + p % 16``

``blocks_for``, ``whole_blocks`` and ``slots_at`` take whole numbers, arrays and tensors alike. Kernels (``engine.gpu``)
do the same sums on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import torch

N = TypeVar("N", "int", "np.ndarray", "torch.Tensor")


def blocks_for(tokens: N, block_size: int) -> N:
    """Blocks that hold this many tokens."""
    return -(-tokens // block_size)


def whole_blocks(tokens: N, block_size: int) -> N:
    """Blocks that this many tokens fill; also the place of token number ``tokens`` in its block table."""
    return tokens // block_size


def table_slots(table: Sequence[int], first: int, last: int, block_size: int) -> list[int]:
    """Slots of the tokens at places ``first`` to ``last`` (not included) of a sequence with this block table."""
    return [table[p // block_size] * block_size + p % block_size for p in range(first, last)]


def slots_at(blocks: N, positions: N, block_size: int) -> N:
    """Slots of tokens at ``positions``, each of which lies in the block named at the same place of ``blocks``."""
    return blocks * block_size + positions % block_size


def block_slots(blocks: torch.Tensor, block_size: int) -> torch.Tensor:
    """Slots of all tokens of these blocks [blocks] -> [blocks * block_size]."""
    import torch

    return (blocks[:, None] * block_size + torch.arange(block_size, device=blocks.device)).flatten()
