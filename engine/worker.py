"""One engine process per run: ``python -m engine.worker RUN_DIR``.

Reads ``RUN_DIR/spec.json``, serves it, writes ``RUN_DIR/telemetry/*.arrow`` and ``RUN_DIR/status.json``, exits with 0
when the run finished or was cancelled and 1 when it failed. SIGTERM: finish the iteration, flush, exit. ``--spare``
imports and rehearses, prints ``ready`` and waits for one line with a RUN_DIR on standard input; end of input means it
is not needed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from engine.arrivals import Arrivals
from engine.config import EngineError, RunSpec, load_plugins
from engine.door import Door
from engine.executor import Executor
from engine.failures import describe, labels_of, labels_of_summary, state_of, stopped, unrecorded
from engine.fork_server import serve_forks
from engine.halves.decode import HalvesRecorder
from engine.loop import Engine
from engine.model.device import device_uuid
from engine.phases import Progress
from engine.progress import in_flight, progress
from engine.request import Request
from engine.run_facts import describe_model, summarise
from engine.served import told_outputs, told_recorder, until_closed
from engine.speculation.speculator import Speculator
from engine.start.build import allocate, build_engine
from engine.start.halves import DecodeSide, PrefillProcess, half_of
from engine.start.partition import ForkedHalf, begin
from engine.start.peaks import measure_peaks
from engine.start.prepare import prepare
from engine.start.prepared import Prepared
from engine.start.reading_cost import measure_attention
from engine.start.speculation import make_speculator
from engine.start.trial import try_out
from engine.start.warmup import rehearse, warm_up
from telemetry.clock import RunClock
from telemetry.damage import spool_sizes
from telemetry.folder import SPEC
from telemetry.json_file import read_as
from telemetry.limits import MOST_SPEC_BYTES
from telemetry.machine import environment
from telemetry.recorder import Recorder
from telemetry.sampler import DeviceSampler
from telemetry.status import StatusFile

Other = PrefillProcess | ForkedHalf | None
"""The process of the prefill half; None where one process computes both phases."""


class Stop:
    """Turns SIGTERM and SIGINT into a wish that the loop reads after each iteration."""

    def __init__(self, time_limit_s: float | None) -> None:
        self.asked = False
        self.reason = "asked"
        self._limit_s = time_limit_s
        self._deadline = float("inf")
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._ask)
            signal.signal(signal.SIGINT, self._ask)

    def start_clock(self) -> None:
        if self._limit_s is not None:
            self._deadline = time.monotonic() + self._limit_s

    def __call__(self) -> bool:
        if not self.asked and time.monotonic() > self._deadline:
            self.asked, self.reason = True, "time limit"
        return self.asked

    def _ask(self, signum: int, frame: Any) -> None:
        self.asked = True


def run(run_dir: Path) -> int:
    """Serve the run in ``run_dir``; returns the exit code."""
    status = StatusFile(run_dir)
    status.update(state="starting")
    try:
        load_plugins()
        spec = read_as(RunSpec, run_dir / SPEC, MOST_SPEC_BYTES)
        stop = Stop(spec.time_limit_s)
        status.update(state="loading", labels=list(spec.labels))
        with contextlib.ExitStack() as at_end:
            prepared, other = _prepare(run_dir, spec, status, at_end)
            return _serve(run_dir, spec, prepared, status, stop, other)
    except Exception as error:
        traceback.print_exc()
        said = describe(error)
        status.close(state_of(said), error=said, labels=[*status.labels, *labels_of(said)])
        return 1


def _prepare(run_dir: Path, spec: RunSpec, status: StatusFile, at_end: contextlib.ExitStack) -> tuple[Prepared, Other]:
    """What is to be served here, and the process of the prefill half where that is another one."""

    def tell(phase: str, share: float) -> None:
        status.update(progress={"phase": phase, "phase_share": share})

    asked, other = spec.engine.placement, None
    if asked is not None and asked.is_partitioned:
        prepared, forked = begin(spec, run_dir, tell)
        at_end.callback(forked.close)
        return prepared, forked
    if spec.engine.is_apart:
        other = PrefillProcess(run_dir)
        at_end.callback(other.close)
    return prepare(half_of(spec, "decode") if other else spec, tell), other


def _serve(run_dir: Path, spec: RunSpec, prepared: Prepared, status: StatusFile, stop: Stop, other: Other) -> int:
    """``other``: the prefill half, where ``prepared`` is the decode half's."""
    device = prepared.device
    status.update(labels=_labels(spec, prepared))
    ready = _make_ready(prepared, lambda phase, share: status.update(progress={"phase": phase, "phase_share": share}))
    side = other.side(prepared) if other is not None else None
    prepared = prepared if side is None else side.prepared
    labels = _labels(spec, prepared)
    door = Door(run_dir) if spec.served else None
    clock = RunClock()
    recorder = side.recorder(run_dir, clock) if side else told_recorder(door, run_dir, spec.engine.recording, clock)
    uuid = device_uuid(device)
    sampler = DeviceSampler(recorder, str(device), interval_ms=spec.engine.device_sample_ms, uuid=uuid)
    state, error = "failed", None
    engine: Engine | None = None
    where = environment(torch_version=torch.__version__, device=str(device), uuid=uuid)
    try:
        engine, requests = _wire(prepared, ready, recorder, clock, door or side, labels)
        recorder.run(
            "start",
            "running",
            labels=labels,
            spec=spec.model_dump(mode="json", exclude={"requests"}) | {"workload_hash": spec.workload_hash},
            environment=where | {"threads": torch.get_num_threads()},
            peaks=ready.peaks,
            model=describe_model(prepared, ready.executor.graph_bytes) | ready.reading | (side.facts if side else {}),
        )
        sampler.start()
        status.update(state="running")
        status.follow(lambda: {"progress": progress(engine, prepared), "in_flight": in_flight(engine)})
        stop.start_clock()
        engine.run(requests, stop)
        state = "cancelled" if stop.asked else "finished"
        if stop.asked:
            error = stopped(stop.reason)
            labels.append("unfinished")
    except Exception as failure:
        traceback.print_exc()
        error = describe(failure)
        state = state_of(error)
        labels += labels_of(error)
    finally:
        sampler.stop()
        if door is not None:
            door.close()
    summary = summarise(engine, prepared, clock) if engine is not None else None
    if summary is not None and side is not None:
        summary["kv_capacity_tokens"] = side.kv_capacity_tokens
    labels += labels_of_summary(summary or {})
    recorder.run("end", state, labels=labels, error=error, summary=summary)
    recorder.close()
    labels += [label for label in recorder.labels if label not in labels]
    if recorder.problem and error is None:
        error = unrecorded(recorder.problem)
    reached = progress(engine, prepared) if engine is not None else {}
    status.close(state, error=error, labels=labels, summary=summary, progress=reached, spool=spool_sizes(run_dir))
    return 0 if state in ("finished", "cancelled") else 1


def _labels(spec: RunSpec, prepared: Prepared) -> list[str]:
    return list(dict.fromkeys([*spec.labels, *prepared.model.labels, *prepared.notices]))


def _wire(
    prepared: Prepared,
    ready: Ready,
    recorder: Recorder,
    clock: RunClock,
    via: Door | DecodeSide | None,
    labels: list[str],
) -> tuple[Engine, Iterable[Request] | Arrivals]:
    """The engine, and what it is to serve: planned requests, those of a door's clients, or those that the prefill half
    has begun."""
    executor, drafter = ready.executor, ready.drafter
    if isinstance(via, DecodeSide):
        assert isinstance(recorder, HalvesRecorder)
        engine = via.engine(recorder, clock, executor, drafter, ready.peaks)
        return engine, via.arrivals(engine, recorder)
    engine = build_engine(prepared, recorder, clock, executor, drafter, told_outputs(via, prepared))
    return engine, prepared.requests if via is None else until_closed(via, prepared, engine, labels)


class Ready(NamedTuple):
    """All that is made, measured and warmed up before the clock starts."""

    executor: Executor
    drafter: Speculator | None
    peaks: dict[str, float]
    reading: dict[str, Any]


def _make_ready(prepared: Prepared, tell: Progress) -> Ready:
    tell("measuring the device", 0.0)
    peaks = measure_peaks(prepared.device, prepared.model.dtype)
    warm_up(prepared)
    reading = _measure_reading(prepared)
    executor = allocate(prepared, tell)
    drafter = make_speculator(prepared, executor.cache)
    if drafter is not None:
        tell("timing guesses", 0.0)
        try_out(prepared, executor, drafter)
    return Ready(executor, drafter, peaks, reading)


def _measure_reading(prepared: Prepared) -> dict[str, Any]:
    """What attention over the packed cache takes, where there is one. A run does without it where it cannot be
    measured."""
    try:
        seconds = measure_attention(prepared)
    except RuntimeError:
        traceback.print_exc()
        return {}
    return {} if seconds is None else {"kv_attention_s": seconds}


def main(arguments: list[str]) -> int:
    if arguments in (["--spare"], ["--fork-server"]):
        if arguments == ["--spare"]:
            rehearse()
        elif not _fork_rehearsed():
            return 0
        with contextlib.suppress(EngineError):  # the run it gets will say so
            load_plugins()
        print("ready", flush=True)
        line = sys.stdin.readline().strip()
        if not line:
            return 0
        _redirect_output(Path(line))
        if arguments == ["--spare"] and _is_partitioned(Path(line)):  # what computed in threads is not forked
            os.execv(sys.executable, [sys.executable, "-m", "engine.worker", line])
        arguments = [line]
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python -m engine.worker RUN_DIR | --spare | --fork-server", file=sys.stderr)
        return 2
    return run(Path(arguments[0]))


def _is_partitioned(run_dir: Path) -> bool:
    try:
        asked = read_as(RunSpec, run_dir / SPEC, MOST_SPEC_BYTES).engine.placement
    except Exception:  # the run will say what is wrong with it
        return False
    return asked is not None and asked.is_partitioned


def _fork_rehearsed() -> bool:
    """Rehearse in one thread, as threads that computed would be missing in a fork, then serve forks; True in each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rehearse()
    torch.set_num_threads(threads)
    return serve_forks()


def _redirect_output(run_dir: Path) -> None:
    """A spare worker learns late where its log belongs."""
    log = os.open(run_dir / "worker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
