"""The runs of a store as their folders tell them; needs no database."""

from __future__ import annotations

from typing import Any

from app.errors import LabError
from app.home import Home, checked_run_id, read_json, unknown_run
from app.notes import read_notes
from app.rundir import SPEC, is_run
from app.status import read_status, state


def list_runs(home: Home) -> list[dict[str, Any]]:
    """One entry per run, newest first."""
    found = [entry(home, run_id) for run_id in home.run_ids() if is_run(home.run_dir(run_id))]
    return sorted(found, key=lambda run: (run["created_unix_ns"], run["run_id"]), reverse=True)


def entry(home: Home, run_id: str) -> dict[str, Any]:
    """What a list says about one run."""
    run_dir = home.run_dir(run_id)
    status, spec = read_status(run_dir), read_json(run_dir / SPEC) or {}
    progress, summary = status.get("progress") or {}, status.get("summary") or {}
    engine, notes = spec.get("engine") or {}, read_notes(home, run_id)
    return {
        "run_id": run_id,
        "name": notes.name,
        "notes": notes.notes,
        "scenario": spec.get("scenario", ""),
        "title": spec.get("title", ""),
        "status": state(status),
        "model": engine.get("model", ""),
        "device": engine.get("device", ""),
        "requests_total": len(spec.get("requests") or ()),
        "requests_done": (summary.get("requests") or progress).get("finished", progress.get("requests_done", 0)),
        "iterations": summary.get("iterations", progress.get("iterations", 0)),
        "output_tokens": summary.get("output_tokens", progress.get("output_tokens", 0)),
        "created_unix_ns": spec.get("created_unix_ns") or status.get("queued_unix_ns") or 0,
        "started_unix_ns": status.get("started_unix_ns"),
        "ended_unix_ns": status.get("ended_unix_ns"),
        "labels": list(status.get("labels") or spec.get("labels") or ()),
        "error": status.get("error"),
        "experiment_id": spec.get("experiment_id"),
    }


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
    raise unknown_run(name, known)
