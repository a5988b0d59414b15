"""Times tiles of the attention kernels on this GPU, and writes the fastest into ``engine/gpu/attention/configs.json``.

``python -m benchmarks.tune_attention [--write] [--json FILE]``

Shapes of Llama-3.1-8B (heads of 128) and SmolLM2-135M (heads of 64). A line of ``configs.json`` serves several codecs; its tile is the one
with the least geometric mean over them, each taken relative to the tile that the line has now. Kernels are compiled beforehand, by as
many processes as half the processors.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.gpu_parts.bench import Bench, decode_plan
from benchmarks.gpu_parts.packed import filled_cache
from benchmarks.gpu_parts.steps import BLOCK_SIZE, layer_seconds
from benchmarks.harness import ROOT, Report, arguments
from engine.gpu.attention import TritonAttention, backend, configs
from engine.gpu.attention.configs import Tile
from engine.model.shape import RANDOM

DECODE = [
    Tile(16, n, w, s)
    for n, w, s in (
        (32, 2, 3), (32, 4, 2), (32, 4, 3), (32, 4, 4), (64, 4, 1), (64, 4, 2), (64, 4, 3), (64, 4, 4),
        (64, 8, 2), (64, 8, 3), (128, 4, 1), (128, 4, 2), (128, 4, 3), (128, 8, 2), (128, 8, 3),
    )
]  # fmt: skip
PREFILL = [
    Tile(m, n, w, s)
    for m, n, w, s in (
        (64, 64, 4, 2), (64, 64, 4, 3), (64, 128, 4, 2), (128, 32, 8, 3), (128, 64, 4, 2), (128, 64, 4, 3),
        (128, 64, 8, 2), (128, 64, 8, 3), (128, 64, 8, 4), (128, 128, 8, 2), (128, 128, 8, 3),
    )
]  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One line of the table and what it is timed on."""

    shape: str
    rows: int | None  # as in the table
    bits: int  # the most that a stored number has
    codecs: tuple[str, ...]
    batch: int
    context: int
    prefill: int = 0

    @property
    def head_dim(self) -> int:
        return RANDOM[self.shape].head_dim

    @property
    def tiles(self) -> list[Tile]:
        return PREFILL if self.prefill else DECODE

    @property
    def name(self) -> str:
        what = f"prefill of {self.prefill:,}" if self.prefill else f"decode, {self.batch} x {self.context:,}"
        return f"{self.shape}, {what}, {self.bits} bits"


LINES = (
    Line("llama-3.1-8b", 16, 16, ("none",), 64, 2048),
    Line("llama-3.1-8b", 16, 8, ("int8", "fp8"), 8, 8192),
    Line("llama-3.1-8b", 16, 5, ("int4", "kivi"), 8, 8192),
    Line("llama-3.1-8b", None, 16, ("none",), 1, 0, 4096),
    Line("smollm2-135m", 16, 16, ("none",), 64, 2048),
    Line("smollm2-135m", 16, 8, ("int8", "fp8"), 8, 8192),
    Line("smollm2-135m", 16, 5, ("int4", "kivi"), 8, 8192),
    Line("smollm2-135m", None, 16, ("none",), 1, 0, 4096),
)
LAYERS = 4  # that take turns, so that little is read from the last level of cache


def main(words: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--write", action="store_true", help="put the fastest tiles into configs.json")
    parser.add_argument("--warm", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if not torch.cuda.is_available():
        parser.error("there is no GPU here")
    device = torch.device("cuda:0")
    bench = Bench(Report("tune_attention", device=str(device)), device, False)
    if options.warm:
        part, parts = map(int, options.warm.split("/"))
        cases = [(line, codec, tile) for line in LINES for codec in line.codecs for tile in line.tiles]
        for line, codec, tile in cases[part::parts]:
            timed(
                bench,
                dataclasses.replace(line, context=min(line.context, 512), prefill=min(line.prefill, 1024)),
                codec,
                [tile],
            )
        return 0
    compile_ahead()
    for line in LINES:
        best = tune(bench, line)
        if options.write:
            write(line, best)
    return bench.report.finish(options)


def compile_ahead() -> None:
    parts = max(1, (os.cpu_count() or 1) // 2)
    command = [sys.executable, "-m", "benchmarks.tune_attention", "--warm"]
    running = [subprocess.Popen([*command, f"{n}/{parts}"], cwd=ROOT, stderr=subprocess.DEVNULL) for n in range(parts)]
    for process in running:
        process.wait()


def tune(bench: Bench, line: Line) -> Tile:
    """One table; the fastest tile."""
    now = configs.tile_for(2, line.head_dim, line.rows or 4096, line.bits)
    tiles = [*line.tiles, *([] if now in line.tiles else [now])]
    by_codec = {codec: timed(bench, line, codec, tiles) for codec in line.codecs}

    def relative(tile: Tile) -> float:
        return statistics.geometric_mean(times[tile] / times[now] for times in by_codec.values())

    possible = [tile for tile in tiles if all(tile in times for times in by_codec.values())]
    ranked = sorted(possible, key=relative)
    bench.report.table(
        line.name,
        ["tile", *(f"{codec}, us" for codec in line.codecs), "of now"],
        [(shown(tile, now), *(1e6 * times[tile] for times in by_codec.values()), relative(tile)) for tile in ranked],
    )
    bench.report.figure(
        f"{line.name}: fastest / now", relative(ranked[0]), "x", better="lower", note=shown(ranked[0], now)
    )
    return ranked[0]


def timed(bench: Bench, line: Line, codec: str, tiles: Sequence[Tile]) -> dict[Tile, float]:
    """Seconds of one layer's attention with each tile that can be compiled."""
    shape, dtype = RANDOM[line.shape], torch.float32 if bench.dry else torch.bfloat16
    tokens = line.prefill or line.batch * (line.context + 1)
    cache = filled_cache(bench, codec, shape, LAYERS, tokens // BLOCK_SIZE + line.batch + 1, dtype, tails=line.batch)
    plan = decode_plan(line.batch, line.context, BLOCK_SIZE, line.prefill)
    seconds = {}
    for tile in tiles:
        with using(tile):
            attention = TritonAttention(cache, shape.heads, shape.kv_heads, shape.head_dim)
            try:
                seconds[tile] = layer_seconds(bench, attention, plan)
            except Exception as error:  # such a tile needs more shared memory than there is
                print(f"{line.name}, {codec}, {tile}: {error}"[:200], file=sys.stderr)
    del cache
    bench.free()
    return seconds


@contextmanager
def using(tile: Tile) -> Iterator[None]:
    """Inside, attention takes this tile for everything."""
    usual = backend.tile_for
    backend.tile_for = lambda *shape: tile  # type: ignore[assignment]
    try:
        yield
    finally:
        backend.tile_for = usual


def shown(tile: Tile, now: Tile) -> str:
    text = f"{tile.block_m} x {tile.block_n}, {tile.warps} warps, {tile.stages} stages"
    return text + (" (now)" if tile == now else "")


def write(line: Line, best: Tile, path: Path = configs._FILE) -> None:
    """Replace the tile of the line for these shapes, or put one for so few bits before the general one."""
    key = {"element_bytes": 2, "head_dim": line.head_dim, "rows": line.rows}
    bits = {} if line.bits == 16 else {"bits": line.bits}
    lines = path.read_text(encoding="utf-8").splitlines()
    at = [n for n, text in enumerate(lines) if text.lstrip().startswith('{"element_bytes"')]
    entries = {n: json.loads(lines[n].rstrip().rstrip(",")) for n in at}
    same = [n for n, entry in entries.items() if all(entry[k] == v for k, v in key.items())]
    exact = [n for n in same if entries[n].get("bits") == bits.get("bits")]
    text = "  " + json.dumps(key | bits | dataclasses.asdict(best)) + ","
    if exact:
        lines[exact[0]] = text if lines[exact[0]].endswith(",") else text[:-1]
    else:
        behind = [n for n in same if entries[n].get("bits", 16) > line.bits]
        lines.insert(min(behind), text)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
