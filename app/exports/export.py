"""``servescope export`` and ``import``: a run or an experiment as a file, and back."""

from __future__ import annotations

import csv
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
from pydantic import ValidationError

from app.errors import LabError
from app.experiments.file import experiment_dir, read_experiment
from app.experiments.judge import judge
from app.experiments.missing_runs import as_it_is, missing_runs
from app.experiments.plan import Experiment
from app.home import EXPERIMENT_FILE, Home
from app.runs.listing import find_run
from app.words.plain import counted
from engine.config import RunSpec
from store import queries
from store.database import Database
from store.ingest import Collector
from store.plan import parse_plan
from store.snapshot import SUFFIX, export_snapshot
from store.snapshotimport import Imported, import_snapshot

FORMATS = (".html", SUFFIX, ".json", ".csv")
BESIDE_WORDS = {
    "quality.json": "The measured quality",
    "notes.json": "The name and notes",
    "experiment.json": "The record",
}
"""What an import may find here already, for sentences."""


@dataclass(frozen=True)
class Subject:
    """What is exported: an experiment with its finished runs, or one run."""

    runs: dict[str, str]  # id -> name
    experiment: Experiment | None


def find_subject(home: Home, name: str) -> Subject:
    """The experiment or run of this id (of a run, the start of it will do). Raises ``LabError`` for neither."""
    if name in home.experiment_ids():
        whole = read_experiment(home, name)
        experiment, gone = as_it_is(home, whole), {missing.turn.run_id for missing in missing_runs(home, whole)}
        runs = {
            turn.run_id: f"{turn.variant}, repeat {turn.repeat + 1}"
            for variant in experiment.variants
            for turn in experiment.turns_of(variant.name)
            if turn.run_id not in gone
        }
        if not runs:
            raise LabError(
                "unfinished", field="experiment", value=name, message="No run of this experiment is finished yet."
            )
        return Subject(runs, experiment)
    run_id = find_run(home, name)
    return Subject({run_id: run_id}, None)


def export(home: Home, name: str, path: Path, slo: str | None = None) -> int:
    """Write a run or experiment to ``path``, in the format its ending names; returns its size in bytes.

    ``slo``: an objective other than the experiment's, where figures are written.

    Raises ``LabError`` for an unknown id or ending, ``StoreError`` where the runs cannot be exported.
    """
    if path.suffix not in FORMATS:
        raise LabError(
            "bad-format",
            field="-o",
            value=str(path),
            message=f"There is no format {path.suffix or 'without an ending'!r}.",
            mend=f"End the file's name with one of {', '.join(FORMATS)}.",
        )
    if not path.parent.is_dir():
        raise LabError("no-folder", field="-o", value=str(path), message=f"There is no folder {path.parent}.")
    subject = find_subject(home, name)
    if path.suffix == SUFFIX:
        plan = None
        if subject.experiment is not None:
            plan = experiment_dir(home, subject.experiment.experiment_id)
            if subject.experiment.state == "running":
                raise LabError(
                    "unfinished", field="experiment", value=name, message="It is being served; wait or stop it."
                )
        return export_snapshot(path, [home.run_dir(run_id) for run_id in subject.runs], plan)
    if subject.experiment is not None and subject.experiment.kind == "capacity" and path.suffix in (".html", ".csv"):
        from app.exports.rate_search_report import capacity_report, write_capacity_csv

        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            whole = Path(folder) / "export"
            if path.suffix == ".html":
                whole.write_text(capacity_report(home, subject.experiment), encoding="utf-8")
            else:
                write_capacity_csv(home, subject.experiment, whole)
            whole.replace(path)
        return path.stat().st_size
    with Database(Path(":memory:")) as database:
        collector = Collector(home.runs, database)
        for run_id in subject.runs:
            collector.ingest_once(run_id)
        with database.read() as con, tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            whole = Path(folder) / "export"
            _write(con, subject, whole, path.suffix, slo)
            whole.replace(path)
    return path.stat().st_size


def _write(con: duckdb.DuckDBPyConnection, subject: Subject, path: Path, suffix: str, slo: str | None) -> None:
    if suffix == ".html":
        from app.exports.report import experiment_report, run_report

        text = (
            experiment_report(con, subject.experiment, slo)
            if subject.experiment
            else run_report(con, next(iter(subject.runs)))
        )
        path.write_text(text, encoding="utf-8")
    elif suffix == ".json":
        from app.exports.trace import write_trace

        write_trace(con, subject.runs, path)
    elif subject.experiment is not None:
        write_comparison_csv(judge(con, subject.experiment, slo), path)
    else:
        _write_requests_csv(con, next(iter(subject.runs)), path)


def write_comparison_csv(result: dict[str, Any], path: Path) -> None:
    """A row per figure and variant."""
    fields = (
        "value",
        "low",
        "high",
        "difference",
        "difference_low",
        "difference_high",
        "ratio",
        "ratio_low",
        "ratio_high",
    )
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["metric", "variant", *fields, "verdict", "pairs", "repeats"])
        for metric, by_variant in result["metrics"].items():
            for variant, effect in by_variant.items():
                cells: list[Any] = []
                for key in ("value", "difference", "ratio"):
                    around = effect["interval" if key == "value" else f"{key}_interval"] or (None, None)
                    cells += [effect[key], *around]
                writer.writerow(
                    [metric, safe_cell(variant), *cells, effect["verdict"], effect["pairs"], effect["repeats"]]
                )


def _write_requests_csv(con: duckdb.DuckDBPyConnection, run_id: str, path: Path) -> None:
    table = queries.requests(con, run_id)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(table.column_names)
        for row in table.to_pylist():
            writer.writerow([safe_cell(value) for value in row.values()])


def safe_cell(value: Any) -> Any:
    """The value; text that a spreadsheet would run as a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def import_file(home: Home, path: Path) -> Imported:
    """Take a snapshot's runs into this store. Raises ``LabError`` or ``StoreError``; nothing has changed then."""
    if not path.is_file():
        raise LabError("no-file", field="file", value=str(path), message=f"There is no file {path}.")
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
                f"{what} of {_listed(kept)}: here already with other content, and left as it was here. To have the file's "
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
