"""A lab that lives long: after 200 runs, imports and deletions it holds what it held after the first of them.

Part of ``make soak`` only: it takes a quarter of an hour. SERVESCOPE_SOAK_RUNS sets another number of runs.
"""

from __future__ import annotations

import os
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import pytest

from app.exports.export import export
from app.exports.import_file import import_file
from app.home import Home
from app.runs.trash import empty_trash
from tests.app.lab_process import LabProcess, http, lab_on
from tests.app.small_runs import small_spec, wait_for

RUNS = int(os.environ.get("SERVESCOPE_SOAK_RUNS", "200"))
KEPT = 3  # runs that stay while the others come and go
MIB = 2**20

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.rare,
]


@dataclass(frozen=True)
class Held:
    """What a lab holds at one moment."""

    memory_mib: float  # resident, without pages it shares
    threads: float
    descriptors: float
    processes: float
    database_mib: float  # with its log
    files: float  # in the store, the trash included

    @classmethod
    def by(cls, lab: LabProcess) -> Held:
        process, home = psutil.Process(lab.pid), lab.home
        log = home.database.with_name(f"{home.database.name}.wal")
        stored = home.database.stat().st_size + (log.stat().st_size if log.exists() else 0)
        return cls(
            memory_mib=process.memory_full_info().uss / MIB,
            threads=process.num_threads(),
            descriptors=process.num_fds(),
            processes=len(process.children(recursive=True)),
            database_mib=stored / MIB,
            files=sum(path.is_file() for path in home.root.rglob("*")),
        )


ALLOWED = Held(memory_mib=24, threads=4, descriptors=8, processes=1, database_mib=8, files=4)
"""By how much the middle of the last quarter may lie above that of the second: noise, not growth."""


def test_a_lab_holds_after_many_runs_what_it_held_after_a_few(tmp_path: Path) -> None:
    with lab_on(Home(tmp_path / "home")) as lab:
        for _ in range(KEPT):
            lab.submit(small_spec())
        seen = [one_round(lab, tmp_path / "run.servescope", n) for n in range(RUNS)]
        assert lab.call("GET", "/status")["problems"] == {}
        assert lab.call("GET", "/status")["problem"] is None
        code, errors = lab.stop()
    assert (code, "Traceback" in errors) == (0, False), errors
    quarter = max(1, RUNS // 4)
    early, late = middle_of(seen[quarter : 2 * quarter]), middle_of(seen[-quarter:])
    print(f"after {2 * quarter} runs {early}, after {RUNS} {late}")
    for name, allowed in asdict(ALLOWED).items():
        assert late[name] <= early[name] + allowed, (
            f"{name}: {early[name]:.1f} after {2 * quarter} runs, {late[name]:.1f} after {RUNS}"
        )


def one_round(lab: LabProcess, archive: Path, n: int) -> Held:
    """Serve a run, take it away as a file, delete it, bring it back from the file, look at it, delete it again."""
    home, run_id = lab.home, lab.submit(small_spec(f"life-{n}"))
    counted = f"SELECT count(*) FROM requests WHERE run_id = '{run_id}'"
    wait_for(lambda: lab.sql(counted) == [[4]])
    export(home, run_id, archive)
    lab.call("DELETE", f"/runs/{run_id}")
    wait_for(lambda: lab.sql(counted) == [[0]])
    empty_trash(home)
    assert import_file(home, archive).runs == (run_id,)
    wait_for(lambda: lab.sql(counted) == [[4]])
    bearer = {"Authorization": f"Bearer {lab.address.token}"}
    for path in ("/metrics", "/", "/api/runs"):
        assert http(lab.address, path, headers=bearer)[0] == 200
    lab.call("DELETE", f"/runs/{run_id}")
    lab.call("POST", f"/runs/{run_id}/restore")
    lab.call("DELETE", f"/runs/{run_id}")
    wait_for(lambda: lab.sql(counted) == [[0]])
    empty_trash(home)
    wait_for(lambda: lab.call("GET", "/status")["spare_is_ready"])
    return Held.by(lab)


def middle_of(seen: list[Held]) -> dict[str, float]:
    return {name: statistics.median(getattr(held, name) for held in seen) for name in asdict(seen[0])}
