"""Experiments on disk: ``HOME/experiments/<id>/experiment.json`` and each variant's spec beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from app.errors import LabError, nearest
from app.experiments.plan import draw_key
from app.home import EXPERIMENT_FILE, Home
from app.rights import Right, needs
from app.runs.trash import move_to_trash
from engine.config import RunSpec
from store.plan import Experiment, document_of, read_plan
from telemetry.json_file import Unreadable, read_as, write_json
from telemetry.limits import MOST_SPEC_BYTES


@needs(Right.MEASURE)
def create_experiment(home: Home, experiment: Experiment, specs: Mapping[str, RunSpec]) -> Path:
    """Write a new experiment: its specs first, the plan last."""
    folder = home.experiment_dir(experiment.experiment_id)
    folder.mkdir(mode=0o700)
    for key, name in _files(experiment).items():
        write_json(folder / name, specs[key].model_dump(mode="json"))
    write_experiment(home, experiment)
    return folder


@needs(Right.MEASURE)
def write_experiment(home: Home, experiment: Experiment) -> None:
    """Replace the plan. Raises OSError."""
    write_json(home.experiment_dir(experiment.experiment_id) / EXPERIMENT_FILE, document_of(experiment))


def changing(home: Home, experiment_id: str) -> FileLock:
    """Held from reading a plan to writing it, so that a driver and who stops it lose nothing of each other."""
    return FileLock(home.locks / f"experiment-{experiment_id}-plan.lock")


def write_progress(home: Home, experiment: Experiment) -> Experiment:
    """Write down how far a driver has come, and return it; one that was paused since it was read stays paused."""
    with changing(home, experiment.experiment_id):
        if experiment.state == "running" and read_experiment(home, experiment.experiment_id).state == "paused":
            experiment = replace(experiment, state="paused")
        write_experiment(home, experiment)
    return experiment


def read_experiment(home: Home, experiment_id: str) -> Experiment:
    """The experiment. Raises ``LabError`` for an unknown or unreadable one."""
    try:
        return read_plan(home.experiment_dir(experiment_id))
    except FileNotFoundError:
        close = nearest(experiment_id, home.experiment_ids())
        raise LabError(
            "unknown-experiment",
            field="experiment",
            value=experiment_id,
            message=f"There is no experiment {experiment_id!r}.",
            mend=f"Nearest: {', '.join(close)}." if close else "servescope compare starts one.",
        ) from None
    except Unreadable as error:
        raise _unreadable(experiment_id, error) from error


def read_specs(home: Home, experiment: Experiment) -> dict[str, RunSpec]:
    """Each variant's spec as it was drawn, and further draws as ``plan`` gives them. Raises ``LabError`` where one
    cannot be read.
    """
    folder = home.experiment_dir(experiment.experiment_id)
    try:
        return {key: read_as(RunSpec, folder / name, MOST_SPEC_BYTES) for key, name in _files(experiment).items()}
    except FileNotFoundError as error:
        missing = Unreadable(Path(str(error.filename)), "it is missing")
        raise _unreadable(experiment.experiment_id, missing) from error
    except Unreadable as error:
        raise _unreadable(experiment.experiment_id, error) from error


def _files(experiment: Experiment) -> dict[str, str]:
    """The file of each spec, by what the plan's specs have it by."""
    variants = {variant.name: f"variant-{index:02d}.json" for index, variant in enumerate(experiment.variants)}
    return variants | {draw_key(n): f"draw-{n:03d}.json" for n in range(1, len(experiment.draws))}


@needs(Right.DELETE)
def delete_experiment(home: Home, experiment_id: str) -> None:
    """Move an experiment's plan to the trash, readable or not; its runs stay. Raises ``LabError`` while it goes on, or
    for an unknown one.
    """
    try:
        going_on = read_experiment(home, experiment_id).state == "running"
    except LabError as error:
        if error.kind != "bad-experiment":
            raise
        going_on = False
    if going_on:
        raise LabError(
            "experiment-is-active",
            field="experiment",
            value=experiment_id,
            message=f"The experiment {experiment_id} is still going on.",
            mend="Stop it first.",
        )
    move_to_trash(home.experiment_dir(experiment_id), home.trash_dir(experiment_id))


def _unreadable(experiment_id: str, error: Unreadable) -> LabError:
    return LabError(
        "bad-experiment",
        field="experiment",
        value=experiment_id,
        message=f"Of the experiment {experiment_id}, {error}.",
        mend=f"Start the comparison again; servescope delete {experiment_id} removes this one.",
    )
