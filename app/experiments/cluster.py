"""Experiments over several GPUs or machines: each run is a Ray task that serves it there and returns its spool.

``pip install servescope[ray]`` on every node; models given as paths must be there under the same path. In a comparison
all runs of a repeat are served by the same node, so that what is set against each other comes from one machine; in a
sweep runs take whichever node is next. A node serves one run at a time per GPU (without one: one at a time). The
experiment's lock is held meanwhile, so that no lab takes it up; a run's folder appears here once it is whole.
"""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from app.errors import LabError
from app.experiments.drive import Driver, pause, resume
from app.experiments.file import read_experiment, read_specs, write_progress
from app.experiments.plan import MOST_ATTEMPTS, Experiment, spec_of_turn, with_turn
from app.experiments.rate_search import measure, next_turn
from app.home import Home
from app.runs.folder import SPEC
from app.runs.process import LOG, SOURCE_ROOT, worker_environment
from app.runs.settle import settle
from engine.config import RunSpec
from telemetry.json_file import write_json
from telemetry.process import IDENTITY_KEYS
from telemetry.refusal import in_words
from telemetry.status import read_status, state, write_status

LOOK_S = 0.2
KNOCK_S = 5.0
MEMBER = re.compile(rf"status\.json|{re.escape(LOG)}|telemetry/[a-z]+\.arrow")
NOT_OURS = (*IDENTITY_KEYS, "supervisor")


@dataclass(frozen=True)
class Node:
    """A machine of the cluster that can serve: its id, and what a run asks of it."""

    node_id: str
    address: str
    cpus: float
    gpus: float


def serve_to_spool(spec_json: str) -> tuple[bytes, float | None]:
    """What a task does: serve the run in a folder of its own; its status, log and rows as a tar, and the load when it
    began.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    spec = RunSpec.model_validate_json(spec_json)
    with tempfile.TemporaryDirectory(prefix="servescope-ray-") as folder:
        run_dir = Path(folder) / spec.run_id
        run_dir.mkdir()
        (run_dir / SPEC).write_text(spec_json, encoding="utf-8")
        write_status(run_dir, state="starting", started_unix_ns=time.time_ns(), labels=list(spec.labels), error=None)
        with (run_dir / LOG).open("wb") as log:
            done = subprocess.run(
                [sys.executable, "-m", "engine.worker", str(run_dir)],
                cwd=SOURCE_ROOT,
                env=worker_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            )
        status = settle(run_dir, exit_code=done.returncode, cancelled=False)
        write_json(run_dir / "status.json", {key: value for key, value in status.items() if key not in NOT_OURS})
        return packed(run_dir), load


def packed(run_dir: Path) -> bytes:
    """The run's status, log and rows as a tar."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for path in sorted(run_dir.rglob("*")):
            name = path.relative_to(run_dir).as_posix()
            if path.is_file() and MEMBER.fullmatch(name):
                archive.add(path, name)
    return sink.getvalue()


def put_in_place(home: Home, spec: RunSpec, data: bytes) -> Path:
    """A returned run as a folder of this store, visible once it is whole. Raises ``LabError`` for what is no run."""
    run_dir = home.run_dir(spec.run_id)
    with tempfile.TemporaryDirectory(dir=home.root, prefix=".ray-") as folder:
        whole = Path(folder) / "run"
        (whole / "telemetry").mkdir(parents=True)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive.getmembers():
                source = archive.extractfile(member) if member.isfile() and MEMBER.fullmatch(member.name) else None
                if source is None:
                    raise LabError(
                        "bad-spool", field="run", value=spec.run_id, message=f"A node returned {member.name!r}."
                    )
                with (whole / member.name).open("wb") as target:
                    shutil.copyfileobj(source, target)
        write_json(whole / SPEC, spec.model_dump(mode="json"))
        whole.rename(run_dir)
    return run_dir


def _knock(address: str) -> None:
    """Raise ``OSError`` at once where nobody listens at ``host:port``: Ray itself asks again for minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()


class Cluster:
    """A Ray cluster as a place to serve runs. Raises ``LabError`` where Ray is missing or nobody answers."""

    def __init__(self, address: str) -> None:
        try:
            import ray
        except ImportError as error:
            raise LabError(
                "no-ray",
                field="--ray",
                value=address,
                message="Ray is not installed.",
                mend="pip install 'servescope[ray]'",
            ) from error
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
        try:
            _knock(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True)
        except (OSError, OverflowError, ValueError, RuntimeError) as error:
            raise LabError(
                "no-cluster",
                field="--ray",
                value=address,
                message=f"No Ray cluster answers at {address}: {str(error).splitlines()[0]}",
                mend="Start one: ray start --head, then ray start --address=HEAD:6379 on every other machine.",
            ) from error
        self._ray = ray
        self._task = ray.remote(max_retries=0)(serve_to_spool)

    def nodes(self, device: str) -> list[Node]:
        """Living nodes that can serve on the device, by address. Raises ``LabError`` where there is none."""
        living = []
        for about in self._ray.nodes():
            has = about["Resources"]
            node = Node(about["NodeID"], about["NodeManagerAddress"], has.get("CPU", 0.0), has.get("GPU", 0.0))
            if about["Alive"] and (node.gpus >= 1 if device.startswith("cuda") else node.cpus >= 1):
                living.append(node)
        if not living:
            what = "a GPU" if device.startswith("cuda") else "a free CPU"
            raise LabError("no-node", field="--ray", value=device, message=f"No node of the cluster has {what}.")
        return sorted(living, key=lambda node: (node.address, node.node_id))

    def submit(self, spec: RunSpec, node: Node) -> Any:
        """Start a run on a node; what ``result`` asks for."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        on_gpu = spec.engine.device.startswith("cuda") or (spec.engine.device == "auto" and node.gpus >= 1)
        needs = {"num_gpus": 1.0, "num_cpus": min(1.0, node.cpus)} if on_gpu else {"num_cpus": node.cpus}
        where = NodeAffinitySchedulingStrategy(node.node_id, soft=True)
        return self._task.options(scheduling_strategy=where, **needs).remote(spec.model_dump_json())

    def finished(self, tasks: list[Any]) -> list[Any]:
        """Those of the tasks that are over."""
        return list(self._ray.wait(tasks, num_returns=len(tasks), timeout=0)[0]) if tasks else []

    def result(self, task: Any) -> tuple[bytes, float | None] | str:
        """What a task that is over returned, or why it did not."""
        try:
            answer: tuple[bytes, float | None] = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            return str(error).splitlines()[0]
        return answer

    def cancel(self, task: Any) -> None:
        self._ray.cancel(task, force=True)

    def close(self) -> None:
        self._ray.shutdown()


def serve_on_ray(
    home: Home,
    experiment_id: str,
    address: str,
    show: Callable[[Experiment], object],
    asked_to_stop: Callable[[], bool],
) -> bool:
    """Serve what is left of an experiment on a cluster; returns whether it was interrupted.

    Raises ``LabError``: no Ray, no cluster, no node that fits; ``Timeout`` where somebody else drives the experiment.
    """
    driver = Driver(home, experiment_id, lambda spec: None)  # for its lock
    cluster: Cluster | None = None
    try:
        specs = read_specs(home, read_experiment(home, experiment_id))
        cluster = Cluster(address)
        resume(home, experiment_id)
        device = next(iter(specs.values())).engine.device
        return _Serving(home, experiment_id, specs, cluster, cluster.nodes(device)).run(show, asked_to_stop)
    finally:
        if cluster is not None:
            cluster.close()
        driver.release()


class _Serving:
    """The runs of one experiment on their way."""

    def __init__(
        self, home: Home, experiment_id: str, specs: dict[str, RunSpec], cluster: Cluster, nodes: list[Node]
    ) -> None:
        self._home, self._id, self._specs = home, experiment_id, specs
        self._cluster, self._nodes = cluster, nodes
        self._tasks: dict[int, tuple[Any, RunSpec]] = {}  # turn -> task, what it serves

    def run(self, show: Callable[[Experiment], object], asked_to_stop: Callable[[], bool]) -> bool:
        while True:
            experiment = self._collect(self._experiment())
            if experiment.state == "running":
                experiment = self._begin(experiment)
            show(experiment)
            if experiment.state != "running":
                break
            if asked_to_stop():
                pause(self._home, self._id)
                break
            time.sleep(LOOK_S)
        for task, _ in self._tasks.values():
            self._cluster.cancel(task)
        return self._experiment().state == "paused"

    def _experiment(self) -> Experiment:
        return read_experiment(self._home, self._id)

    def _write(self, experiment: Experiment) -> Experiment:
        return write_progress(self._home, experiment)

    def _begin(self, experiment: Experiment) -> Experiment:
        """Hand out every run that may begin: the warm-up alone, then all; of a search the one that was decided last."""
        if all(turn.done for turn in experiment.turns):
            following = next_turn(experiment) if experiment.kind == "capacity" else None
            if following is None:
                return self._write(replace(experiment, state="finished"))
            experiment = self._write(replace(experiment, turns=(*experiment.turns, following)))
        for index, turn in enumerate(experiment.turns):
            if turn.done or index in self._tasks:
                continue
            spec = spec_of_turn(self._specs, experiment, index)
            place = turn.repeat if experiment.kind == "compare" else index
            changes = {"run_id": spec.run_id, "attempts": turn.attempts + 1}
            experiment = self._write(with_turn(experiment, index, **changes))
            if experiment.state != "running":
                break
            self._tasks[index] = (self._cluster.submit(spec, self._nodes[place % len(self._nodes)]), spec)
            if turn.warm_up:
                for node in self._nodes[1:]:  # the others warm up too; what they did is not kept
                    self._cluster.submit(spec, node)
                break
        return experiment

    def _collect(self, experiment: Experiment) -> Experiment:
        """Take in the runs that are over."""
        over = self._cluster.finished([task for task, _ in self._tasks.values()])
        for index, (task, spec) in list(self._tasks.items()):
            if task not in over:
                continue
            del self._tasks[index]
            result = self._cluster.result(task)
            turn = experiment.turns[index]
            if isinstance(result, str):
                if turn.attempts >= MOST_ATTEMPTS:
                    problem = f"Run {spec.run_id} was lost on the cluster: {result}"
                    return self._write(replace(experiment, state="failed", problem=problem))
                continue
            data, load = result
            status = read_status(put_in_place(self._home, spec, data))
            if state(status) != "finished":
                error = status.get("error") or {}
                problem = f"Run {spec.run_id} {state(status)}: {in_words(error)}"
                return self._write(replace(experiment, state="failed", problem=problem.strip()))
            changes: dict[str, Any] = {"done": True, "load": load}
            if experiment.kind == "capacity" and not turn.warm_up:
                held, figures = measure(self._home, experiment, replace(turn, run_id=spec.run_id))
                changes |= {"held": held, "figures": figures}
            experiment = self._write(with_turn(experiment, index, **changes))
        return experiment
