"""``servescope queue``: which runs wait, in which order, and another order for them."""

from __future__ import annotations

from typing import Annotated

import typer

from app.commands.console import Json, command, emit, say, stdout, table
from app.errors import LabError


def register(app: typer.Typer) -> None:
    app.command()(queue)


@command
def queue(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="A waiting run to move.")] = None,
    way: Annotated[
        str | None, typer.Argument(metavar="WAY", help="Where to: front (the next to be served), up, down.")
    ] = None,
    json: Json = False,
) -> None:
    """List the runs that are served or wait, or move one.

    For example: servescope queue 20261127-10 front. The order stays when the lab is closed; servescope cancel takes a
    run out.
    """
    from app.home import Home
    from app.locks import running_lab
    from app.runs.listing import entry, find_run
    from app.runs.queue_order import WAYS, move, waiting_runs
    from app.runs.settle import settle_orphans
    from app.server.client import call
    from telemetry.status import ACTIVE_STATES

    home = Home.from_environment().reach()
    settle_orphans(home)
    if run is not None:
        if way is None:
            raise LabError(
                "nothing-named", field="way", message="Say where to move it.", mend=f"One of {', '.join(WAYS)}."
            )
        run_id, lab = find_run(home, run), running_lab(home)
        if lab is None:
            move(home, waiting_runs(home), run_id, way)
        else:
            call(lab, "POST", f"/runs/{run_id}/move", {"way": way})
    known = [entry(home, run_id) for run_id in home.run_ids()]
    serving = [one for one in known if one["status"] in ACTIVE_STATES]
    waiting = [entry(home, run_id) for run_id in waiting_runs(home)]
    if json:
        emit({"running": [one["id"] for one in serving], "queued": [one["id"] for one in waiting]})
        return
    if not serving and not waiting:
        say("No run is served, and none waits.")
        return
    rows = [("now", one) for one in serving] + [(str(n + 1), one) for n, one in enumerate(waiting)]
    columns = ("place", "id", "name", "scenario", "device", "experiment")
    stdout().print(
        table(
            columns,
            (
                (place, one["id"], one["name"], one["scenario"], one["device"], one["experiment_id"])
                for place, one in rows
            ),
            right=("place",),
            whole=("id",),
        )
    )
