"""``servescope import``: what a snapshot brings into this store."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from app.errors import LabError
from app.exports.import_report import import_report, is_report
from app.home import EXPERIMENT_FILE, Home
from app.rights import Right, needs
from app.words.plain import counted
from engine.config import RunSpec
from store.plan import parse_plan
from store.snapshot_import import Imported, import_snapshot

BESIDE_WORDS = {
    "quality.json": "The measured quality",
    "notes.json": "The name and notes",
    "experiment.json": "The record",
}
"""What an import may find here already, for sentences."""


@needs(Right.KEEP)
def import_file(home: Home, path: Path, named: str = "") -> Imported:
    """Take a snapshot's runs, or a load generator's report, into this store. ``named``: what the file is
    called, where ``path`` does not say. Raises ``LabError`` or ``StoreError``; nothing has changed then."""
    if not path.is_file():
        raise LabError("no-file", field="file", value=str(path), message=f"There is no file {path}.")
    if is_report(path):
        return import_report(home, path, named)
    return import_snapshot(path, home.runs, home.experiments, home.root, _run_of_spec, _experiment_of)


def imported_in_words(imported: Imported) -> list[str]:
    """What an import brought, and what it left as it was, in sentences."""
    said = [f"{counted(len(imported.runs), 'run')} imported, {len(imported.known)} were here already."]
    for name, what in BESIDE_WORDS.items():
        taken = [owner for owner, file in imported.taken if file == name]
        kept = [owner for owner, file in imported.kept if file == name]
        if taken:
            said.append(f"{what} of {_listed(taken)}: missing here, and taken over from the file.")
        if kept:
            said.append(
                f"{what} of {_listed(kept)}: here already with other content, and left as it was here. To have the "
                f"file's "
                "instead, delete the run here and import again."
            )
    return said


def _listed(ids: list[str], most: int = 3) -> str:
    return ", ".join(ids) if len(ids) <= most else f"{', '.join(ids[:most])} and {len(ids) - most} more"


def _run_of_spec(data: bytes) -> str:
    try:
        return RunSpec.model_validate_json(data).run_id
    except ValidationError as error:
        raise ValueError(str(error)) from error


def _experiment_of(data: bytes) -> str:
    experiment = parse_plan(data, Path(EXPERIMENT_FILE))
    if experiment.state == "running":
        raise ValueError("it is not over")
    return experiment.experiment_id
