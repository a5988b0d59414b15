"""How long a person waits for the first iteration: from opening the lab, and from pressing Start.

- *lab*: from launching ``servescope lab`` on an empty store (already installed, model converted) to the first iteration of the
  starter scenario, which it begins by itself, arriving on the live socket that feeds the page.
- *start*: in a lab that is up, its spare worker waiting with its imports done and the model used before: from writing the run's
  spec to its first iteration on the live socket.

``python -m benchmarks.startup [--repeats N] [--scenario NAME] [--json FILE] [--check]``
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from websockets import Origin
from websockets.sync.client import connect

import scenarios
from app.home import Home
from app.locks import LabAddress, running_lab
from app.runs.folder import create_run
from app.server.client import call
from benchmarks.harness import ROOT, Report, arguments, summarise
from engine.config import EMBEDDED_MODEL, RunSpec
from engine.model.load import model_directory, resolve
from telemetry.status import Status, is_final, read_status

LAB_GOAL_S = 30.0
START_GOAL_S = 3.0
T = TypeVar("T")
PATIENCE_S = 180.0  # after which something is broken rather than slow


def main(words: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="labs opened, and runs started")
    parser.add_argument("--scenario", default="starter", help="what Start starts")
    options = parser.parse_args(words)
    report = Report("startup")
    model_directory(resolve(EMBEDDED_MODEL))  # installed means converted
    opened, started = [], []
    for _ in range(options.repeats):
        report.note_load()
        with tempfile.TemporaryDirectory(prefix="servescope-bench-") as folder:
            home = Home(Path(folder))
            launched = time.perf_counter()
            with lab_process(home) as lab:
                run_id = first_run(home)
                wait_for_iteration(lab, run_id)
                opened.append(time.perf_counter() - launched)
                end_run(home, lab, run_id)
                wait_for_spare(home)
                started.append(time_start(home, lab, options.scenario))
    lab_s, start_s = summarise(opened), summarise(started)
    report.figure("lab to first iteration", lab_s.median, "s", goal=LAB_GOAL_S, better="lower", spread=lab_s.spread)
    report.figure(
        "start to first iteration", start_s.median, "s", goal=START_GOAL_S, better="lower", spread=start_s.spread
    )
    report.details["seconds"] = {"lab": opened, "start": started}
    return report.finish(options)


@contextlib.contextmanager
def lab_process(home: Home, *options: str) -> Iterator[LabAddress]:
    """A lab on a store of its own; ended cleanly when done. ``options``: of ``servescope lab``."""
    environment = os.environ | {"SERVESCOPE_HOME": str(home.root)}
    lab = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "lab", "--port", "0", *options],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield until(lambda: running_lab(home), "the lab to open", lab)
    finally:
        lab.terminate()
        lab.wait(timeout=60)


def first_run(home: Home) -> str:
    """The run that a lab with an empty store starts by itself."""
    return until(lambda: next(iter(home.run_ids()), None), "the starter run")


def time_start(home: Home, lab: LabAddress, scenario: str) -> float:
    """Seconds from a decided workload to its first iteration."""
    spec = scenarios.build(scenario)
    start = time.perf_counter()
    begin_run(home, lab, spec)
    wait_for_iteration(lab, spec.run_id)
    duration = time.perf_counter() - start
    end_run(home, lab, spec.run_id)
    return duration


def wait_for_iteration(lab: LabAddress, run_id: str) -> None:
    """Follow the live socket, as the page does, until it brings an iteration."""
    bearer = {"Authorization": f"Bearer {lab.token}"}
    with connect(
        f"ws://{lab.host}:{lab.port}/live", origin=Origin(lab.url), additional_headers=bearer, proxy=None
    ) as socket:
        socket.send(json.dumps({"token": lab.token, "run": run_id}))
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            message = socket.recv(timeout=PATIENCE_S)
            if isinstance(message, str):
                refuse_failure(message)
            elif rows(message) > 0:
                return
    raise RuntimeError(f"no iteration of {run_id} within {PATIENCE_S:.0f} s")


def rows(frame: bytes) -> int:
    """Iterations in a binary frame; 0 for the other tables."""
    (length,) = struct.unpack_from("<I", frame)
    header = json.loads(frame[4 : 4 + length])
    return int(header["n"]) if header["table"] == "iteration" else 0


def refuse_failure(text: str) -> None:
    """Raise where the run cannot come to an iteration any more."""
    message = json.loads(text)
    if message["type"] == "error" or message.get("state") in ("failed", "crashed"):
        raise RuntimeError(f"the run did not start: {text[:500]}")


def begin_run(home: Home, lab: LabAddress, spec: RunSpec) -> str:
    """Hand a run to the lab; its id."""
    create_run(home, spec)
    call(lab, "POST", "/runs", {"run_id": spec.run_id})
    return spec.run_id


def wait_until_served(home: Home, run_id: str) -> None:
    """Until a run is being served. Raises ``RuntimeError`` with the engine's words where it ended before."""
    status = until(lambda: _begun(home, run_id), f"the run {run_id} to start")
    if is_final(status):
        error = status.get("error") or {}
        raise RuntimeError(f"the run {run_id} is {status.get('state')}: {error.get('field')}: {error.get('message')}")


def _begun(home: Home, run_id: str) -> Status | None:
    status = read_status(home.run_dir(run_id))
    return status if status.get("state") == "running" or is_final(status) else None


def end_run(home: Home, lab: LabAddress, run_id: str) -> None:
    call(lab, "POST", f"/runs/{run_id}/cancel")
    until(lambda: is_final(read_status(home.run_dir(run_id))), "the run to end")


def wait_for_spare(home: Home) -> None:
    """Until a worker waits with its imports done."""
    until(lambda: any(b"ready" in log.read_bytes() for log in home.spare.glob("*.log")), "a spare worker")


def until(ask: Callable[[], T | None], what: str, process: subprocess.Popen[bytes] | None = None) -> T:
    """The first true answer to ``ask``.

    Raises:
        RuntimeError: the process ended, or patience did.
    """
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        answer = ask()
        if answer:
            return answer
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"waited for {what}, and its process ended with {process.returncode}")
        time.sleep(0.01)
    raise RuntimeError(f"waited {PATIENCE_S:.0f} s for {what}")


if __name__ == "__main__":
    sys.exit(main())
