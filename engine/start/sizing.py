"""How many blocks a pool of so many bytes gives, and how many sequences may keep exact tails beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from engine.config import EngineConfig
from engine.config.errors import EngineError
from engine.kv.cache import bytes_per_block
from engine.kv.codecs import Codec
from engine.kv.quantized import tail_bytes
from engine.model.load import LoadedModel
from engine.model.memory import check_pool_fits, free_bytes, used_by_others
from engine.request import Request

HEADROOM_BLOCKS = 16
USUAL_TOKENS = 2048  # of a client's request, prompt and output, as long as nobody has asked

Taken = Literal["memory", "kv_blocks", "workload", "at_once"]
"""Why a pool is as large as it is: its share of the memory, as many blocks as were asked for, no more than all requests
can fill, no more than those that may run at once can fill."""


@dataclass(frozen=True)
class Room:
    """A pool's memory, divided."""

    blocks: int
    tails: int | None  # sequences with an exact tail at once; None where the codec keeps nothing exact


@dataclass(frozen=True)
class PoolSize:
    """What a pool takes, and what it could have had."""

    taken: Room
    why: Taken
    most: Room  # in the pool's share of the memory, whatever the workload; never less than what is taken


def divide(
    pool_bytes: int,
    block_bytes: int,
    tail_bytes: int,
    *,
    most_tails: int,
    request_blocks: Sequence[int],
) -> Room:
    """Divide a pool's bytes into blocks and tails.

    Args:
        tail_bytes: of one sequence's exact tail; 0 where the codec keeps nothing exact.
        most_tails: requests that may run at once.
        request_blocks: what each request of the workload may come to hold. There are as many tails as requests of the
            mean size fit with one each, so neither runs out long before the other; at least one, and the largest
            request's blocks beside it.
    """
    if not tail_bytes:
        return Room(pool_bytes // block_bytes, None)
    mean = sum(request_blocks) / max(1, len(request_blocks))
    tails = min(most_tails, int(pool_bytes / (tail_bytes + mean * block_bytes)))
    largest = max(request_blocks, default=1)
    tails = min(tails, (pool_bytes - largest * block_bytes) // tail_bytes)
    tails = max(1, tails)
    return Room(max(0, pool_bytes - tails * tail_bytes) // block_bytes, tails)


def pool_size(
    config: EngineConfig,
    models: Sequence[LoadedModel],
    codec: Codec | None,
    device: torch.device,
    requests: Sequence[Request] | None,
    max_model_len: int,
    blocks_of: Callable[[int], int],
) -> PoolSize:
    """What the pool's bytes hold: those of so many full-precision blocks if a number is given, else the memory share.
    ``blocks_of``: blocks that a request of so many tokens may come to take.

    Never more than the whole workload could fill: what is taken is mapped and written before the first step. Where it
    is not known (``requests`` is None), never more than usual requests in every place, and the longest one, could.
    """
    target, *others = models
    size = config.block_size
    beside = sum(block_bytes(m, size, None) for m in others)  # a draft model's part of each block
    full, packed = block_bytes(target, size, None) + beside, block_bytes(target, size, codec) + beside
    shape, tail = target.shape, 0
    if codec is not None and codec.window:
        spare = spare_tokens(config)
        tail = tail_bytes(codec, spare, shape.layers, shape.kv_heads, shape.head_dim, target.dtype)
    free = free_bytes(device)
    if config.kv_blocks is not None:
        check_pool_fits(config.kv_blocks, full, device)
    share_bytes = int(free * config.kv_memory_fraction)
    pool_bytes = share_bytes if config.kv_blocks is None else config.kv_blocks * full
    seats, longest = config.max_num_seqs, blocks_of(max_model_len)
    if requests is None:
        asked = [blocks_of(min(max_model_len, USUAL_TOKENS))] * seats
    else:
        asked = [blocks_of(r.most_computed_tokens) for r in requests]
    divided = divide(pool_bytes, packed, tail, most_tails=min(seats, len(asked)), request_blocks=asked)
    if divided.blocks < 1:
        raise EngineError(
            "out-of-memory",
            "kv_memory_fraction" if config.kv_blocks is None else "kv_blocks",
            config.kv_memory_fraction if config.kv_blocks is None else config.kv_blocks,
            f"{pool_bytes / 2**20:.1f} MiB for the KV pool, of {free / 2**30:.2f} GiB free memory, do not hold one "
            f"block of {packed / 2**20:.2f} MiB"
            + (f" beside an exact window of {tail / 2**20:.2f} MiB" if tail else "")
            + f".{used_by_others(device)}",
            "Give the KV pool a larger share or free memory." if config.kv_blocks is None else "Set it higher.",
        )
    most = divide(max(pool_bytes, share_bytes), packed, tail, most_tails=seats, request_blocks=asked)
    if config.kv_blocks is not None:
        return PoolSize(divided, "kv_blocks", most)
    bounds: dict[Taken, int] = {
        "memory": divided.blocks,
        "workload": HEADROOM_BLOCKS + sum(asked),
        "at_once": seats * longest,
    }
    if requests is None:
        bounds["at_once"] = min(bounds["at_once"], max(bounds.pop("workload"), longest))
    why = min(bounds, key=lambda name: bounds[name])
    return PoolSize(Room(bounds[why], divided.tails), why, most)


def host_room(
    host_mib: float, stores: Sequence[torch.Tensor], tail_stores: Sequence[torch.Tensor], request_blocks: Sequence[int]
) -> Room:
    """What a budget in host memory holds of the cache's blocks and exact tails, never more than all requests can fill.

    Args:
        stores, tail_stores: of the cache, [stripes, blocks or tails, bytes] uint8.
        request_blocks: what each request of the workload may come to hold.
    """
    block = sum(len(s) * s.shape[2] for s in stores)
    tail = sum(len(s) * s.shape[2] for s in tail_stores)
    room = divide(int(host_mib * 2**20), block, tail, most_tails=len(request_blocks), request_blocks=request_blocks)
    return Room(min(room.blocks, sum(request_blocks)), room.tails)


def spare_tokens(config: EngineConfig) -> int:
    """Guesses per request that a step may have to take back."""
    return 0 if config.speculation is None else config.speculation.k


def block_bytes(model: LoadedModel, block_size: int, codec: Codec | None) -> int:
    """Memory of one block of a model's keys and values, at full precision or as a codec stores it."""
    shape = model.shape
    if codec is None:
        return bytes_per_block(shape.layers, shape.kv_heads, shape.head_dim, block_size, model.dtype)
    return codec.bytes_per_block(shape.layers, shape.kv_heads, shape.head_dim, block_size)
