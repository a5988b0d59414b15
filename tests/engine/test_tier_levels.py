"""The tier codec's level follows the link: the finest that leaves time enough, text where that is sooner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.config import ConfigError, EngineConfig, KVTiers, RequestSpec, apply_overrides
from engine.kv.disk_link import DiskLink
from engine.kv.disk_tier import DiskTier
from engine.kv.tier_codecs import TIER_CODECS, BlockForm, make_tier_codec
from engine.kv.tier_levels import TEXT, Due, LevelChoice
from tests.engine.drawn import random_llama
from tests.engine.test_tier_codecs import block_of
from tests.engine.test_tiers import TWO_BLOCKS, documents_in_turn, rows_of, serve

SIZES = (800, 400, 200)
NAMES = tuple(TIER_CODECS)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory):
    directory = tmp_path_factory.mktemp("llama")
    return random_llama(directory, seed=5, vocab_size=200, initializer_range=0.4), directory


def chosen(choice: LevelChoice, left_s: float, blocks: int = 10, due: Due | None = None) -> str:
    return choice.choose(SIZES, 0, blocks, left_s, due or Due(0, 0.0)).level


def test_the_finest_level_is_read_that_meets_the_bound() -> None:
    choice = LevelChoice(NAMES, 1.0)
    assert chosen(choice, 0.001) == "delta-fine"  # no rate is known yet
    choice.came(0, 800, 1.0, 0.0)  # 800 bytes/s: blocks take 1, 0.5 and 0.25 s
    assert [chosen(choice, left) for left in (10.0, 9.9, 5.0, 4.9, 2.5, 2.4, -1.0)] == [
        "delta-fine", "delta-medium", "delta-medium", "delta-coarse", "delta-coarse", "delta-coarse", "delta-coarse"
    ]  # fmt: skip
    assert chosen(choice, 9.9, blocks=9) == "delta-fine"
    assert chosen(choice, 10.0, due=Due(0, rest_s=1.0)) == "delta-medium"
    choice.came(2, 200, 0.025, 0.0)  # ten times as fast
    assert chosen(choice, 1.0) == "delta-fine"


def test_decoding_counts_and_text_is_taken_where_it_is_sooner_than_the_coarsest() -> None:
    choice = LevelChoice(NAMES, 1.0)
    choice.came(0, 800, 1.0, 0.5)
    assert chosen(choice, 10.0) == "delta-medium"
    sooner, later = Due(0, 0.0, again_s=(7.0,)), Due(0, 0.0, again_s=(8.0,))
    assert chosen(choice, 2.0, due=sooner) == TEXT  # the coarsest takes 7.5 s
    assert chosen(choice, 2.0, due=later) == "delta-coarse"
    assert chosen(choice, 10.0, due=sooner) == "delta-medium", "what meets the bound is loaded"


def test_a_link_that_nothing_came_over_for_long_is_asked_again() -> None:
    now = [0.0]
    choice = LevelChoice(NAMES, 1.0, clock=lambda: now[0])
    choice.came(0, 800, 100.0, 0.0)
    sooner = Due(0, 0.0, again_s=(0.1,))
    assert chosen(choice, 0.5, due=sooner) == TEXT
    now[0] = 2.0
    assert chosen(choice, 0.5, due=sooner) == "delta-coarse"
    choice.came(2, 200, 0.001, 0.0)
    assert chosen(choice, 0.5, due=sooner) == "delta-fine"


def test_a_link_whose_rate_changes_brings_bytes_at_the_rate_of_their_time() -> None:
    link = DiskLink(100.0, 10.0, turn_s=2.0)
    assert link.arrival(0.0, 100) == 1.0
    assert link.arrival(1.0, 110) == 3.0  # 100 until 2 s, 10 in the second after
    assert link.arrival(3.0, 110) == 5.0
    assert link.arrival(2.0, 20) == 4.0
    assert DiskLink(100.0).arrival(7.0, 50) == 7.5


def test_one_level_is_read_out_of_a_file_that_has_all(tmp_path: Path) -> None:
    form = BlockForm(3, 2, 16, 8, torch.float32)
    block = block_of(form, 3)
    disk = DiskTier(tmp_path, 10**9, codec=make_tier_codec("adaptive", form))
    assert disk.write(1, stream := disk.encode(block))
    sizes = disk.sizes(1)
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) < disk.bytes_of(1) == stream.nbytes
    for level, (name, make) in enumerate(TIER_CODECS.items()):
        alone, back, expected = make(form), np.empty_like(block), np.empty_like(block)
        alone.decode(alone.encode(block), expected)
        assert disk.read(1, back, level=level), name
        assert (back == expected).all(), name
    path = next(tmp_path.glob("*.kv"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # of the coarsest
    path.write_bytes(content)
    assert [disk.read(1, np.empty_like(block), level=level) for level in range(3)] == [True, True, False]


def levels_of(run_dir: Path) -> list[str]:
    rows = [row for row in (*rows_of(run_dir, "load"), *rows_of(run_dir, "decline")) if row["level"] is not None]
    assert all(row["link_bytes_per_s"] > 0 for row in rows), "the trial at the start says how fast the link is"
    return [row["level"] for row in sorted(rows, key=lambda row: row["time_ns"])]


ADAPTIVE = KVTiers(host_mib=TWO_BLOCKS, disk_mib=64, load="always", codec="adaptive", link_gb_per_s=0.0005)


@pytest.mark.parametrize(("ttft_ms", "levels"), [(1e6, {"delta-fine"}), (0.001, {"delta-coarse", "text"})])
def test_a_run_reads_what_its_bound_leaves_time_for(llama, tmp_path: Path, ttft_ms: float, levels: set[str]) -> None:
    asked = ADAPTIVE.model_copy(update={"ttft_ms": ttft_ms})
    prepared, _, summary = serve(llama, tmp_path, asked)
    assert {"lossy tier codec", "emulated disk link"} <= set(prepared.notices)
    assert levels_of(tmp_path)
    assert set(levels_of(tmp_path)) <= levels
    assert summary["tier_codec"]["stored_bytes"] < summary["tier_codec"]["bytes"]


def test_over_a_link_that_slows_down_the_level_follows(llama, tmp_path: Path) -> None:
    """The link is fast for three seconds, then so slow that computing is sooner: what is asked later is text."""
    asked = ADAPTIVE.model_copy(
        update={"ttft_ms": 2000.0, "link_gb_per_s": 0.01, "link_other_gb_per_s": 2e-7, "link_turn_s": 3.0}
    )
    first = documents_in_turn()
    later = [
        request.model_copy(update={"request_id": f"{n} again", "after": None, "arrival_ns": 3_200_000_000 + n})
        for n, request in enumerate(first[3:])
    ]
    assert isinstance(later[0], RequestSpec)
    prepared, _, _ = serve(llama, tmp_path, asked, asked=[*first, *later])
    levels = levels_of(tmp_path)
    assert levels[0] == "delta-fine"
    assert set(levels[1:]) & {"text", "delta-coarse"}, levels
    assert all(request.end_reason == "length" for request in prepared.requests)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"kv_tiers.codec": "adaptive"}, "kv_tiers.disk_mib 0 keeps none"),
        ({"kv_tiers.disk_mib": "8", "kv_tiers.link_other_gb_per_s": "1"}, "kv_tiers.link_gb_per_s, which is empty"),
        (
            {"kv_tiers.disk_mib": "8", "kv_tiers.codec": "adaptive", "kv_quantization.codec": "int4"},
            "kv_tiers.codec adaptive",
        ),
        ({"kv_tiers.disk_mib": "8", "kv_tiers.codec": "adaptive", "kv_tiers.ttft_ms": "0"}, "ttft_ms"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(words: dict[str, str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        apply_overrides(EngineConfig(), {"prefix_sharing": "on", **words})
