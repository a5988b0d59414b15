"""``servescope runs``, ``show``, ``scenarios``, ``tag``, ``cancel``, ``delete``, ``restore``: looking at runs and
tidying them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.console import Json, command, emit, say, show_error, stdout, table
from app.errors import LabError

if TYPE_CHECKING:
    from app.home import Home

LOOK_S = 0.1
RunId = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's id; the start of it will do where only one run fits.")
]


def register(app: typer.Typer) -> None:
    for function in (runs, show, scenarios, tag, cancel, delete, restore):
        app.command()(function)


@command
def runs(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WORD", help="Only what has every word in its name, notes, tags, scenario, model or id."
        ),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind", metavar="KIND", help="Only run, served, attached, report, comparison, sweep ... Repeatable."
        ),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="TAG", help="Only what has this tag. Repeatable.")
    ] = None,
    json: Json = False,
) -> None:
    """List the runs and experiments of this store, newest first."""
    from app.experiments.listing import KINDS, kind_in_list, list_all, matches, title_of
    from app.home import Home
    from app.runs.settle import settle_orphans

    wrong = next((one for one in kind or () if one not in KINDS), None)
    if wrong is not None:
        raise LabError(
            "bad-kind",
            field="--kind",
            value=wrong,
            message=f"There is no kind {wrong!r}.",
            mend=f"Take one of {', '.join(KINDS)}.",
        )
    home = Home.from_environment()
    settle_orphans(home)
    everything = list_all(home)
    entries = [entry for entry in everything if matches(entry, " ".join(words or ()), kind or (), tag or ())]
    if json:
        single = [entry for entry in entries if entry["kind"] == "run"]
        emit({"runs": single, "experiments": [entry for entry in entries if entry["kind"] != "run"]})
        return
    if not entries:
        say("Nothing is like that." if everything else "There is no run yet. Serve one: servescope run starter")
        return
    columns = ("id", "kind", "name", "scenario", "done", "tags", "status")
    rows = (
        (
            entry["id"],
            KINDS[kind_in_list(entry)],
            title_of(entry) if entry["kind"] != "run" else entry["name"],
            entry["scenario"],
            f"{entry['done']}/{entry['total']}",
            ", ".join(entry["tags"]),
            ", ".join([entry["status"], *entry["labels"]]),
        )
        for entry in entries
    )
    stdout().print(table(columns, rows, right=("done",), whole=("id", "scenario")))
    for entry in entries:
        if entry["problem"]:
            say(f"{entry['id']}: {entry['problem']}. servescope delete {entry['id']} removes it.")


@command
def tag(
    id: Annotated[str, typer.Argument(metavar="ID", help="A run or an experiment.")],
    tags: Annotated[list[str] | None, typer.Argument(metavar="TAG", help="Tags to give it.")] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", metavar="TAG", help="A tag to take away.")] = None,
    pin: Annotated[
        bool | None, typer.Option("--pin/--unpin", help="Whether it is never deleted to make room (retention).")
    ] = None,
    json: Json = False,
) -> None:
    """Tag or pin a run or an experiment, or say its tags."""
    from app.home import Home
    from app.runs.listing import find_run
    from app.runs.notes import notes_or_none, write_notes

    home = Home.from_environment().reach()
    name = id if id in home.experiment_ids() else find_run(home, id)
    notes = notes_or_none(home, name)[0]
    kept = [one for one in notes.tags if one not in (remove or ())]
    if tags or remove or pin is not None:
        notes = write_notes(home, name, tags=[*kept, *(tags or ())], pinned=pin)
    words = f"{name}: {', '.join(notes.tags) or 'no tags'}{', pinned' if notes.pinned else ''}"
    _done({"id": name, "tags": list(notes.tags)} | ({} if pin is None else {"pinned": pin}), words, json)


@command
def show(
    run: RunId,
    beside: Annotated[
        str | None,
        typer.Option("--beside", metavar="RUN", help="Another run of the same requests, in a column of its own."),
    ] = None,
    why: Annotated[
        str | None,
        typer.Option("--why", metavar="REQUEST", help="Why this request (its number or name) was not served sooner."),
    ] = None,
    json: Json = False,
) -> None:
    """A run, two runs side by side, or why a request waited."""
    from app.commands.comparison_results import print_pair
    from app.commands.run import print_result
    from app.experiments.pair import pair_of
    from app.home import Home
    from app.runs.listing import find_run
    from app.runs.result import result_of
    from app.runs.settle import settle_orphans

    home = Home.from_environment()
    settle_orphans(home)
    if why is not None and beside is not None:
        raise LabError(
            "bad-request",
            field="why",
            value=why,
            message="--why and --beside cannot be given together.",
            mend="Ask twice.",
        )
    if why is not None:
        _why(home, find_run(home, run), why, json)
        return
    if beside is not None:
        pair = pair_of(home, find_run(home, run), find_run(home, beside))
        if json:
            emit(pair)
        else:
            print_pair(pair)
        return
    result = result_of(home, find_run(home, run))
    if json:
        emit(result)
        return
    print_result(result)
    if result["problem"]:
        say(f"problem: {result['problem']}")
    if result["error"]:
        show_error(result["error"])


def _why(home: Home, run_id: str, request: str, json: bool) -> None:
    """Say what a request waited for, and what the engine computed between its tokens."""
    from app.panels.why import request_number, why_not_sooner
    from store.aside import rows_aside

    with rows_aside(home.runs, [run_id]) as rows:
        told = why_not_sooner(rows.con, run_id, request_number(rows.con, run_id, request))
    if json:
        emit(told)
        return
    for sentence in (*told["says"], *told["details"]):
        typer.echo(sentence)


@command
def scenarios(
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of scenario files, for editors.")
    ] = False,
    json: Json = False,
) -> None:
    """List the built-in scenarios, and those saved from the page."""
    from scenarios import available
    from scenarios.file_schema import schema_text
    from scenarios.load import own_scenarios

    if schema:
        typer.echo(schema_text(), nl=False)
        return
    own, wrong = own_scenarios()
    for error in wrong:
        show_error(error.as_dict())
    known = [*available(), *own]
    entries = [{"name": s.name, "title": s.title, "summary": s.summary, "path": str(s.path)} for s in known]
    if json:
        emit({"scenarios": entries})
    else:
        stdout().print(table(("name", "title"), ((s["name"], s["title"]) for s in entries), whole=("name",)))


@command
def cancel(
    run: Annotated[str, typer.Argument(metavar="ID", help="A run, or the start of its id; or an experiment.")],
    json: Json = False,
) -> None:
    """Cancel or end a run, or stop an experiment; rows are kept.

    A run that does not end when it is asked to is killed after 15 seconds, whoever serves it.
    """
    from app.home import Home
    from app.runs.listing import find_run

    home = Home.from_environment().reach()
    if run in home.experiment_ids():
        _stop_experiment(home, run)
        words = f"{run} is stopped; servescope compare --resume {run} goes on with it."
        _done({"experiment_id": run, "stopped": True}, words, json)
        return
    run_id = find_run(home, run)
    _end_run(home, run_id)
    _done({"run_id": run_id, "cancelled": True}, f"{run_id} is cancelled.{_served_again(home, run_id)}", json)


def _stop_experiment(home: Home, experiment_id: str) -> None:
    """Raises ``LabError`` for one that does not go on."""
    from app.experiments.drive import pause
    from app.experiments.file import read_experiment

    state = read_experiment(home, experiment_id).state
    if state != "running":
        message = f"The experiment {experiment_id} does not go on: it is {state}."
        raise LabError("not-running", field="experiment", value=experiment_id, message=message)
    pause(home, experiment_id, lambda run_id: _end_run(home, run_id))


def _served_again(home: Home, run_id: str) -> str:
    """What to say of a run that its experiment will serve once more."""
    from app.experiments.file import read_experiment
    from app.runs.brief import brief_of

    experiment_id = brief_of(home.run_dir(run_id)).experiment_id
    if experiment_id not in home.experiment_ids() or read_experiment(home, experiment_id).state != "running":
        return ""
    return f" Its experiment goes on and serves it again; servescope cancel {experiment_id} stops that."


def _end_run(home: Home, run_id: str) -> None:
    """Have a run ended and wait for it. Raises ``LabError`` where it was over before."""
    from app.locks import running_lab
    from app.runs.queue import RunQueue
    from app.server.client import call
    from telemetry.folder import is_run
    from telemetry.status import is_final, read_status, state

    lab = running_lab(home)
    own: RunQueue | None = None
    if lab is None:
        own = RunQueue(home, only="none")
        asked = own.cancel(run_id)
    else:
        asked = call(lab, "POST", f"/runs/{run_id}/cancel")["cancelled"]
    if not asked:
        raise LabError("run-ended", field="run", value=run_id, message=f"The run {run_id} has ended already.")
    run_dir = home.run_dir(run_id)
    while is_run(run_dir) and not is_final(read_status(run_dir)):
        if own is None and running_lab(home) is None:  # it went while we waited
            own = RunQueue(home, only="none")
            own.cancel(run_id)
        if own is not None:
            own.tick()
        time.sleep(LOOK_S)
    if is_run(run_dir) and state(read_status(run_dir)) == "finished":
        raise LabError("run-ended", field="run", value=run_id, message=f"The run {run_id} finished before it was told.")


@command
def delete(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="The run, or the experiment, to move to the trash.")
    ] = None,
    empty_trash: Annotated[bool, typer.Option("--empty-trash", help="Remove what is in the trash for good.")] = False,
    json: Json = False,
) -> None:
    """Move a run or an experiment to the trash, or empty the trash.

    Of an experiment the plan; its runs stay. servescope restore brings either back.
    """
    from app.experiments.file import delete_experiment
    from app.experiments.missing_runs import what_rests_on
    from app.home import Home
    from app.runs import trash
    from app.runs.brief import brief_of
    from app.runs.listing import find_run

    home = Home.from_environment().reach()
    if run is None and not empty_trash:
        raise LabError("nothing-named", field="run", message="Name a run, or give --empty-trash.")
    moved, cost = None, None
    if run is not None and run in home.experiment_ids():
        moved = run
        delete_experiment(home, moved)
    elif run is not None:
        moved = find_run(home, run)
        cost = what_rests_on(home, moved, brief_of(home.run_dir(moved)).experiment_id)
        trash.delete_run(home, moved)
    removed = trash.empty_trash(home) if empty_trash else []
    words = [f"{moved} is in the trash; servescope restore {moved} brings it back."] if moved else []
    words += [cost] if cost else []
    words += [f"Removed for good: {', '.join(removed) or 'nothing'}."] if empty_trash else []
    _done({"deleted": moved, "removed": removed}, " ".join(words), json)


@command
def restore(run: Annotated[str, typer.Argument(metavar="RUN", help="A run in the trash.")], json: Json = False) -> None:
    """Bring a deleted run back."""
    from app.home import Home
    from app.runs import trash

    trash.restore_run(Home.from_environment().reach(), run)
    _done({"run_id": run, "restored": True}, f"{run} is back.", json)


def _done(value: dict[str, Any], words: str, json: bool) -> None:
    if json:
        emit(value)
    else:
        say(words)
