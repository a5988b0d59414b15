"""What the pool's memory is used for: tokens, the unused rest of blocks and pages, what is reserved, kept, and free.

[ tokens ######|.. internal ..|  reserved, unused     ]  [ kept, nobody's ]  [ free                 ]
  held by requests                                         cached or mapped
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from engine.block_table import blocks_for
from engine.kv.pool import BlockPool


class Occupancy(NamedTuple):
    """Bytes; they add up to the pool."""

    used: int  # keys and values of computed tokens
    internal: int  # the rest of the last block, or of the last pages, of each request
    reserved: int  # more that requests hold, for tokens that are not computed yet or never will be
    kept: int  # held by nobody: cached blocks, pages still mapped
    free: int


def occupancy(pool: BlockPool, kv_tokens: int, holders: Iterable[int]) -> Occupancy:
    """
    Args:
        kv_tokens: computed tokens that the pool holds; shared ones count once.
        holders: computed tokens of each that holds blocks.
    """
    size, block_bytes = pool.block_size, pool.block_bytes
    used = min(pool.held_bytes, kv_tokens * block_bytes // size)
    rests = sum(pool.bytes_of(blocks_for(tokens, size)) - tokens * block_bytes // size for tokens in holders)
    internal = max(0, min(pool.held_bytes - used, rests))
    reserved = pool.held_bytes - used - internal
    free = pool.num_blocks * block_bytes - pool.held_bytes - pool.kept_bytes
    return Occupancy(used, internal, reserved, pool.kept_bytes, free)
