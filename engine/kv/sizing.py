"""How many blocks a pool of so many bytes gives, and how many sequences may keep exact tails beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PoolSize:
    """A pool's memory, divided."""

    blocks: int
    tails: int | None  # sequences with an exact tail at once; None where the codec keeps nothing exact


def divide(
    pool_bytes: int,
    block_bytes: int,
    tail_bytes: int,
    *,
    most_tails: int,
    request_blocks: Sequence[int],
) -> PoolSize:
    """Divide a pool's bytes into blocks and tails.

    Args:
        tail_bytes: of one sequence's exact tail; 0 where the codec keeps nothing exact.
        most_tails: requests that may run at once.
        request_blocks: what each request of the workload may come to hold. There are as many tails as requests of the mean size fit
            with one each, so neither runs out long before the other; at least one, and the largest request's blocks beside it.
    """
    if not tail_bytes:
        return PoolSize(pool_bytes // block_bytes, None)
    mean = sum(request_blocks) / max(1, len(request_blocks))
    tails = min(most_tails, len(request_blocks), int(pool_bytes / (tail_bytes + mean * block_bytes)))
    largest = max(request_blocks, default=1)
    tails = min(tails, (pool_bytes - largest * block_bytes) // tail_bytes)
    tails = max(1, tails)
    return PoolSize(max(0, pool_bytes - tails * tail_bytes) // block_bytes, tails)
