"""``servescope export`` and ``servescope import``: hand a run or a comparison to someone else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.commands.console import Json, command, emit, say


def register(app: typer.Typer) -> None:
    app.command("export")(export_)
    app.command("import")(import_)


@command
def export_(
    id: Annotated[str, typer.Argument(metavar="ID", help="An experiment, a run or a report.")],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="FILE.html: a page. .servescope: all rows. .json: a trace. .csv: figures."),
    ],
    json: Json = False,
) -> None:
    """Write a run, an experiment or a report to one file.

    The file's ending names the format: .html opens anywhere, offline; .servescope another lab can import.
    """
    from app.exports.export import export
    from app.home import Home

    size = export(Home.from_environment().reach(), id, output)
    if json:
        emit({"path": str(output.resolve()), "bytes": size})
    else:
        say(f"{output}: {size:,} bytes")


@command
def import_(
    file: Annotated[Path, typer.Argument(help="A .servescope file, or a load generator's .json.")],
    json: Json = False,
) -> None:
    """Take in runs of a .servescope file or a load generator.

    Reports are the JSON of GuideLLM, AIPerf and vllm bench serve; each becomes a run, labelled foreign. A run that is
    here already gets what it lacks (measured quality, name and notes); nothing that is here is replaced.
    """
    from app.exports.import_file import import_file, imported_in_words
    from app.home import Home

    imported = import_file(Home.from_environment().prepare(), file)
    runs = [*imported.runs, *imported.known]
    if json:
        emit(
            {
                "runs": runs,
                "new": list(imported.runs),
                "experiment_id": imported.experiment_id,
                "taken": [{"id": owner, "file": name} for owner, name in imported.taken],
                "kept": [{"id": owner, "file": name} for owner, name in imported.kept],
            }
        )
        return
    for sentence in imported_in_words(imported):
        say(sentence)
    if imported.experiment_id:
        say(f"They belong to the experiment {imported.experiment_id}.")
