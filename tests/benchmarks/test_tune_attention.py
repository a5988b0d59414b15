"""Timing tiles where there is no GPU: every codec is timed with every tile, and the fastest gets its line of the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import tune_attention
from benchmarks.gpu_parts.bench import Bench
from benchmarks.harness import Report
from benchmarks.tune_attention import Line, tune, write
from engine.gpu.attention import configs
from engine.gpu.attention.configs import Tile, tile_for


@pytest.mark.rare
def test_codecs_of_one_line_are_timed_with_the_same_tiles(monkeypatch: pytest.MonkeyPatch):
    tiles = [Tile(16, 16, 4, 1), Tile(16, 32, 4, 1)]
    monkeypatch.setattr(tune_attention, "DECODE", tiles)
    bench = Bench(Report("tune_attention"), torch.device("cpu"), True)
    best = tune(bench, Line("tiny", 16, 8, ("none", "int8", "kivi"), 2, 20))
    (table,) = bench.report.details["tables"]
    assert table["columns"] == ["tile", "none, us", "int8, us", "kivi, us", "of now"]
    assert len(table["rows"]) == 3  # and the one of now
    assert tune_attention.shown(best, best).removesuffix(" (now)") in table["rows"][0][0]


TABLE = """{
 "tiles": [
  {"element_bytes": 2, "head_dim": 64, "rows": null, "block_m": 128, "block_n": 64, "warps": 8, "stages": 3},
  {"element_bytes": 2, "head_dim": 128, "rows": 16, "bits": 5, "block_m": 16, "block_n": 32, "warps": 4, "stages": 3},
  {"element_bytes": 2, "head_dim": 128, "rows": 16, "block_m": 16, "block_n": 64, "warps": 4, "stages": 3}
 ]
}
"""


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "configs.json"
    path.write_text(TABLE)
    monkeypatch.setattr(configs, "_FILE", path)
    for cached in (configs._table, configs.tile_for):
        cached.cache_clear()
    yield path
    for cached in (configs._table, configs.tile_for):
        cached.cache_clear()


def test_the_fastest_tile_replaces_its_line_or_gets_one_before_the_general_one(table: Path):
    write(Line("llama-3.1-8b", 16, 16, ("none",), 1, 1), Tile(16, 128, 4, 2), table)
    write(Line("llama-3.1-8b", 16, 8, ("int8",), 1, 1), Tile(16, 32, 2, 3), table)
    write(Line("smollm2-135m", None, 5, ("int4",), 1, 0, 9), Tile(64, 32, 4, 3), table)
    assert len(json.loads(table.read_text())["tiles"]) == 5
    assert tile_for(2, 128, 16) == Tile(16, 128, 4, 2)
    assert tile_for(2, 128, 16, 8) == Tile(16, 32, 2, 3)
    assert tile_for(2, 128, 16, 4).block_n == 32
    assert tile_for(2, 64, 4096, 4) == Tile(64, 32, 4, 3)
    assert tile_for(2, 64, 4096) == Tile(128, 64, 8, 3)
