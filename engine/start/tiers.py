"""Tiers below the KV pool made ready for a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.config import KVTiers
from engine.config.errors import EngineError
from engine.cost import cost_model
from engine.kv.cache import KVCache
from engine.kv.disk_link import DiskLink
from engine.kv.disk_tier import DiskTier
from engine.kv.tier_choice import TierChoice
from engine.kv.tier_codecs import TIER_CODECS, BlockForm, make_tier_codec
from engine.kv.tier_levels import LevelChoice
from engine.kv.tiers import Tiers
from engine.start.prepared import Prepared
from engine.start.swapping import most_blocks
from telemetry.clock import RunClock

MIB = 2**20


def make_tiers(prepared: Prepared, cache: KVCache, clock: RunClock, folder: Path) -> Tiers | None:
    """Where this run's evicted prefix blocks are kept; None where they are lost.

    Args:
        folder: of the disk tier; made when the first block is written, and gone with the run.

    Raises:
        EngineError: a budget does not hold one block, the host cannot give it, or a library is not installed.
    """
    config = prepared.spec.engine
    asked, size = config.kv_tiers, config.block_size
    if asked is None:
        return None
    stores = cache.stores()
    block_bytes = sum(len(store) * store.shape[2] for store in stores)
    host_blocks = _blocks(asked, "host_mib", block_bytes, size)
    form = form_of(prepared)
    if asked.has_disk:
        _blocks(asked, "disk_mib", block_bytes, size)
    levels = None
    if asked.follows_the_link:
        levels = LevelChoice(tuple(TIER_CODECS), asked.ttft_ms / 1e3)
    tiers = Tiers(
        stores,
        min(host_blocks, sum(most_blocks(prepared))),
        size,
        _disk(asked, form, folder, clock),
        TierChoice(cost_model(prepared.model).prefill_flops, size, always=asked.load == "always"),
        levels=levels,
        asynchronous=asked.asynchronous,
        clock=clock.now_ns,
        check=config.check_integrity,
    )
    example = np.zeros(tiers.block_bytes, np.uint8)
    if asked.loses:  # what is alike everywhere would be decoded too quickly
        form.fill(example, np.random.default_rng(0).normal(size=form.shape).astype(np.float32))
    trial = _disk(asked, form, folder, clock)
    if trial is not None and levels is not None:
        trial.came = levels.came
    tiers.probe(trial, example)
    return tiers


def _disk(asked: KVTiers, form: BlockForm, folder: Path, clock: RunClock) -> DiskTier | None:
    """The disk tier with its codec; None where there is none."""
    if not asked.has_disk:
        return None
    link, other = None, asked.link_other_gb_per_s
    if asked.link_gb_per_s is not None:
        link = DiskLink(
            asked.link_gb_per_s * 1e9, None if other is None else other * 1e9, asked.link_turn_s, clock.now_ns
        )
    return DiskTier(folder, int(asked.disk_mib * MIB), link, make_tier_codec(asked.codec, form))


def form_of(prepared: Prepared) -> BlockForm:
    """What a block at full precision is."""
    shape, model = prepared.model.shape, prepared.model
    return BlockForm(shape.layers, shape.kv_heads, prepared.spec.engine.block_size, shape.head_dim, model.dtype)


def _blocks(asked: KVTiers, field: str, block_bytes: int, block_size: int) -> int:
    """Blocks that a budget holds."""
    budget: float = getattr(asked, field)
    blocks = int(budget * MIB) // block_bytes
    if blocks < 1:
        least = block_bytes / MIB
        raise EngineError(
            "out-of-memory",
            f"kv_tiers.{field}",
            budget,
            f"it does not hold one block of {block_size} tokens, which takes {least:.3g} MiB.",
            f"Set it to {_above(least)} or more: n tokens take n / {block_size} blocks. Or switch kv_tiers off.",
        )
    return blocks


def _above(value: float) -> str:
    """A number with three digits that is not less."""
    text = f"{value:.3g}"
    return text if float(text) >= value else f"{value * 1.01:.3g}"
