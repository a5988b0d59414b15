"""The runs of a store as their folders tell them; needs no database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from app.errors import LabError
from app.home import Home, checked_run_id, deleted_run, unknown_run
from app.runs.brief import Brief, brief_of
from app.runs.disturbances import disturbances_of
from app.runs.notes import notes_or_none
from telemetry.damage import damage_of
from telemetry.folder import is_run
from telemetry.status import LABEL_DAMAGED, LABEL_DISTURBED, Status, read_status, state


def list_runs(home: Home) -> list[dict[str, Any]]:
    """One entry per run, newest first."""
    entries = [entry(home, run_id) for run_id in home.run_ids() if is_run(home.run_dir(run_id))]
    return sorted(entries, key=lambda run: (run["created_unix_ns"], run["run_id"]), reverse=True)


def entry(home: Home, run_id: str) -> dict[str, Any]:
    """What a list says about one run. ``problem``: what is wrong with its files, None where nothing is."""
    run_dir = home.run_dir(run_id)
    status, brief = read_status(run_dir), brief_of(run_dir)
    progress, summary = status.get("progress") or {}, status.get("summary") or {}
    notes, bad_notes = notes_or_none(home, run_id)
    damage = damage_of(run_dir, status)
    total = asked_of(brief, status)
    requests_done = (summary.get("requests") or progress).get("finished", progress.get("requests_done", 0))
    return {
        "kind": "run",
        "id": run_id,
        "run_id": run_id,
        "name": notes.name,
        "notes": notes.notes,
        "tags": list(notes.tags),
        "pinned": notes.pinned,
        "scenario": brief.scenario,
        "title": brief.title,
        "status": state(status),
        "model": str(brief.engine.get("model", "")),
        "device": str(brief.engine.get("device", "")),
        "requests_total": total,
        "requests_done": requests_done,
        "done": requests_done,
        "total": total,
        "iterations": summary.get("iterations", progress.get("iterations", 0)),
        "output_tokens": summary.get("output_tokens", progress.get("output_tokens", 0)),
        "created_unix_ns": brief.created_unix_ns or status.get("queued_unix_ns") or 0,
        "started_unix_ns": status.get("started_unix_ns"),
        "ended_unix_ns": status.get("ended_unix_ns"),
        "labels": list(dict.fromkeys([*(status.get("labels") or brief.labels), *labels_of(run_dir, status)])),
        "error": status.get("error"),
        "problem": "; ".join(filter(None, [brief.problem, bad_notes, *damage.values()])) or None,
        "experiment_id": brief.experiment_id,
        "served": brief.served,
    }


def asked_of(brief: Brief, status: Status) -> int:
    """Requests of a run: planned ahead, or asked by clients so far."""
    if not brief.served:
        return brief.requests
    progress, summary = status.get("progress") or {}, status.get("summary") or {}
    return (summary.get("requests") or {}).get("total") or progress.get("requests_total") or 0


def labels_of(run_dir: Path, status: Status) -> list[str]:
    """A run's labels, with what only its folder shows: that it is damaged, that something disturbed it."""
    labels = list(status.get("labels") or ())
    if damage_of(run_dir, status):
        labels.append(LABEL_DAMAGED)
    if disturbances_of(run_dir, status):
        labels.append(LABEL_DISTURBED)
    return list(dict.fromkeys(labels))


def find_run(home: Home, name: str) -> str:
    """The run of this id, or the only one whose id begins so. Raises ``LabError`` naming near ones otherwise."""
    checked_run_id(name)
    known = [run_id for run_id in home.run_ids() if is_run(home.run_dir(run_id))]
    if name in known:
        return name
    fitting = [run_id for run_id in known if run_id.startswith(name)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise LabError(
            "ambiguous-run",
            field="run",
            value=name,
            message=f"{len(fitting)} runs begin with {name!r}.",
            mend=f"Say which: {', '.join(fitting[-5:])}.",
        )
    raise deleted_run(name) if home.trash_dir(name).is_dir() else unknown_run(name, known)
