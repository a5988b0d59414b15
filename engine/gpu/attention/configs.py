"""Which tile the kernels use for a shape: looked up in ``configs.json``, never tuned while serving."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("configs.json")


@dataclass(frozen=True)
class Tile:
    """One program's share: ``block_m`` rows (tokens x group), keys in steps of ``block_n``; the compiler's warps and
    stages."""

    block_m: int
    block_n: int
    warps: int
    stages: int


@functools.cache
def _table() -> dict[str, Any]:
    return json.loads(_FILE.read_text(encoding="utf-8"))


@functools.cache
def tile_for(element_bytes: int, head_dim: int, rows: int, bits: int = 16) -> Tile:
    """The tile for sequences that bring up to ``rows`` rows (new tokens x group). Depends on nothing but the shape and
    what is stored.

    ``bits``: of a stored number, of keys or values the fewer; those that lie several to a byte take registers to come
    apart.
    """
    for line in _table()["tiles"]:
        fits = (line["rows"] is None or rows <= line["rows"]) and bits <= line.get("bits", bits)
        if line["element_bytes"] == element_bytes and head_dim <= line["head_dim"] and fits:
            return Tile(line["block_m"], line["block_n"], line["warps"], line["stages"])
    raise ValueError(f"configs.json has no tile for {element_bytes}-byte elements and head size {head_dim}")


def largest_head_dim() -> int:
    """The largest head there is a tile for."""
    return max(line["head_dim"] for line in _table()["tiles"])


def fewest_of_each(tile: Callable[[int], Tile], most: int) -> list[int]:
    """The least count from 2 on that has each tile, up to ``most``."""
    first: dict[Tile, int] = {}
    for count in range(2, most + 1):
        first.setdefault(tile(count), count)
    return list(first.values())


def segments_for(programs: int, processors: int) -> int:
    """Into how many segments each sequence's cache is cut: enough programs to fill the device, as a power of two.

    ``programs`` is tiles times KV heads. Both arguments are known when a CUDA graph is captured; how long the sequences
    are is not, so it does not matter here (a segment without keys ends at once).
    """
    rule = _table()["segments"]
    segments = 1
    while segments < rule["most"] and programs * segments < rule["programs_per_processor"] * processors:
        segments *= 2
    return segments


def items_for(kv_heads: int, processors: int) -> int:
    """Pieces of work per KV head that fill the device."""
    return max(1, _table()["segments"]["programs_per_processor"] * processors // kv_heads)


def stretch_for(tile: Tile, longest: int, wanted: int) -> int:
    """How many of its steps a tile walks over a shared prefix that is ``longest`` steps long, where ``wanted`` would
    fill the device."""
    rule = _table()["segments"]
    least = -(-rule["places_per_row"] * tile.block_m // tile.block_n)
    return max(wanted, least, -(-longest // rule["most"]))
