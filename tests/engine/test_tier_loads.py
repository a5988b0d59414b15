"""Loads from tiers beside the steps: others go on, and whatever happens meanwhile changes no token and no book."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from engine.config import KVTiers, RequestSpec
from engine.failures import labels_of_summary
from engine.kv.prefixes import Node
from engine.kv.tier_choice import TierChoice
from engine.kv.tiers import Tiers
from telemetry.folder import TIERS_FOLDER
from tests.engine.drawn import random_llama
from tests.engine.prefix_scheduling import make_request
from tests.engine.test_swap_tokens import check_tokens
from tests.engine.test_tiers import BLOCK, TWO_BLOCKS, documents_in_turn, rows_of, serve

BLOCK_S = 0.05  # over the link
SLOW = KVTiers(host_mib=TWO_BLOCKS, disk_mib=64, load="always", link_gb_per_s=BLOCK / BLOCK_S / 1e9)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory):
    directory = tmp_path_factory.mktemp("llama")
    return random_llama(directory, seed=5, vocab_size=200, initializer_range=0.4), directory


def one_comes_back(**values) -> list[RequestSpec]:
    """Three documents, then the first one again, and beside it a short prompt that is nowhere."""
    asked = documents_in_turn()[:4]
    prompt = tuple(random.Random(9).choices(range(8, 200), k=6))
    asked[3] = asked[3].model_copy(update=values)
    return [*asked, RequestSpec(request_id="short", prompt_token_ids=prompt, max_tokens=4, after="2")]


def loading(engine) -> bool:
    return engine.scheduler.loads.coming


def test_others_go_on_while_a_prefix_is_on_its_way(llama, tmp_path: Path) -> None:
    prepared, _, summary = serve(llama, tmp_path, SLOW, asked=one_comes_back())
    back, short = prepared.requests[3:]
    assert back.cached_tokens == 40
    assert short.first_token_ns < back.first_scheduled_ns
    load = max(rows_of(tmp_path, "load"), key=lambda row: row["blocks"] * (row["tier"] == "disk"))
    assert (
        load["time_ns"] - load["asked_ns"] >= load["blocks"] * BLOCK_S * 1e9
    )  # a lower bound, however busy the machine
    assert load["time_ns"] - load["asked_ns"] >= load["duration_ns"]
    assert summary["tier_copied_s"] >= load["duration_ns"] / 1e9
    check_tokens(llama[0], prepared)


def test_synchronous_copies_hold_everybody_up(llama, tmp_path: Path) -> None:
    asked = SLOW.model_copy(update={"asynchronous": False})
    prepared, _, summary = serve(llama, tmp_path, asked, asked=one_comes_back())
    back, short = prepared.requests[3:]
    assert short.first_token_ns > back.first_scheduled_ns
    assert all(row["waited_ns"] >= row["duration_ns"] for row in rows_of(tmp_path, "load"))
    assert summary["tier_waited_s"] >= summary["tier_copied_s"]
    check_tokens(llama[0], prepared)


def test_a_request_that_is_cancelled_while_it_is_loaded_for_leaves_nothing(llama, tmp_path: Path) -> None:
    prepared, engine, _ = serve(llama, tmp_path, SLOW, asked=one_comes_back(cancel_after_ns=100_000_000))
    assert prepared.requests[3].end_reason == "cancelled"
    assert prepared.requests[4].end_reason == "length"
    assert engine.scheduler.pool.num_used == 0
    assert not (tmp_path / TIERS_FOLDER).exists()
    check_tokens(llama[0], prepared)


def test_two_that_begin_alike_wait_for_one_load(llama, tmp_path: Path) -> None:
    asked = one_comes_back()
    asked.append(asked[3].model_copy(update={"request_id": "likewise"}))
    prepared, _, _ = serve(llama, tmp_path, SLOW, asked=asked)
    assert [r.cached_tokens for r in (prepared.requests[3], prepared.requests[5])] == [40, 40]
    assert sum(row["blocks"] for row in rows_of(tmp_path, "load")) == 10
    check_tokens(llama[0], prepared)


def test_a_file_spoilt_while_others_are_read_is_computed_again(llama, tmp_path: Path) -> None:
    def spoil_the_last(engine) -> None:
        if loading(engine):
            tiers = engine.scheduler.prefixes.tiers
            last = tiers._loads[0].pieces[-1].kept.node.hash
            (tiers.disk.folder / f"{last:016x}.kv").write_bytes(b"something else")

    prepared, _, summary = serve(llama, tmp_path, SLOW, spoil_the_last, one_comes_back())
    assert summary["tier_damaged"] == 1
    assert labels_of_summary(summary) == ["damaged tier files"]
    assert prepared.requests[3].cached_tokens == 36
    check_tokens(llama[0], prepared)


def test_a_run_that_ends_while_blocks_are_on_their_way_leaves_nothing(llama, tmp_path: Path) -> None:
    seen: list[bool] = []
    prepared, engine, _ = serve(
        llama,
        tmp_path,
        SLOW,
        lambda engine: seen.append(loading(engine)),
        one_comes_back(),
        stop=lambda: any(seen),
    )
    assert prepared.requests[3].end_reason == "cancelled"
    assert engine.scheduler.pool.num_used == 0
    assert not list(engine.scheduler.loads.tables())
    assert not (tmp_path / TIERS_FOLDER).exists()


def test_a_disk_that_is_full_in_the_middle_of_a_run_leaves_what_is_there(llama, tmp_path: Path) -> None:
    """``/dev/full`` in the place of one file: the write of this block fails as on a full disk."""
    names: list[str] = []

    def collect(engine) -> None:
        names.extend(path.name for path in engine.scheduler.prefixes.tiers.disk.folder.glob("*.kv"))

    fast = SLOW.model_copy(update={"link_gb_per_s": None})
    serve(llama, tmp_path / "first", fast, collect)

    def fill_up(engine) -> None:
        if not engine.totals.iterations:
            folder = tmp_path / "second" / TIERS_FOLDER
            folder.mkdir()
            (folder / names[-1]).symlink_to("/dev/full")

    prepared, _, summary = serve(llama, tmp_path / "second", fast, fill_up)
    assert labels_of_summary(summary) == ["disk tier not written"]
    assert summary["tier_damaged"] == 0
    check_tokens(llama[0], prepared)


def test_a_block_is_not_written_before_its_copy_has_ended() -> None:
    """A block of 64 MiB takes a while to copy; it is written as soon as the tiers say that it may be."""
    store = torch.zeros((1, 2, 2**26), dtype=torch.uint8)
    tiers = Tiers([store], 1, 1, None, TierChoice(lambda a, b: 1.0, 1, always=True), asynchronous=True, check=True)
    store[0, 0] = 7
    node = Node(0, 42, [1], None)
    tiers.keep(node, 0)
    tiers.reused([0])
    store[0, 0] = 3
    kept = tiers.find(42)
    assert kept is not None
    tiers.pin([kept])
    assert tiers.end(tiers.begin(make_request(0, [1]), [kept], [1], 0)) == 1
    assert bool((store[0, 1] == 7).all())
    tiers.close()


def test_a_held_prefix_gives_way_to_who_runs_and_needs_room(llama, tmp_path: Path) -> None:
    """The pool holds the running request's blocks or what was loaded, not both: the answer is too long."""
    asked = documents_in_turn()[:4]
    prompt = tuple(random.Random(9).choices(range(8, 200), k=3))
    long = RequestSpec(request_id="long", prompt_token_ids=prompt, max_tokens=40, after="2")
    asked = [*asked[:3], long, asked[3]]
    prepared, engine, _ = serve(llama, tmp_path, SLOW.model_copy(update={"host_mib": 64.0}), asked=asked)
    assert all(r.end_reason == "length" for r in prepared.requests)
    assert engine.totals.preemptions == 0
    check_tokens(llama[0], prepared)
