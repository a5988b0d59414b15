"""``servescope papers run`` and ``papers report``: papers' claims, measured here."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.console import Json, command, emit, say, stdout, table
from app.errors import LabError

if TYPE_CHECKING:
    from app.claims.judge import Judgement


def register(papers: typer.Typer) -> None:
    papers.command("run")(run_claim)
    papers.command()(report)


@command
def run_claim(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A paper whose claim can be run.")],
    quick: Annotated[bool, typer.Option("--quick", help="Smaller sizes and fewer repeats: a minute or two.")] = False,
    json: Json = False,
) -> None:
    """Run a paper's claim and give the verdict.

    Exit code 0 when a verdict was reached, whichever it is. For example: servescope papers run sarathi-serve --quick
    """
    from app.claims.plan import plan_claim
    from app.claims.records import judgement_of_experiment
    from app.commands.compare import follow
    from app.experiments.file import create_experiment
    from app.home import Home
    from app.runs.machine_rates import measure_for

    home = Home.from_environment().prepare()
    experiment, specs = plan_claim(name, quick=quick, measure=measure_for(home, say))
    home.require_space()
    if experiment.sizing:
        say(experiment.sizing)
    create_experiment(home, experiment, specs)
    say(f"{experiment.experiment_id}: {len(experiment.turns)} runs. {experiment.question}")
    if follow(home, experiment.experiment_id):
        say(f"Stopped; what is done is kept. Go on with: servescope compare --resume {experiment.experiment_id}")
        raise typer.Exit(130)
    judgement = judgement_of_experiment(home, experiment.experiment_id)
    if json:
        emit(judgement.as_dict())
    else:
        print_judgement(judgement)


@command
def report(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.html", help="Where the page goes.")],
    json: Json = False,
) -> None:
    """Write one page with every verdict of this machine, its date and its evidence."""
    from app.claims.records import judgements_in, latest
    from app.claims.report import claims_page
    from app.home import Home

    if not output.parent.is_dir():
        raise LabError("no-folder", field="-o", value=str(output), message=f"There is no folder {output.parent}.")
    judgements = judgements_in(Home.from_environment().prepare())
    page = claims_page(judgements)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".report-") as folder:
        whole = Path(folder) / "report"
        whole.write_text(page, encoding="utf-8")
        whole.replace(output)
    if json:
        emit(
            {
                "path": str(output),
                "bytes": len(page.encode()),
                "verdicts": {name: one.verdict for name, one in latest(judgements).items()},
            }
        )
    else:
        say(f"{output}: the verdicts of {len(latest(judgements))} papers.")


def print_judgement(judgement: Judgement) -> None:
    """A verdict as a table of figures and sentences."""
    from app.claims.words import heading, sentences
    from app.experiments.measured import figure_rows

    rows = figure_rows(judgement.figures)
    if rows:
        columns = ("figure", "what it is", "at", "here")
        stdout().print(table(columns, rows, title=f"{judgement.paper}: {heading(judgement)}"))
    else:
        stdout().print(f"{judgement.paper}: {heading(judgement)}", markup=False, highlight=False)
    for sentence in sentences(judgement):
        say(sentence)
