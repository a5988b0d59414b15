"""Every paper's claim that can be run, measured here: verdicts, and the figures they rest on.

``python -m benchmarks.papers [--quick] [--only NAME,...] [--go-on] [--json FILE] [--check]``

A verdict is no goal: *not reproduced* is an answer. The goals are that every claim reaches one, that none is *invalid*, and that all quick
forms together end within 25 minutes on two cores. FILE is written anew after each claim. With ``--go-on`` claims whose runs are all in the home
(``SERVESCOPE_HOME``) and are those of today's claim file are judged from them and not served again; their time counts.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from app.claims.judge import Judgement
from app.claims.plan import plan_claim
from app.claims.records import claim_experiments, judgement_of_experiment
from app.experiments.drive import drive_here
from app.experiments.file import create_experiment, read_experiment
from app.experiments.measured import figure_rows
from app.home import Home
from app.runs.machine_rates import measure_for
from benchmarks.harness import Report, arguments, some_of
from scenarios.papers import claim_file
from telemetry.refusal import Refusal

MOST_MINUTES = 25.0  # of all quick forms together
LOOK_S = 0.05
FIGURE_COLUMNS = ("figure", "what it is", "at", "here")


def main(words: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="the quick forms")
    papers = claim_file.names()
    parser.add_argument("--only", type=some_of(papers), default=list(papers), help="these papers, with commas between")
    parser.add_argument("--go-on", action="store_true", help="judge what this home has served already from its rows")
    options = parser.parse_args(words)
    asked = options.only
    report = Report("papers")
    report.note_load()
    judgements: dict[str, Judgement] = {}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="servescope-bench-") as folder:
        home = Home(Path(os.environ.get("SERVESCOPE_HOME") or folder)).prepare()
        for name in asked:
            try:
                known = served(home, name, quick=options.quick) if options.go_on else None
                judgements[name], seconds[name] = known or run(home, name, quick=options.quick)
                said = f"{judgements[name].verdict} ({seconds[name]:.0f} s{', served before' if known else ''})"
                report.table(f"{name}: figures", FIGURE_COLUMNS, figure_rows(judgements[name].figures))
            except Refusal as error:
                said = f"no verdict: {error.message}"
            print(f"{name}: {said}", file=sys.stderr, flush=True)
            report.note_load()
            report.details["seconds"] = seconds
            _sum_up(report, judgements, len(asked), sum(seconds.values()) / 60, quick=options.quick)
            if options.json:
                report.save(options.json)  # a run that is cut off keeps the claims it has come to
    rows = [(name, one.verdict, " ".join(one.evidence["reasons"])) for name, one in judgements.items()]
    report.table("Verdicts", ("paper", "verdict", "reasons"), rows)
    return report.finish(options)


def _sum_up(report: Report, judgements: Mapping[str, Judgement], asked: int, minutes: float, *, quick: bool) -> None:
    """Bring the report's figures to the judgements so far, of ``asked`` claims."""
    report.details["judgements"] = {name: one.as_dict() for name, one in judgements.items()}
    report.figures.clear()
    report.figure("claims without a verdict", asked - len(judgements), "", goal=0, better="lower")
    invalid = sum(one.verdict == "invalid" for one in judgements.values())
    report.figure("invalid verdicts", invalid, "", goal=0, better="lower")
    report.figure("all of them", minutes, "min", goal=MOST_MINUTES if quick else None, better="lower")


def served(home: Home, name: str, *, quick: bool) -> tuple[Judgement, float] | None:
    """The verdict from runs that the home has, with the seconds that they took; None where they are not all there."""
    for experiment in claim_experiments(home, name):
        if experiment.claim is None or experiment.claim.quick != quick:
            continue
        with contextlib.suppress(Refusal):
            judgement = judgement_of_experiment(home, experiment.experiment_id)
            if judgement.verdict != "stale":
                return judgement, (judgement.ended_unix_ns - experiment.created_unix_ns) / 1e9
    return None


def run(home: Home, name: str, *, quick: bool) -> tuple[Judgement, float]:
    """Serve a claim's runs and judge them: the verdict, and the seconds it took. Raises ``LabError`` where no verdict
    is reached.
    """
    began = time.monotonic()
    experiment, specs = plan_claim(name, quick=quick, measure=measure_for(home))
    create_experiment(home, experiment, specs)
    driver, queue = drive_here(home, experiment.experiment_id)
    try:
        while driver.step().state == "running":
            queue.tick()
            time.sleep(LOOK_S)
    finally:
        queue.stop()
        driver.release()
    problem = read_experiment(home, experiment.experiment_id).problem
    if problem:
        print(f"{name}: {problem}", file=sys.stderr)
    return judgement_of_experiment(home, experiment.experiment_id), time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
