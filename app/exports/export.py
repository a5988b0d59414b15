"""``servescope export`` and ``import``: a run or an experiment as a file, and back."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import duckdb

from app.errors import LabError
from app.experiments.file import read_experiment
from app.experiments.judge import judge
from app.experiments.missing_runs import as_it_is, missing_runs
from app.experiments.plan import Experiment
from app.experiments.rate_search import capacity_result
from app.experiments.tables import figures_table, rates_table
from app.exports.csv_files import write_rows, write_table
from app.home import Home
from app.rights import Right, needs
from app.runs.listing import find_run
from store import queries
from store.aside import rows_aside
from store.snapshot import SUFFIX, export_snapshot

FORMATS = (".html", SUFFIX, ".json", ".csv")


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


@needs(Right.EXPORT)
def export(home: Home, name: str, path: Path, slo: str | None = None) -> int:
    """Write a run, an experiment or a report to ``path``, in the format its ending names; returns its size in bytes.

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
    if name in home.report_ids():
        return _report(home, name, path)
    subject = find_subject(home, name)
    if path.suffix == SUFFIX:
        plan = None
        if subject.experiment is not None:
            plan = home.experiment_dir(subject.experiment.experiment_id)
            if subject.experiment.state == "running":
                raise LabError(
                    "unfinished", field="experiment", value=name, message="It is being served; wait or stop it."
                )
        return export_snapshot(path, [home.run_dir(run_id) for run_id in subject.runs], plan)
    if subject.experiment is not None and subject.experiment.kind == "capacity" and path.suffix in (".html", ".csv"):
        from app.exports.rate_search_report import capacity_report

        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            whole = Path(folder) / "export"
            if path.suffix == ".html":
                whole.write_text(capacity_report(home, subject.experiment), encoding="utf-8")
            else:
                write_table(rates_table(capacity_result(home, subject.experiment)), whole)
            whole.replace(path)
        return path.stat().st_size
    with (
        rows_aside(home.runs, subject.runs) as rows,
        tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder,
    ):
        whole = Path(folder) / "export"
        _write(rows.con, subject, whole, path.suffix, slo)
        whole.replace(path)
    return path.stat().st_size


def _report(home: Home, report_id: str, path: Path) -> int:
    from app.exports.pinned_report import pinned_report

    if path.suffix != ".html":
        raise LabError(
            "bad-format",
            field="-o",
            value=str(path),
            message=f"A report is written as .html, not as {path.suffix}.",
            mend="Its runs can be exported in every format.",
        )
    text = pinned_report(home, report_id)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        whole = Path(folder) / "export"
        whole.write_text(text, encoding="utf-8")
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
        write_table(figures_table(judge(con, subject.experiment, slo)), path)
    else:
        table = queries.requests(con, next(iter(subject.runs)))
        write_rows(table.column_names, (row.values() for row in table.to_pylist()), path)
