"""Runs and experiments in one list, newest first: what it says of each, and what of it a reader asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from app.errors import LabError
from app.experiments.file import read_experiment
from app.experiments.plan import Experiment
from app.home import EXPERIMENT_FILE, Home
from app.runs.brief import ATTACHED, REPORTED
from app.runs.listing import list_runs
from app.runs.notes import notes_or_none

KINDS = {
    "run": "run",
    "served": "session at the door",
    "attached": "engine watched",
    "report": "report of a load generator",
    "comparison": "comparison",
    "sweep": "sweep",
    "capacity": "capacity search",
    "verdict": "verdict on a paper",
}
"""What a list holds, and what it is called. A session at the door an engine watched and a report are runs."""
WARM_UP = "warm-up"
Entry = dict[str, Any]


def list_all(home: Home) -> list[Entry]:
    """One entry per run and per experiment, newest first. Both have ``id``, ``kind``, ``name``, ``notes``, ``tags``,
    ``title``, ``scenario``, ``status``, ``labels``, ``model``, ``done``, ``total``, ``problem``, ``created_unix_ns``.
    """
    runs = list_runs(home)
    entries = [*runs, *list_experiments(home, runs)]
    return sorted(entries, key=lambda entry: (entry["created_unix_ns"], entry["id"]), reverse=True)


def list_experiments(home: Home, runs: Iterable[Entry]) -> list[Entry]:
    """One entry per experiment, in no order. ``runs``: of the same store."""
    by_id = {run["id"]: run for run in runs}
    return [_entry(home, experiment_id, by_id) for experiment_id in home.experiment_ids()]


def plan_of(home: Home, experiment_id: str) -> Experiment:
    """The experiment as ``read_experiment`` gives it, read again only when its file has changed."""
    path = home.experiment_dir(experiment_id) / EXPERIMENT_FILE
    try:
        about = path.stat()
    except OSError:
        return read_experiment(home, experiment_id)
    return _read(home, experiment_id, path, about.st_mtime_ns, about.st_size)


def kind_of(experiment: Experiment) -> str:
    """Its kind in ``KINDS``."""
    if experiment.claim is not None:
        return "verdict"
    return "comparison" if experiment.kind == "compare" else experiment.kind


def kind_in_list(entry: Mapping[str, Any]) -> str:
    """An entry's kind in ``KINDS``, told apart from planned runs where clients asked."""
    if not entry.get("served"):
        return str(entry["kind"])
    return entry["scenario"] if entry["scenario"] in (ATTACHED, REPORTED) else "served"


def title_of(entry: Mapping[str, Any]) -> str:
    """What a run or an experiment is called."""
    return str(entry["name"] or entry["title"] or entry["scenario"] or entry["id"])


def folded(entry: Mapping[str, Any], experiments: Iterable[str], *, runs_of_experiments: bool, warm_ups: bool) -> bool:
    """Whether a list leaves an entry out that belongs to an experiment which is listed itself."""
    if WARM_UP in entry["labels"] and entry["kind"] == "run":
        return not warm_ups
    return entry["kind"] == "run" and entry["experiment_id"] in experiments and not runs_of_experiments


def matches(entry: Mapping[str, Any], words: str = "", kinds: Iterable[str] = (), tags: Iterable[str] = ()) -> bool:
    """Whether an entry has all the words somewhere, is of one of the kinds, and has all the tags; nothing asks for
    nothing.
    """
    kinds = tuple(kinds)
    looked_in = " ".join(
        [
            title_of(entry),
            entry["title"],
            entry["notes"],
            entry["scenario"],
            entry["model"],
            entry["id"],
            entry["experiment_id"] or "",
            entry["status"],
            KINDS[kind_in_list(entry)],
            *entry["labels"],
            *entry["tags"],
            *entry.get("variants", ()),
        ]
    ).lower()
    return (
        all(word in looked_in for word in words.lower().split())
        and (not kinds or kind_in_list(entry) in kinds)
        and set(tags) <= set(entry["tags"])
    )


def _entry(home: Home, experiment_id: str, runs: Mapping[str, Entry]) -> Entry:
    notes, bad_notes = notes_or_none(home, experiment_id)
    entry: Entry = {
        "kind": "comparison",
        "id": experiment_id,
        "experiment_id": experiment_id,
        "name": notes.name,
        "notes": notes.notes,
        "tags": list(notes.tags),
        "pinned": notes.pinned,
        "scenario": "",
        "title": "",
        "status": "failed",
        "model": "",
        "done": 0,
        "total": 0,
        "created_unix_ns": 0,
        "started_unix_ns": None,
        "labels": [],
        "error": None,
        "variants": [],
        "served": False,
        "paper": None,
    }
    try:
        plan = plan_of(home, experiment_id)
    except LabError as error:
        return entry | {"problem": "; ".join(filter(None, [error.message, bad_notes]))}
    served = [runs[turn.run_id] for turn in plan.turns if turn.done and turn.run_id in runs]
    return entry | {
        "kind": kind_of(plan),
        "scenario": plan.scenario,
        "title": plan.title,
        "status": plan.state,
        "model": served[0]["model"] if served else "",
        "done": sum(turn.done for turn in plan.turns),
        "total": len(plan.turns),
        "created_unix_ns": plan.created_unix_ns,
        "started_unix_ns": plan.created_unix_ns,
        "labels": sorted({label for run in served for label in run["labels"]} - {WARM_UP}),
        "error": {"message": plan.problem} if plan.problem else None,
        "problem": bad_notes,
        "variants": [variant.name for variant in plan.variants],
        "paper": plan.claim.paper if plan.claim is not None else None,
    }


@lru_cache(maxsize=1024)
def _read(home: Home, experiment_id: str, path: Path, changed_ns: int, size: int) -> Experiment:
    return read_experiment(home, experiment_id)
