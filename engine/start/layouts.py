"""How requests' keys and values lie in the pool's memory: what the settings ask for, worked out for a run."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.block_table import blocks_for
from engine.config import EngineConfig, FarPool, KVLayout
from engine.config.errors import EngineError
from engine.kv.address_space import AddressSpace, aligned
from engine.kv.cache import KVCache
from engine.kv.codecs import Codec
from engine.kv.free_blocks import FreeBlocks
from engine.kv.lending import LendingPool
from engine.kv.pool import BlockEvent, BlockPool
from engine.kv.ranges import DemandPaged, ReserveMax
from engine.model.load import LoadedModel
from engine.request import Request

LAYOUTS: dict[str, type[BlockPool]] = {kind.layout: kind for kind in (DemandPaged, ReserveMax, BlockPool)}
"""The registry, in the order the settings list them."""

Stripes = tuple[tuple[int, int], ...]  # (how many, bytes of a block in each): what lies together, block after block


@dataclass(frozen=True)
class Layout:
    """Where blocks lie, and what they take of the pool's memory."""

    asked: KVLayout  # of kind paged where the settings say nothing
    block_size: int
    stripes: Stripes
    length: int = 0  # blocks of a range; 0: there are none
    ranges: int = 0  # that there are addresses for, where memory is mapped on demand
    far_blocks: int = 0  # of a far pool beside it

    @property
    def block_bytes(self) -> int:
        return sum(count * size for count, size in self.stripes)

    @property
    def is_mapped(self) -> bool:
        return self.asked.kind == DemandPaged.layout

    @property
    def page_bytes(self) -> int:
        return self.asked.page_kib * 1024

    def blocks_of(self, tokens: int) -> int:
        """Blocks of the pool's memory that a request of so many tokens may come to take."""
        blocks = blocks_for(tokens, self.block_size)
        if not self.length:
            return blocks
        if not self.is_mapped:
            return self.length
        page, blocks = self.page_bytes, min(blocks, self.length)
        mapped = sum(n * -(-blocks * size // page) * page for n, size in self.stripes)
        return -(-mapped // self.block_bytes)

    def addresses(self, num_blocks: int) -> int:
        """Blocks that the cache has addresses for, in a pool with memory for ``num_blocks``."""
        return self.ranges * self.length if self.is_mapped else num_blocks

    def make_space(self) -> AddressSpace | None:
        """Memory that is mapped on demand; None where all of it is mapped at once."""
        return AddressSpace(self.ranges, self.length, self.page_bytes) if self.is_mapped else None

    def make_pool(
        self,
        num_blocks: int,
        journal: list[BlockEvent] | None,
        free: FreeBlocks | None,
        cache: KVCache,
    ) -> BlockPool:
        """``free``: the order in which blocks are handed out, where they are not neighbours anyway. ``cache``: whose
        memory it is; what is mapped on demand is given back."""
        if cache.far is not None:
            return LendingPool(cache.far, self.block_size, journal=journal, block_bytes=self.block_bytes)
        if not self.length:
            return BlockPool(num_blocks, self.block_size, journal=journal, free=free, block_bytes=self.block_bytes)
        if not self.is_mapped:
            ranges = num_blocks // self.length
            return ReserveMax(
                num_blocks, self.block_size, ranges, self.length, journal=journal, block_bytes=self.block_bytes
            )
        assert isinstance(cache.space, AddressSpace)
        cache.space.clear()
        return DemandPaged(
            num_blocks,
            self.block_size,
            self.ranges,
            self.length,
            space=cache.space,
            journal=journal,
            block_bytes=self.block_bytes,
            deferred=self.asked.deferred_reclaim,
        )

    def unfit(self, request: Request, num_blocks: int) -> EngineError | None:
        """Why a request can never have all its keys and values in the pool; None where it can."""
        tokens, size = request.most_computed_tokens, self.block_size
        grows = f"request {request.request_id!r} may grow to {tokens:,} tokens"
        if self.length and blocks_for(tokens, size) > self.length:
            room = self.length * size
            mend = f"Set it to at least {tokens}, or max_tokens of the request lower."
            said = f"{grows}, and a range has room for {room:,}."
            return EngineError("range-too-short", "kv_layout.max_tokens", self.asked.max_tokens, said, mend)
        needed = self.blocks_of(tokens)
        if needed <= num_blocks + self.far_blocks:
            return None
        if self.far_blocks:
            said = f"{grows}, {needed} blocks of {size}; the pool has {num_blocks} and the far pool {self.far_blocks}."
            mend = f"Set far_pool.blocks to at least {needed - num_blocks}, or max_tokens of the request lower."
            return EngineError("pool-too-small", "far_pool.blocks", self.far_blocks, said, mend)
        if self.length and not self.is_mapped:
            said = (
                f"kv_layout.kind reserve-max reserves {self.length} blocks of {size} tokens for each request, whatever "
                f"it needs; the pool has {num_blocks}."
            )
            mend = f"Set kv_blocks to at least {needed}, or kv_layout.max_tokens to {num_blocks * size} or less."
            return EngineError("pool-too-small", "kv_blocks", num_blocks, said, mend)
        if self.is_mapped:
            said = (
                f"{grows}, whose pages of {self.asked.page_kib} KiB take as much as {needed} blocks of {size}; the "
                f"pool has {num_blocks}."
            )
            mend = f"Set kv_blocks to at least {needed}, or kv_layout.page_kib lower."
            return EngineError("pool-too-small", "kv_blocks", num_blocks, said, mend)
        most = num_blocks * size - request.num_prompt_tokens + 1
        shorter = f", or max_tokens of the request to {most} or less" if most > 0 else ""
        said = f"{grows}, {needed} blocks of {size}; the pool has {num_blocks}."
        mend = f"Set kv_blocks to at least {needed}{shorter}."
        return EngineError("pool-too-small", "kv_blocks", num_blocks, said, mend)


def make_layout(
    config: EngineConfig,
    models: Sequence[LoadedModel],
    codec: Codec | None,
    device: torch.device,
    requests: Sequence[Request] | None,
    max_model_len: int,
) -> Layout:
    """The layout of a run.

    Args:
        models: the target, whose cache ``codec`` packs, and those that have a part of each block beside it.
        requests: of the workload; None where clients ask as the run goes on.

    Raises:
        EngineError: this device or its pages do not serve it.
    """
    asked, size = config.kv_layout or KVLayout(kind="paged"), config.block_size
    stripes = stripes_of(models, codec, size)
    if config.far_pool is not None:
        check_far(config.far_pool, device)
        return Layout(asked, size, stripes, far_blocks=config.far_pool.blocks)
    if not asked.is_contiguous:
        return Layout(asked, size, stripes)
    longest = max_model_len if requests is None else max(r.most_computed_tokens for r in requests)
    length = blocks_for(asked.max_tokens or longest, size)
    if asked.kind != DemandPaged.layout:
        return Layout(asked, size, stripes, length)
    _check_pages(asked, device)
    # Ranges whose copies to host memory are under way belong to nobody who runs.
    length = aligned(length, [b for _, b in stripes], asked.page_kib * 1024)
    return Layout(asked, size, stripes, length, 2 * config.max_num_seqs)


def check_far(asked: FarPool, device: torch.device) -> None:
    """Raises EngineError where this device does not serve a far pool."""
    if device.type == "cpu":
        return
    raise EngineError(
        "unsupported",
        "far_pool",
        asked.blocks,
        "it is served on a CPU, where both pools lie in memory of the host.",
        "Set device to cpu, or far_pool off.",
    )


def _check_pages(asked: KVLayout, device: torch.device) -> None:
    if device.type != "cpu":
        raise EngineError(
            "no-virtual-memory",
            "kv_layout.kind",
            asked.kind,
            "pages are mapped on demand by the operating system, for a CPU. On a GPU it takes the driver's virtual "
            "memory calls (cuMemAddressReserve, cuMemMap), which this engine does not make.",
            "Set kv_layout.kind to reserve-max or paged, or device to cpu.",
        )
    if asked.page_kib * 1024 % mmap.PAGESIZE:
        raise EngineError(
            "bad-page",
            "kv_layout.page_kib",
            asked.page_kib,
            f"this machine maps pages of {mmap.PAGESIZE // 1024} KiB.",
            f"Set it to {mmap.PAGESIZE // 1024} or a multiple of that.",
        )


def stripes_of(models: Sequence[LoadedModel], codec: Codec | None, block_size: int) -> Stripes:
    """What the caches of these models keep of a block, stripe by stripe."""
    stripes: list[tuple[int, int]] = []
    for number, model in enumerate(models):
        shape = model.shape
        heads = shape.layers * shape.kv_heads
        if codec is None or number:
            stripes.append((2 * heads, block_size * shape.head_dim * model.dtype.itemsize))
            continue
        for form in (codec.keys, codec.values):
            codes = block_size * form.code_width(shape.head_dim) * form.code_dtype.itemsize
            beside = form.block_bytes(shape.head_dim, block_size) - codes
            stripes += [(heads, part) for part in (codes, beside) if part]
    return tuple(stripes)
