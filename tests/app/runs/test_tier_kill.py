"""An engine that is killed while it writes files of the disk tier."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.home import Home
from app.runs.queue import RunQueue
from engine.config import KVTiers, PrefixSharing, RequestSpec
from telemetry.folder import TIERS_FOLDER
from telemetry.status import read_status
from tests.app.small_runs import small_spec, wait_for, wait_for_state
from tests.row_maker import spooled


def actions(run_dir: Path) -> set[str]:
    return {row["action"] for row in spooled(run_dir, "tier")}


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[RunQueue]:
    queue = RunQueue(Home(tmp_path / "home").prepare(), grace_s=5.0)
    queue.start()
    yield queue
    queue.stop()


def test_an_engine_killed_among_its_tier_files_is_settled_as_crashed_and_none_of_them_stays(queue: RunQueue) -> None:
    """Every request evicts the one before; host memory holds few of its blocks, so each step writes files, or waits for
    some over a slow link."""
    dice, home = random.Random(7), queue.home
    tiers = KVTiers(host_mib=0.05, disk_mib=512, codec="delta-fine", load="always", link_gb_per_s=0.0005)
    spec = small_spec(kv_blocks=40, max_num_seqs=1, prefix_sharing=PrefixSharing(), kv_tiers=tiers)
    texts = [tuple(dice.choices(range(10, 250), k=300)) for _ in range(4)]
    asked = (RequestSpec(request_id=str(n), prompt_token_ids=texts[n % 4], max_tokens=2) for n in range(3000))
    run_id = queue.submit(spec.model_copy(update={"requests": tuple(asked)}))
    folder = home.run_dir(run_id) / TIERS_FOLDER
    pid = wait_for_state(home, run_id, "running")["pid"]
    wait_for(lambda: len(list(folder.glob("*.kv"))) > 20 and "load" in actions(home.run_dir(run_id)))
    os.kill(pid, signal.SIGKILL)
    status = wait_for_state(home, run_id, "crashed")
    wait_for(lambda: not folder.exists())
    assert "SIGKILL" in status["error"]["message"]
    assert {"unfinished", "lossy tier codec"} <= set(read_status(home.run_dir(run_id))["labels"])
    rows = spooled(home.run_dir(run_id), "tier")
    assert sum(row["blocks"] for row in rows if (row["tier"], row["action"]) == ("disk", "store")) > 0
    assert spooled(home.run_dir(run_id), "iteration")
