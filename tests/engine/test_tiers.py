"""Tiers below the KV pool: what is kept, what is loaded, what is computed again, and what goes wrong with files."""

from __future__ import annotations

import errno
import os
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.config import (
    ConfigError,
    EngineConfig,
    EngineError,
    KVTiers,
    PrefixSharing,
    RequestSpec,
    Sampling,
    apply_overrides,
)
from engine.failures import labels_of_summary
from engine.kv.disk_tier import DiskTier
from engine.kv.tier_choice import TierChoice
from engine.kv.tiers import Tiers
from engine.run_facts import summarise
from engine.start.build import build_engine
from engine.start.prepare import prepare
from engine.start.sizing import Room
from telemetry.clock import RunClock
from telemetry.folder import TIERS_FOLDER
from telemetry.recorder import Recorder
from telemetry.status import Summary
from tests.engine.drawn import random_llama
from tests.engine.prefix_scheduling import make_request, make_scheduler
from tests.engine.prefix_scheduling import serve as serve_requests
from tests.engine.serving import make_spec
from tests.engine.test_prefix_cache import WHOLE_BLOCKS, A, B
from tests.engine.test_swap_tokens import check_tokens
from tests.row_maker import spooled

SIZE = 4  # tokens of a block
BLOCK = 2 * 2 * 2 * SIZE * 8 * 4  # bytes: layers, sides, heads, tokens, numbers, each
TWO_BLOCKS = 2 * BLOCK / 2**20  # MiB


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory):
    directory = tmp_path_factory.mktemp("llama")
    return random_llama(directory, seed=5, vocab_size=200, initializer_range=0.4), directory


def documents_in_turn() -> list[RequestSpec]:
    """Three documents of 40 tokens asked about one after another, twice; the pool below holds one of them."""
    dice = random.Random(3)
    documents = [[dice.randrange(8, 200) for _ in range(40)] for _ in range(3)]
    asked: list[RequestSpec] = []
    for number in range(6):
        prompt = (*documents[number % 3], dice.randrange(8, 200))
        after = asked[-1].request_id if asked else None
        asked.append(RequestSpec(request_id=str(number), prompt_token_ids=prompt, max_tokens=3, after=after))
    return asked


def serve(
    llama, tmp_path: Path, tiers: KVTiers | None, before_each=lambda engine: None, asked=None, stop=lambda: False
):
    """Serve the documents, or what is asked, from a pool of 12 blocks; returns what was prepared, the engine and its
    summary. ``before_each`` is called before every step."""
    _, directory = llama
    config = EngineConfig(
        model=str(directory),
        device="cpu",
        dtype="float32",
        threads=1,
        block_size=SIZE,
        kv_blocks=64,
        prefix_sharing=PrefixSharing(),
        kv_tiers=tiers,
        sampling=Sampling(ignore_eos=True),
        check_integrity=True,
    )
    prepared = prepare(make_spec(config, asked or documents_in_turn()))
    prepared = replace(prepared, pool=replace(prepared.pool, taken=Room(12, None)))
    with Recorder(tmp_path, "full", clock := RunClock()) as recorder:
        engine = build_engine(prepared, recorder, clock)
        step = engine.step

        def watched():
            before_each(engine)
            return step()

        engine.step = watched
        engine.run(prepared.requests, stop)
    engine.scheduler.check_integrity()
    return prepared, engine, summarise(engine, prepared, clock)


def rows_of(run_dir: Path, action: str) -> list[dict]:
    return [row for row in spooled(run_dir, "tier") if row["action"] == action]


def test_evicted_prefixes_come_back_from_host_memory(llama, tmp_path: Path) -> None:
    prepared, engine, summary = serve(llama, tmp_path, KVTiers(load="always"))
    assert [r.cached_tokens for r in prepared.requests] == [0, 0, 0, 40, 40, 40]
    assert summary["tier_host_hits"] == 30
    loads = rows_of(tmp_path, "load")
    assert [(row["request"], row["tier"], row["blocks"]) for row in loads] == [(n, "host", 10) for n in (3, 4, 5)]
    assert all(row["bytes"] == 10 * engine.scheduler.prefixes.tiers.block_bytes for row in loads)
    assert all(row["load_ns"] > 0 and row["recompute_ns"] > 0 for row in loads)
    check_tokens(llama[0], prepared)


def test_without_tiers_they_are_computed_again(llama, tmp_path: Path) -> None:
    prepared, _, summary = serve(llama, tmp_path, None)
    assert [r.cached_tokens for r in prepared.requests] == [0] * 6
    assert "tier_host_hits" not in summary


def test_what_host_memory_has_no_room_for_comes_back_from_disk(llama, tmp_path: Path) -> None:
    prepared, _, summary = serve(llama, tmp_path, KVTiers(host_mib=TWO_BLOCKS, disk_mib=64, load="always"))
    assert [r.cached_tokens for r in prepared.requests] == [0, 0, 0, 40, 40, 40]
    assert summary["tier_disk_hits"] > 20
    assert labels_of_summary(summary) == []
    assert not (tmp_path / TIERS_FOLDER).exists()
    check_tokens(llama[0], prepared)


def test_the_least_recently_used_blocks_are_lost_where_both_budgets_are_used_up(llama, tmp_path: Path) -> None:
    _, _, summary = serve(llama, tmp_path, KVTiers(host_mib=TWO_BLOCKS, disk_mib=TWO_BLOCKS))
    assert sum(row["blocks"] for row in rows_of(tmp_path, "lose")) > 20
    assert labels_of_summary(summary) == []


def spoil(kind: str):
    """Spoils every file of the disk tier before the fourth request begins."""

    def before(engine) -> None:
        if not any(r.index == 3 for r in engine.scheduler.waiting):
            return
        for path in engine.scheduler.prefixes.tiers.disk.folder.glob("*.kv"):
            content = bytearray(path.read_bytes())
            if kind == "gone":
                path.unlink()
            elif kind == "short":
                path.write_bytes(content[:-1])
            elif kind == "long":
                path.write_bytes(content + b"x")
            elif kind == "anothers":
                path.write_bytes(content[::-1])
            else:
                content[len(content) // 2] ^= 1
                path.write_bytes(content)

    return before


@pytest.mark.parametrize("kind", ["gone", "short", "long", "anothers", "flipped"])
def test_a_file_that_is_not_what_was_written_is_computed_again_and_said(llama, tmp_path: Path, kind: str) -> None:
    asked = KVTiers(host_mib=TWO_BLOCKS, disk_mib=64, load="always")
    prepared, _, summary = serve(llama, tmp_path, asked, spoil(kind))
    assert summary["tier_damaged"] > 0
    assert labels_of_summary(summary) == ["damaged tier files"]
    assert prepared.requests[3].cached_tokens < 40
    check_tokens(llama[0], prepared)


def test_a_folder_that_cannot_be_made_leaves_the_host_tier(llama, tmp_path: Path) -> None:
    (tmp_path / TIERS_FOLDER).write_text("in the way")
    prepared, _, summary = serve(llama, tmp_path, KVTiers(host_mib=TWO_BLOCKS, disk_mib=64, load="always"))
    assert labels_of_summary(summary) == ["disk tier not written"]
    assert TIERS_FOLDER in summary["tier_problem"]
    assert Summary.model_validate(summary).tier_problem == summary["tier_problem"], "status.json has it"
    check_tokens(llama[0], prepared)


def test_a_run_that_fails_leaves_no_file(llama, tmp_path: Path) -> None:
    def fail(engine) -> None:
        if any(r.index == 3 for r in engine.scheduler.waiting):
            assert list((tmp_path / TIERS_FOLDER).glob("*.kv"))
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        serve(llama, tmp_path, KVTiers(host_mib=TWO_BLOCKS, disk_mib=64), fail)
    assert not (tmp_path / TIERS_FOLDER).exists()


def test_a_full_disk_leaves_what_is_there(tmp_path: Path) -> None:
    """``/dev/full`` answers every write as a full disk does."""
    disk, block = DiskTier(tmp_path / "tier", 512), np.arange(64, dtype=np.uint8)
    assert disk.write(1, block)
    (tmp_path / "tier" / f"{2:016x}.kv").symlink_to("/dev/full")
    assert not disk.write(2, block)
    assert disk.problem == f"{os.strerror(errno.ENOSPC)}: {tmp_path / 'tier'}"
    assert not disk.write(3, block)
    assert disk.read(1, back := np.zeros_like(block))
    assert (back == block).all()
    assert 2 not in disk


def test_an_emulated_link_takes_its_time_and_says_so(llama, tmp_path: Path) -> None:
    asked = KVTiers(host_mib=TWO_BLOCKS, disk_mib=64, load="always", link_gb_per_s=0.001)
    prepared, _, _ = serve(llama, tmp_path, asked)
    assert "emulated disk link" in prepared.notices
    slowest = max(rows_of(tmp_path, "load"), key=lambda row: row["duration_ns"] * (row["tier"] == "disk"))
    assert slowest["duration_ns"] >= slowest["bytes"] / 1e6 * 1e9  # a lower bound, however busy the machine


def test_over_a_slow_link_it_is_computed_again_instead(llama, tmp_path: Path) -> None:
    asked = KVTiers(host_mib=TWO_BLOCKS, disk_mib=64, link_gb_per_s=1e-6)
    prepared, _, summary = serve(llama, tmp_path, asked)
    assert summary["tier_disk_hits"] == 0
    declined = rows_of(tmp_path, "decline")
    assert declined
    assert all(row["load_ns"] > row["recompute_ns"] > 0 for row in declined)
    check_tokens(llama[0], prepared)


@pytest.mark.parametrize("field", ["host_mib", "disk_mib"])
def test_a_budget_that_holds_no_block_is_refused_with_what_does(llama, tmp_path: Path, field: str) -> None:
    with pytest.raises(EngineError, match="does not hold one block of 4 tokens") as refused:
        serve(llama, tmp_path, KVTiers(**{field: 0.0005}))
    assert (refused.value.field, refused.value.value) == (f"kv_tiers.{field}", 0.0005)
    least = float(refused.value.mend.split()[3])
    serve(llama, tmp_path, KVTiers(**{field: least}))


@pytest.mark.parametrize("value", ["0", "-1", "nan"])
def test_a_link_of_no_bandwidth_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="link_gb_per_s"):
        apply_overrides(EngineConfig(), {"prefix_sharing": "on", "kv_tiers.link_gb_per_s": value})


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ({}, "set prefix_sharing on"),
        ({"prefix_sharing.skip_prefill": "off"}, "skip_prefill off computes every prompt"),
        ({"prefix_sharing": "on", "placement.kind": "disaggregated"}, "has a KV pool for each half"),
    ],
)
def test_tiers_need_prefixes_that_are_looked_up(others: dict[str, str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        apply_overrides(EngineConfig(), {**others, "kv_tiers": "on"})


def test_one_hash_never_hands_out_anothers_text() -> None:
    """Every block has the same hash here; only the very same text, from the root on, may be loaded."""
    first, second = make_request(0, [*A, 1]), make_request(1, [*B, 1])
    again = make_request(2, [*A, 2])
    scheduler = make_scheduler(blocks=4, hash_block=lambda parent, tokens: 42, sharing=WHOLE_BLOCKS)
    store = torch.zeros((1, 4, 8), dtype=torch.uint8)
    choice = TierChoice(lambda tokens, context: float(tokens), SIZE, always=True)
    tiers = scheduler.prefixes.tiers = Tiers([store], 8, SIZE, None, choice)
    serve_requests(scheduler, [first])
    scheduler.pool.drop_cached()
    serve_requests(scheduler, [second])
    assert second.cached_tokens == 0
    scheduler.pool.drop_cached()
    serve_requests(scheduler, [again])
    assert again.cached_tokens == SIZE  # its first block, which came first
    assert tiers.describe()["tier_host_hits"] == 1


def test_the_cheapest_cut_is_loaded() -> None:
    choice = TierChoice(lambda tokens, context: float(tokens), block_size=4, always=False)
    assert choice.take(["host", "disk"], 0) == 2  # nothing is known yet
    choice.loaded("host", 1, 0.1)
    choice.loaded("disk", 2, 4.0)
    choice.computed(40.0, 10.0)  # 1 s for a block
    choice.computed(4.0, 10.0)  # a small step, which says little
    assert choice.take(["host", "host", "disk", "disk"], 0) == 2
    assert choice.take(["disk", "host"], 0) == 0
    assert choice.take(["host", "disk", "host", "disk"], 0, unit=2) == 0
    choice.loaded("disk", 1, 0.2)
    choice.loaded("disk", 1, 0.2)  # the median of three
    assert choice.take(["host", "host", "disk", "disk"], 0) == 4
