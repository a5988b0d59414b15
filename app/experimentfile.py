"""Experiments on disk: ``HOME/experiments/<id>/experiment.json`` and each variant's spec beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.errors import LabError, nearest
from app.experiment import Experiment, Search, Turn, Variant, check_names
from app.home import EXPERIMENT_FILE, Home, checked_run_id, read_json, write_json
from engine.config import RunSpec

VERSION = 1


def experiment_dir(home: Home, experiment_id: str) -> Path:
    return home.experiments / checked_run_id(experiment_id)


def create_experiment(home: Home, experiment: Experiment, specs: Mapping[str, RunSpec]) -> Path:
    """Write a new experiment: each variant's spec first, the plan last."""
    folder = experiment_dir(home, experiment.experiment_id)
    folder.mkdir(mode=0o700)
    for index, variant in enumerate(experiment.variants):
        write_json(folder / f"variant-{index:02d}.json", specs[variant.name].model_dump(mode="json"))
    write_experiment(home, experiment)
    return folder


def write_experiment(home: Home, experiment: Experiment) -> None:
    write_json(
        experiment_dir(home, experiment.experiment_id) / EXPERIMENT_FILE, {"version": VERSION} | asdict(experiment)
    )


def read_experiment(home: Home, experiment_id: str) -> Experiment:
    """The experiment. Raises ``LabError`` for an unknown or unreadable one."""
    found = read_json(experiment_dir(home, experiment_id) / EXPERIMENT_FILE)
    if found is None:
        close = nearest(experiment_id, home.experiment_ids())
        raise LabError(
            "unknown-experiment",
            field="experiment",
            value=experiment_id,
            message=f"There is no experiment {experiment_id!r}.",
            mend=f"Nearest: {', '.join(close)}." if close else "servescope compare starts one.",
        )
    try:
        return from_document(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LabError(
            "bad-experiment",
            field="experiment",
            value=experiment_id,
            message=f"The experiment's file cannot be read ({type(error).__name__}: {error}).",
            mend="Start the comparison again.",
        ) from error


def from_document(document: Mapping[str, Any]) -> Experiment:
    """An experiment from its JSON object. Raises KeyError, TypeError, ValueError or LabError where it is none."""
    data = dict(document)
    if data.pop("version") != VERSION:
        raise ValueError("it is of another version")
    data["variants"] = tuple(Variant(v["name"], dict(v["settings"])) for v in data["variants"])
    data["turns"] = tuple(Turn(**turn) for turn in data["turns"])
    data["over"] = {key: tuple(values) for key, values in data["over"].items()}
    data["search"] = Search(**data["search"]) if data.get("search") else None
    experiment = Experiment(**data)
    for name in (experiment.experiment_id, *(turn.run_id for turn in experiment.turns if turn.run_id)):
        checked_run_id(name)
    check_names(experiment.variants, 1 if experiment.kind == "capacity" else 2)
    return experiment


def read_specs(home: Home, experiment: Experiment) -> dict[str, RunSpec]:
    """Each variant's spec as it was drawn."""
    folder = experiment_dir(home, experiment.experiment_id)
    return {
        variant.name: RunSpec.model_validate_json((folder / f"variant-{index:02d}.json").read_bytes())
        for index, variant in enumerate(experiment.variants)
    }
