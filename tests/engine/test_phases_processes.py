"""A run in two processes ends readably whichever of them dies, and leaves neither a process nor shared memory behind."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from engine.config import (
    EngineConfig,
    EngineError,
    KVLayout,
    KVQuantization,
    Placement,
    Preemption,
    PrefixSharing,
    RequestSpec,
    Sampling,
)
from engine.config.errors import IntegrityError
from engine.halves.decode import Fetcher, HalvesRecorder
from engine.halves.line import Line, Prefilled, line_pair
from engine.halves.shared import checksums
from engine.kv.pool import BlockPool
from engine.request import Request
from engine.start.halves import half_of
from telemetry.clock import RunClock
from telemetry.status import end_orphan
from tests.engine.serving import make_spec
from tests.engine.test_worker import TINY, request, rows, start, status, wait_for, write_spec
from tests.engine.two_halves import serve_apart
from tests.row_maker import spooled

APART = TINY.model_copy(update={"threads": 2, "placement": Placement()})
ONE_POOL = TINY.model_copy(update={"threads": 2, "placement": Placement(kind="partitioned", lend=True)})
PARTITIONED = Placement(kind="partitioned")
KINDS = pytest.mark.parametrize("config", [APART, ONE_POOL], ids=["two pools", "one pool"])


def other_half(worker: subprocess.Popen[str]) -> psutil.Process:
    """The prefill half's process."""
    (child,) = psutil.Process(worker.pid).children()
    return child


def under_way(run_dir: Path) -> bool:
    """Whether steps of both halves are on the disk."""
    return {row["half"] for row in spooled(run_dir, "iteration")} == {"prefill", "decode"}


def shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir() if "servescope" in path.name}


def endless(run_dir: Path, config: EngineConfig = APART) -> Path:
    """A run whose prompts keep coming while others are decoded."""
    asked = [request(i, arrival_ns=i * 20_000_000, max_tokens=200) for i in range(400)]
    return write_spec(run_dir, asked, config)


def test_a_run_in_two_processes_leaves_its_rows_and_tells_the_halves_apart(tmp_path: Path) -> None:
    run_dir = write_spec(tmp_path / "whole", [request(i, arrival_ns=i * 1_000_000) for i in range(5)], APART)
    worker = start(run_dir)
    output, _ = worker.communicate(timeout=120)
    assert worker.returncode == 0, output
    final = status(run_dir)
    assert (final["state"], final["error"]) == ("finished", None)
    assert final["summary"]["requests"] == {"total": 5, "finished": 5, "cancelled": 0, "failed": 0}
    assert final["summary"]["kv_capacity_tokens"] == 64 * 16, "of both pools"
    iterations, slices = rows(run_dir, "iteration"), rows(run_dir, "slice")
    assert [row["iteration"] for row in iterations] == list(range(final["summary"]["iterations"]))
    assert {row["half"] for row in iterations if row["prefill_tokens"]} == {"prefill"}
    assert {row["half"] for row in iterations if row["decode_tokens"]} == {"decode"}
    assert {row["blocks_total"] for row in iterations} == {64}
    assert sum(row["emitted_tokens"] for row in iterations) == sum(s["emitted"] for s in slices) == 60
    assert sum(s["tokens"] for s in slices) == 5 * (16 + 11)
    ends = {row["iteration"]: row["end_ns"] for row in iterations}
    handed = {row["request"]: row for row in rows(run_dir, "handover")}
    for row in rows(run_dir, "request"):
        over = handed[row["request"]]
        assert row["arrival_ns"] <= row["first_scheduled_ns"] < row["first_token_ns"] == over["prefilled_ns"]
        assert over["prefilled_ns"] <= over["asked_ns"] <= over["start_ns"] <= over["end_ns"] <= over["joined_ns"]
        assert over["joined_ns"] < row["end_ns"]
        emitted = [s for s in slices if s["request"] == row["request"] and s["emitted"]]
        times = [ends[s["iteration"]] for s in emitted]
        assert [s["itl_ns"] for s in emitted] == [None, *(b - a for a, b in itertools.pairwise(times))]
    blocks = {row["block"] for row in rows(run_dir, "block")}
    assert blocks & set(range(32)), "the decode half's pool"
    assert blocks & set(range(32, 64)), "and the prefill half's"


def test_a_run_with_one_pool_leaves_its_rows_and_copies_nothing(tmp_path: Path) -> None:
    """In a worker that has computed in threads before it knew its run: it begins anew, as those do not outlive a
    fork."""
    asked = [request(i, arrival_ns=i * 1_000_000) for i in range(5)]
    run_dir = write_spec(tmp_path / "whole", asked, ONE_POOL)
    command = [sys.executable, "-m", "engine.worker", "--spare"]
    subprocess.run(command, input=f"{run_dir}\n", text=True, timeout=120, check=True, stdout=subprocess.DEVNULL)
    final = status(run_dir)
    assert (final["state"], final["error"]) == ("finished", None)
    assert final["summary"]["requests"] == {"total": 5, "finished": 5, "cancelled": 0, "failed": 0}
    assert final["summary"]["kv_capacity_tokens"] == 64 * 16
    assert final["summary"]["handed_over"] == 5
    iterations = rows(run_dir, "iteration")
    assert {row["blocks_total"] for row in iterations} == {64}
    assert iterations[-1]["blocks_used"] == 0
    assert {row["half_threads"] for row in iterations} <= {1, 2}
    assert all(row["half_threads"] for row in iterations)
    assert {row["half"] for row in iterations if row["prefill_tokens"]} == {"prefill"}
    assert {row["half"] for row in iterations if row["decode_tokens"]} == {"decode"}
    handed = rows(run_dir, "handover")
    assert [(row["bytes"], row["copies"], row["blocks_kept"]) for row in handed] == [(0, 0, 1)] * 5
    events = [(row["event"], row["block"]) for row in rows(run_dir, "block")]
    taken, freed = ([block for event, block in events if event == what] for what in ("allocate", "free"))
    assert sorted(taken) == sorted(freed), "who frees a block is not who took it, and each is freed once"
    (began, _) = rows(run_dir, "run")
    halves = json.loads(began["model"])["halves"]
    assert min(halves["prefill"]["private_bytes"], halves["decode"]["shared_bytes"]) > 0


@pytest.mark.parametrize(
    ("half", "config"),
    [
        pytest.param("prefill", APART, id="prefill-two pools"),
        pytest.param("decode", ONE_POOL, id="decode-one pool"),
        pytest.param("decode", APART, id="decode-two pools", marks=pytest.mark.rare),
        pytest.param("prefill", ONE_POOL, id="prefill-one pool", marks=pytest.mark.rare),
    ],
)
def test_killing_either_half_ends_the_run_as_crashed(tmp_path: Path, half: str, config: EngineConfig) -> None:
    before, run_dir = shared_memory(), endless(tmp_path / "killed", config)
    worker = start(run_dir)
    wait_for(lambda: under_way(run_dir))
    prefill = other_half(worker)
    (prefill if half == "prefill" else psutil.Process(worker.pid)).kill()
    worker.communicate(timeout=60)
    assert psutil.wait_procs([prefill], timeout=20)[1] == [], "the other half is an orphan"
    if half == "decode":  # nobody of the run is left to say so: whoever looks at it does
        assert end_orphan(run_dir)
    final = status(run_dir)
    assert (final["state"], final["error"]["kind"]) == ("crashed", "crashed")
    assert "unfinished" in final["labels"]
    if half == "prefill":
        assert final["error"]["value"] == "prefill"
        assert worker.returncode == 1
    assert {row["half"] for row in rows(run_dir, "iteration")} == {"prefill", "decode"}, "rows are kept"
    assert shared_memory() == before


@pytest.mark.parametrize(
    "config",
    [pytest.param(APART, id="two pools"), pytest.param(ONE_POOL, id="one pool", marks=pytest.mark.rare)],
)
@pytest.mark.parametrize("half", ["prefill", pytest.param("decode", marks=pytest.mark.rare)])
def test_sigterm_to_either_half_cancels_the_run_and_ends_both(tmp_path: Path, half: str, config: EngineConfig) -> None:
    run_dir = endless(tmp_path / "cancelled", config)
    worker = start(run_dir)
    wait_for(lambda: under_way(run_dir))
    prefill = other_half(worker)
    (prefill if half == "prefill" else worker).send_signal(signal.SIGTERM)
    output, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0, output
    assert psutil.wait_procs([prefill], timeout=20)[1] == []
    final = status(run_dir)
    assert final["state"] == "cancelled"
    ended = [row["end_reason"] for row in rows(run_dir, "request")]
    assert len(ended) == 400, "every request has its row"
    assert "cancelled" in ended


def test_what_the_prefill_half_cannot_load_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    placement = Placement(prefill_memory=1e-9)
    config = APART.model_copy(update={"placement": placement, "kv_blocks": None, "kv_memory_fraction": 0.001})
    run_dir = write_spec(tmp_path / "refused", [request(0)], config)
    worker = start(run_dir)
    output, _ = worker.communicate(timeout=120)
    final = status(run_dir)
    assert final["state"] == "failed", output
    assert final["error"]["field"] == "kv_memory_fraction"
    assert "larger share" in final["error"]["mend"]


@pytest.mark.parametrize(
    ("settings", "field", "words"),
    [
        ({"threads": 1}, "placement", "a thread for each half"),
        ({"threads": 2, "placement": Placement(prefill_threads=2)}, "placement", "leaves the decode half none"),
        ({"kv_blocks": 1}, "kv_blocks", "a block for each half"),
        ({"device": "cuda:0"}, "placement", "Set device to cpu"),
        ({"overlap": "on"}, "placement", "ahead"),
        ({"preemption": Preemption()}, "placement", "again in the decode half"),
        ({"kv_layout": KVLayout()}, "placement", "kv_layout"),
        ({"kv_quantization": KVQuantization(codec="kivi")}, "placement", "exact window"),
        ({"policy": "static"}, "policy", "different processes"),
        ({"placement": PARTITIONED, "device": "cuda:0"}, "placement", "share memory of the host"),
        ({"placement": PARTITIONED, "threads": 1}, "placement", "a thread for each half"),
        ({"placement": PARTITIONED, "prefix_sharing": PrefixSharing()}, "placement", "held by both"),
        ({"placement": PARTITIONED, "policy": "padded"}, "policy", "different processes"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_two_halves_do_not_serve_is_refused_by_name(settings: dict[str, object], field: str, words: str) -> None:
    given = {"device": "cpu", "placement": Placement()} | settings
    with pytest.raises(ValueError, match=words) as refused:
        EngineConfig(**given)
    assert f"\n{field}\n" in str(refused.value)


def test_a_link_of_no_bandwidth_is_refused() -> None:
    with pytest.raises(ValueError, match="link_mb_per_s"):
        Placement(link_mb_per_s=0)


@KINDS
def test_more_threads_than_cores_are_refused(config: EngineConfig) -> None:
    cores = len(os.sched_getaffinity(0))
    with pytest.raises(EngineError, match="need as many cores") as refused:
        half_of(make_spec(config.model_copy(update={"threads": cores + 1}), [request(0)]), "prefill")
    assert (refused.value.field, refused.value.value) == ("threads", cores + 1)


def test_clients_of_a_door_are_not_served_in_two_halves() -> None:
    spec = make_spec(APART, [request(0)]).model_copy(update={"served": True, "requests": ()})
    with pytest.raises(EngineError, match="at the door"):
        half_of(spec, "decode")


def test_each_half_has_its_share_and_both_together_what_was_asked() -> None:
    config = APART.model_copy(update={"kv_blocks": 10, "placement": Placement(prefill_memory=0.25)})
    prefill, decode = (half_of(make_spec(config, [request(0)]), half).engine for half in ("prefill", "decode"))
    assert (prefill.kv_blocks, decode.kv_blocks) == (2, 8)
    assert (prefill.threads, decode.threads) == (1, 1)


def test_a_prompt_that_the_prefill_pool_never_holds_is_refused_and_the_others_are_served(tmp_path: Path) -> None:
    config = TINY.model_copy(
        update={"threads": 2, "kv_blocks": 12, "placement": Placement(prefill_memory=0.2), "check_integrity": True}
    )
    asked = [request(0), request(1, prompt_token_ids=tuple(range(8, 58)), max_tokens=4), request(2)]
    prepared, _, _ = serve_apart(make_spec(config, asked), tmp_path)
    assert [r.end_reason for r in prepared.requests] == ["length", "failed", "length"]
    refusal = prepared.requests[1].refusal
    assert refusal is not None
    assert "prefill half's KV pool holds 32 tokens" in str(refusal)
    assert "1 of 3 requests refused" in prepared.notices


@pytest.mark.parametrize("lend", [False, True])
def test_where_one_pool_is_too_small_for_all_everybody_is_served(tmp_path: Path, lend: bool) -> None:
    """Prompts that wait with their blocks lose them to whoever came before, and are computed again."""
    placement = Placement(kind="partitioned", lend=lend)
    config = ONE_POOL.model_copy(update={"kv_blocks": 10, "max_num_seqs": 3, "check_integrity": True})
    config = config.model_copy(update={"placement": placement})
    asked = [request(i, max_tokens=40) for i in range(12)]
    prepared, decode, _ = serve_apart(make_spec(config, asked), tmp_path)
    assert all(r.end_reason == "length" for r in prepared.requests)
    described = decode.scheduler.preemption.describe()
    assert described["recomputed_in_decode"] > 0, "the pool was not too small"
    assert described["handed_over"] > 0
    assert max(row["blocks_used"] for row in spooled(tmp_path, "iteration")) >= 9


@pytest.mark.parametrize(
    "moved",
    [{"share": "slo", "ttft_ms": 0.01, "tpot_ms": 1e6}, {"share": "cost", "hysteresis": 0.0}],
    ids=["slo", "cost"],
)
def test_the_share_of_a_served_run_moves(
    tmp_path: Path, moved: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that says it has six cores; rows say which threads each half had."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    placement = Placement(kind="partitioned", interval_s=1e-3, **moved)
    config = ONE_POOL.model_copy(update={"threads": 6, "placement": placement})
    asked = [request(i, arrival_ns=i * 5_000_000, max_tokens=30) for i in range(8)]
    prepared, decode, _ = serve_apart(make_spec(config, asked), tmp_path)
    assert all(r.end_reason == "length" for r in prepared.requests)
    assert decode.scheduler.preemption.describe()["share_moves"] > 0
    had = [(row["half"], row["half_threads"]) for row in spooled(tmp_path, "iteration")]
    assert {count for _, count in had} - {3}
    assert all(1 <= count <= 5 for _, count in had)


def test_a_full_decode_pool_holds_up_prefill_and_nobody_is_lost(tmp_path: Path) -> None:
    """Blocks that wait to be fetched fill the prefill half's pool, and planning there waits for the decode half."""
    config = TINY.model_copy(
        update={"threads": 2, "kv_blocks": 8, "placement": Placement(), "check_integrity": True, "max_num_seqs": 2}
    )
    prepared, decode, _ = serve_apart(make_spec(config, [request(i, max_tokens=40) for i in range(12)]), tmp_path)
    assert all(r.end_reason == "length" for r in prepared.requests)
    held = [row["blocks_used"] for row in spooled(tmp_path, "iteration")]
    assert max(held) >= 7, "both pools were full, or nearly"
    queues = [row["asked_ns"] - row["prefilled_ns"] for row in spooled(tmp_path, "handover")]
    assert max(queues) > 3 * min(queues), "who came late waited for room in the decode half"
    assert decode.scheduler.preemption.describe()["transfers"] >= 12


def test_other_bytes_than_were_handed_over_end_the_run(tmp_path: Path) -> None:
    """A block is changed in the prefill half's memory after its checksum was taken."""
    there = torch.arange(4 * 8, dtype=torch.uint8).view(1, 4, 8)
    here = torch.zeros_like(there)
    mine, its = line_pair()
    line, far = Line(mine, "prefill"), Line(its, "decode")
    pool = BlockPool(4, 4)
    recorder = HalvesRecorder(tmp_path, "full", clock := RunClock(), blocks=(4, 4))
    fetcher = Fetcher(pool, [here], [there], line, computed=lambda *_: None, recorder=recorder, clock=clock)
    request = Request(0, RequestSpec(request_id="0", prompt_token_ids=(1,) * 8), [1] * 8, Sampling(), 4)
    request.block_table = pool.allocate(2, 0, 0)
    sums = checksums([there.numpy()], [2, 1])
    fetcher.handed_over(request, Prefilled(0, 5, [2, 1], sums, 0, 0, 0))
    there[0, 1, 3] += 1
    fetcher.back(request)
    with pytest.raises(IntegrityError, match=r"request 0: places \[1\] of its table"):
        fetcher.wait()
    fetcher.close()
    recorder.close()
    line.close()
    far.close()
