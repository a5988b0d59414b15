"""``servescope attach``: watch an engine that is not the lab's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.console import Json, command, emit, say, stdout, table
from app.commands.run import ENDPOINT_KEY, index_now
from app.errors import LabError
from app.locks import running_lab

if TYPE_CHECKING:
    from app.home import Home
    from engine.config import RunSpec


def _address(help: str) -> Any:
    return typer.Option(metavar="ADDRESS", help=help)


def register(app: typer.Typer) -> None:
    app.command()(attach)


@command
def attach(
    url: Annotated[str, typer.Argument(help="Address of a running vLLM, SGLang, llama.cpp server or door.")],
    kv_events: Annotated[str, _address("ZeroMQ publisher of KV-cache events, such as tcp://127.0.0.1:5557.")] = "",
    kv_replay: Annotated[str, _address("Where lost KV events are asked for again: the replay_endpoint.")] = "",
    fpm: Annotated[str, _address("ZeroMQ publisher of forward-pass metrics, tcp:// or ipc://.")] = "",
    spans: Annotated[
        int | None,
        typer.Option(metavar="PORT", help="Take OpenTelemetry spans of requests at this port of 127.0.0.1; 0: any."),
    ] = None,
    every: Annotated[float, typer.Option(help="Seconds between two readings.", min=0.1, max=3600)] = 1.0,
    seconds: Annotated[float, typer.Option(help="End after so long; 0: when Ctrl-C says so.", min=0)] = 0.0,
    device: Annotated[
        str, typer.Option(help="Whose counters to record beside it: cuda:N, none, or auto: this machine's first GPU.")
    ] = "auto",
    beyond_this_machine: Annotated[
        bool, typer.Option("--beyond-this-machine", help="Let the addresses lie on other machines.")
    ] = False,
    run_id: Annotated[str, typer.Option(help="Name of the run; by time if left out.")] = "",
    json: Json = False,
) -> None:
    """Watch another engine by its metrics, and record them as a run.

    Sums are known, labelled foreign and aggregated, and with --spans the latencies of each request. A key for it is
    read from SERVESCOPE_ENDPOINT_KEY. Ctrl-C ends the watch.
    """
    from app.attach.address import watched_at
    from app.attach.watch import attach as watch
    from app.home import Home

    _check_device(device)
    watched = watched_at(url, kv_events, fpm, kv_replay, spans, beyond=beyond_this_machine)
    home = Home.from_environment().prepare()

    def ready(spec: RunSpec) -> None:
        lab = running_lab(home)
        say(f"Watching {spec.title}. Run {spec.run_id}; Ctrl-C ends it.")
        if lab is not None:
            say(f"The lab shows it: {lab.url}/?run={spec.run_id}")

    spec = watch(
        home,
        watched,
        key=os.environ.get(ENDPOINT_KEY, ""),
        device=device,
        every_s=every,
        for_s=seconds or None,
        run_id=run_id,
        say=say,
        ready=ready,
    )
    if running_lab(home) is None:
        index_now(home)
    result = _result(home, spec.run_id)
    if json:
        emit(result)
    else:
        _print(result)
        say(f"The watch is over: servescope show {spec.run_id}")


def _check_device(device: str) -> None:
    if device not in ("auto", "none") and not (device.startswith("cuda:") and device[5:].isdigit()):
        raise LabError(
            "bad-option",
            field="--device",
            value=device,
            message="This is no GPU.",
            mend="Take auto, none, or one as cuda:0.",
        )


def _result(home: Home, run_id: str) -> dict[str, Any]:
    """As of any run, and beside it what the engine told."""
    from app.runs.result import result_of
    from store import foreign
    from store.aside import rows_aside

    with rows_aside(home.runs, [run_id]) as rows:
        figures = foreign.told(rows.con, run_id)
        peers = foreign.peers_query(run_id).rows(rows.con)
        missing = foreign.not_told(rows.con, run_id)
    return result_of(home, run_id) | {"foreign": {"figures": figures, "peers": peers, "not_told": missing}}


def _print(result: dict[str, Any]) -> None:
    from app.words.foreign import figure_in_words, not_told_in_words

    rows = [(figure["title"], *figure_in_words(figure)) for figure in result["foreign"]["figures"]]
    stdout().print(table(("", "", "by"), rows, title=f"{result['run_id']}: {', '.join(result['labels'])}"))
    if result["foreign"]["not_told"]:
        say(not_told_in_words(result["foreign"]["not_told"]))
