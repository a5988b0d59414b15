"""Workers forked from a process that has done their imports: same runs, same endings, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app.home import Home
from app.runs import fork_server, process
from app.runs.folder import create_run
from app.runs.fork_server import ForkServer
from app.runs.process import SOURCE_ROOT, EngineProcess
from telemetry.process import is_alive
from telemetry.status import read_status
from tests.app.small_runs import endless_spec, small_spec, wait_for

STARTS_A_SPARE = """
import json, sys, time
from pathlib import Path
from app.home import Home
from app.runs import fork_server, process
home = Home(Path(sys.argv[1])).prepare()
environment = process.worker_environment()
process.start_fork_server(environment)
server = fork_server.server_for(environment)
while not server.is_ready:
    time.sleep(0.02)
spare = process.EngineProcess.start(home, environment)
print(json.dumps([server._process.pid, spare.pid]), flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    """A server of these tests' own, in place of the one that other tests share."""
    environment = process.worker_environment()
    ours = ForkServer(SOURCE_ROOT, environment)
    wait_for(lambda: ours.is_ready)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fork_server, "_here", [(environment, ours)])
        yield ours
    ours._process.kill()
    ours._process.wait()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path).prepare()


def serve(home: Home, **values) -> tuple[EngineProcess, Path]:
    run_dir = create_run(home, small_spec(**values))
    worker = EngineProcess.start(home, process.worker_environment())
    worker.serve(run_dir)
    return worker, run_dir


def test_a_forked_worker_serves_its_run_and_its_end_is_known(home: Home, server: ForkServer) -> None:
    worker, run_dir = serve(home)
    assert psutil.Process(worker.pid).ppid() == server._process.pid
    wait_for(lambda: os.getpgid(worker.pid) == worker.pid)  # it makes its session once it runs
    wait_for(lambda: not worker.is_alive())
    assert worker.exit_code() == 0
    assert read_status(run_dir)["state"] == "finished"
    assert list(home.spare.iterdir()) == []


def test_several_workers_at_once_report_their_own_ends(home: Home, server: ForkServer) -> None:
    served = [serve(home, run_id=f"run-{n}") for n in range(3)]
    served.append(serve(home, run_id="refused", model="no/such-directory/at-all"))
    wait_for(lambda: not any(worker.is_alive() for worker, _ in served))
    assert [worker.exit_code() for worker, _ in served] == [0, 0, 0, 1]


def test_the_signal_that_ended_a_forked_worker_is_known(home: Home, server: ForkServer) -> None:
    worker = EngineProcess.start(home, process.worker_environment())
    run_dir = create_run(home, endless_spec())
    worker.serve(run_dir)
    wait_for(lambda: read_status(run_dir)["state"] == "running")
    worker.kill()
    wait_for(lambda: not worker.is_alive())
    assert worker.exit_code() == -signal.SIGKILL


def test_a_forked_spare_that_is_sent_away_leaves_nothing(home: Home, server: ForkServer) -> None:
    spare = EngineProcess.start(home, process.worker_environment())
    wait_for(lambda: spare.is_ready)
    spare.dismiss()
    assert not is_alive(spare.identity)
    assert list(home.spare.iterdir()) == []


def test_in_another_environment_a_worker_is_a_new_process(
    home: Home, server: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVESCOPE_PLUGINS", "nothing.of.the.kind")
    spare = EngineProcess.start(home, process.worker_environment())
    assert psutil.Process(spare.pid).ppid() == os.getpid()
    spare.dismiss()


def test_where_there_is_a_gpu_no_server_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "_here", [])
    monkeypatch.setattr(fork_server, "gpu_count", lambda: 1)
    process.start_fork_server(process.worker_environment())
    assert fork_server._here == []


def test_a_supervisor_that_is_killed_takes_server_and_spare_with_it(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTS_A_SPARE, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=SOURCE_ROOT
    ) as supervisor:
        assert supervisor.stdout is not None
        pids = json.loads(supervisor.stdout.readline())
        assert all(psutil.pid_exists(pid) for pid in pids)
        supervisor.kill()
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in pids))


def test_a_server_that_is_killed_costs_no_run(home: Home, server: ForkServer) -> None:
    """Last of this file. The worker it forked goes on; the next one is a new process."""
    worker, run_dir = serve(home, run_id="before")
    server._process.kill()
    server._process.wait()
    after, after_dir = serve(home, run_id="after")
    wait_for(lambda: not worker.is_alive() and not after.is_alive())
    assert (worker.exit_code(), after.exit_code()) == (None, 0)
    assert [read_status(folder)["state"] for folder in (run_dir, after_dir)] == ["finished", "finished"]
