"""Runs small enough for tests: real engine, random tiny weights, token ids as prompts."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from app.experiments.drive import drive_here
from app.experiments.file import create_experiment, write_experiment
from app.experiments.plan import Experiment, spec_of_turn, with_turn
from app.home import Home
from app.runs.folder import create_run
from app.runs.process import SOURCE_ROOT, worker_environment
from engine.config import EngineConfig, RequestSpec, RunSpec, Sampling
from telemetry.status import Status, is_final, read_status, state

PATIENCE_S = 120.0
_numbers = itertools.count()
SERVE = "import sys, pathlib, engine.worker; [engine.worker.run(pathlib.Path(folder)) for folder in sys.argv[1:]]"


def small_spec(run_id: str | None = None, *, requests: int = 4, tokens: int = 8, **engine: object) -> RunSpec:
    """A run of well under a second once the engine is up."""
    settings = {"model": "random:tiny", "device": "cpu", "threads": 1, "kv_blocks": 600, "max_num_seqs": 4} | engine
    return RunSpec(
        run_id=run_id or f"small-{next(_numbers)}",
        scenario="test",
        title="A small run",
        engine=EngineConfig.model_validate(settings),
        requests=tuple(
            RequestSpec(
                request_id=f"r{n}",
                prompt_token_ids=tuple(range(1, 20)),
                max_tokens=tokens,
                sampling=Sampling(ignore_eos=True),
            )
            for n in range(requests)
        ),
        created_unix_ns=time.time_ns(),
    )


def endless_spec(run_id: str | None = None, **engine: object) -> RunSpec:
    """A run that a test always outlives: it ends by being cancelled or killed."""
    return small_spec(run_id, requests=4000, tokens=2000, **engine)


def calm_spec(run_id: str | None = None) -> RunSpec:
    """As endless, but requests come one after the other and the engine rests in between: what looks at it has the processor."""
    spec = small_spec(run_id, requests=4000, tokens=30)
    paced = tuple(r.model_copy(update={"arrival_ns": n * 100_000_000}) for n, r in enumerate(spec.requests))
    return spec.model_copy(update={"requests": paced})


def wait_for(what: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """Poll until ``what()`` is true; fail the test if it never is."""
    deadline = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < deadline, f"waited {patience_s:g} s in vain"
        time.sleep(0.02)


def served_experiment(home: Home, experiment: Experiment, specs: dict[str, RunSpec]) -> str:
    """An experiment that is over, whoever drove it: all its runs served by one process, since what takes time is to import the engine.
    Returns its id.
    """
    create_experiment(home, experiment, specs)
    folders = []
    for index in range(len(experiment.turns)):
        spec = spec_of_turn(specs, experiment, index)
        folders.append(str(create_run(home, spec)))
        experiment = with_turn(experiment, index, run_id=spec.run_id, done=True, attempts=1)
    subprocess.run([sys.executable, "-c", SERVE, *folders], check=True, cwd=SOURCE_ROOT, env=worker_environment())
    write_experiment(home, replace(experiment, state="finished"))
    return experiment.experiment_id


def experiment_here(
    home: Home, experiment: Experiment, specs: dict[str, RunSpec], until: Callable[[Experiment], bool] | None = None
) -> str:
    """Carry out an experiment in this process, to its end or until what is asked for is true of it; returns its id."""
    create_experiment(home, experiment, specs)
    driver, queue = drive_here(home, experiment.experiment_id)
    enough = until or (lambda now: now.state == "finished")
    wait_for(lambda: queue.tick() or enough(driver.step()))
    queue.stop()
    driver.release()
    return experiment.experiment_id


def wait_for_state(home: Home, run_id: str, *states: str) -> Status:
    """Poll ``status.json`` until it shows one of the states; a final state that was not asked for fails at once."""
    run_dir = home.run_dir(run_id)

    def there() -> bool:
        status = read_status(run_dir)
        assert state(status) in states or not is_final(status), status
        return state(status) in states

    wait_for(there)
    return read_status(run_dir)


def spooled(run_dir: Path, row: str = "iteration") -> int:
    """Bytes of one row type in the spool."""
    path = run_dir / "telemetry" / f"{row}.arrow"
    return path.stat().st_size if path.exists() else 0
