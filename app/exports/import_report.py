"""A load generator's report as a run, to be set beside ours: its figures and no rows of requests."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from app.exports.load_reports import LoadReport, read_reports, stated
from app.home import Home
from app.rights import Right, needs
from app.runs.brief import FOREIGN, REPORTED
from app.runs.folder import create_run
from engine.config import EngineConfig, RunSpec
from store.snapshot_import import Imported
from telemetry.clock import RunClock
from telemetry.damage import spool_sizes
from telemetry.limits import MOST_REQUESTS
from telemetry.process import own_identity
from telemetry.recorder import Recorder
from telemetry.status import StatusFile

LABELS = (FOREIGN, "client's clock", "aggregated")


@needs(Right.KEEP)
def import_report(home: Home, path: Path, named: str = "") -> Imported:
    """Take a report in, a run for each of its measurements; those that are here already are left as they are.

    ``named``: what the file is called, where ``path`` does not say. Raises ``LabError`` for a file that is none.
    """
    reports = read_reports(path)
    home.require_space()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    runs, known = [], []
    for number, report in enumerate(reports, 1):
        run_id = f"report-{digest}-{number}"
        if home.run_dir(run_id).exists():
            known.append(run_id)
            continue
        _record(home, _spec(run_id, report), report, named or path.name)
        runs.append(run_id)
    return Imported(tuple(runs), tuple(known), None)


def _spec(run_id: str, report: LoadReport) -> RunSpec:
    about = " ".join(filter(None, [report.tool, report.version]))
    return RunSpec(
        run_id=run_id,
        scenario=REPORTED,
        title=", ".join(filter(None, [f"Report of {about}", report.model, report.how])),
        served=True,
        engine=EngineConfig(model=report.model or "unknown"),
        labels=LABELS,
        created_unix_ns=time.time_ns(),
        asked_unix_ns=time.time_ns(),
    )


def _record(home: Home, spec: RunSpec, report: LoadReport, name: str) -> None:
    """Write the run, which is over as soon as it is there."""
    run_dir = home.run_dir(spec.run_id)
    create_run(home, spec, supervisor=own_identity())
    status = StatusFile(run_dir)
    labels = list(spec.labels)
    finished, failed = (min(report.requests.get(end, 0), MOST_REQUESTS) for end in ("finished", "failed"))
    summary = {
        "requests": {"total": min(finished + failed, MOST_REQUESTS), "finished": finished, "failed": failed},
        "output_tokens": report.output_tokens,
        "prompt_tokens": report.prompt_tokens,
        "duration_s": report.duration_s,
    }
    status.update(state="starting", labels=labels)
    with Recorder(run_dir, "full", RunClock()) as recorder:
        facts = spec.model_dump(mode="json", exclude={"requests"}) | {"workload_hash": spec.workload_hash}
        recorder.run("start", "running", labels=labels, spec=facts, model={"name": report.model})
        span_ns = None if report.duration_s is None else round(report.duration_s * 1e9)
        for figure, value in stated(report):
            recorder.foreign(
                time_ns=0,
                span_ns=span_ns,
                source="report",
                address=name[:400],
                engine=report.tool,
                engine_version=report.version or None,
                clock="client",
                gap=0,
                name=figure,
                value=value,
            )
        recorder.run("end", "finished", labels=labels, summary=summary)
    status.close("finished", labels=labels, summary=summary, spool=spool_sizes(run_dir))


def is_report(path: Path) -> bool:
    """Whether a file is taken for a report rather than for a snapshot."""
    return path.suffix == ".json"
