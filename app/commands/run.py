"""``servescope run``: serve a scenario and say what came out."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.console import Json, command, emit, say, show_error, stdout, table
from app.errors import LabError
from app.locks import LabAddress, running_lab
from app.settings.written import parse_settings
from telemetry.process import own_identity
from telemetry.status import Status, is_final, read_status, state

if TYPE_CHECKING:
    from app.home import Home
    from engine.config import RunSpec

LOOK_S = 0.1
ENDPOINT_KEY = "SERVESCOPE_ENDPOINT_KEY"


def register(app: typer.Typer) -> None:
    app.command()(run)


@command
def run(
    scenario: Annotated[str, typer.Argument(help="A built-in scenario (servescope scenarios) or a .yaml file.")],
    set: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, such as chunked_prefill=off. Repeatable."),
    ] = None,
    endpoint: Annotated[
        str, typer.Option(help="Have an OpenAI-compatible server at this address answer, instead of the lab's engine.")
    ] = "",
    json: Json = False,
) -> None:
    """Serve a scenario, watch it, and print what came out.

    With --endpoint its requests go to another server at their times, and what its client sees is recorded as foreign.
    A key for it is read from SERVESCOPE_ENDPOINT_KEY.
    """
    from app.home import Home
    from app.runs.result import result_of

    home = Home.from_environment().prepare()
    spec = build_spec(scenario, set or [], home)
    home.require_space()
    if spec.sizing is not None:
        say(spec.sizing.in_words)
    lab = running_lab(home)
    if endpoint:
        from app.door.endpoint_run import run_at_endpoint

        run_at_endpoint(home, spec, endpoint, os.environ.get(ENDPOINT_KEY, ""), say)
        interrupted = False
    else:
        interrupted = _serve_through(lab, home, spec) if lab else _serve_here(home, spec)
    status = read_status(home.run_dir(spec.run_id))
    result = result_of(home, spec.run_id)
    if lab is None:
        index_now(home)
    if json:
        emit(result)
    else:
        print_result(result)
    if state(status) != "finished":
        if status.get("error"):
            show_error(status["error"])
        raise typer.Exit(130 if interrupted else 1)


def build_spec(scenario: str, settings: list[str], home: Home) -> RunSpec:
    """The scenario with ``KEY=VALUE`` settings applied, sized to this machine. A model given as a relative path is made
    absolute.
    """
    import scenarios
    from app.runs.machine_rates import measure_for

    spec = scenarios.build(scenario, parse_settings(settings), measure=measure_for(home, say))
    model = Path(spec.engine.model).expanduser()
    if model.exists():
        spec = spec.model_copy(update={"engine": spec.engine.model_copy(update={"model": str(model.resolve())})})
    return spec


def _serve_here(home: Home, spec: RunSpec) -> bool:
    """Supervise the run in this process. Returns whether it was interrupted."""
    from app.runs.folder import create_run
    from app.runs.queue import RunQueue

    create_run(home, spec, supervisor=own_identity())
    queue = RunQueue(home, only=spec.run_id)
    queue.enqueue(spec.run_id)

    def look() -> str:
        queue.tick()
        return "the device is busy with another run" if queue.queued() else ""

    def done(status: Status) -> bool:
        return is_final(status) and not queue.running()

    return _follow(home, spec.run_id, look, done, lambda: queue.cancel(spec.run_id))


def _serve_through(lab: LabAddress, home: Home, spec: RunSpec) -> bool:
    """Hand the run to the lab's queue. Returns whether it was interrupted."""
    from app.runs.folder import create_run
    from app.runs.queue import RunQueue
    from app.server.client import call

    create_run(home, spec)
    call(lab, "POST", "/runs", {"run_id": spec.run_id})
    say(f"The lab at {lab.url} serves this run: {lab.url}/?run={spec.run_id}")

    own: RunQueue | None = None  # takes the run over should the lab end before it does

    def look() -> str:
        nonlocal own
        if own is None and running_lab(home) is None:
            say("The lab is gone; this command looks after the run from here.")
            own = RunQueue(home, only=spec.run_id)
        if own is not None:
            own.tick()
        return "behind other runs"

    def done(status: Status) -> bool:
        return is_final(status) and not (own is not None and own.running())

    def cancel() -> None:
        if own is not None:
            own.cancel(spec.run_id)
        else:
            call(lab, "POST", f"/runs/{spec.run_id}/cancel")

    return _follow(home, spec.run_id, look, done, cancel)


def _follow(
    home: Home, run_id: str, look: Callable[[], str], done: Callable[[Status], bool], cancel: Callable[[], Any]
) -> bool:
    from app.commands.progress import RunProgress
    from telemetry.folder import is_run

    run_dir = home.run_dir(run_id)
    interrupted = False
    with interruptible() as asked, RunProgress(run_id) as display:
        while True:
            note = look()
            if not is_run(run_dir):
                raise LabError(
                    "run-deleted",
                    field="run",
                    value=run_id,
                    message=f"The run {run_id} was deleted while it waited.",
                    mend=f"Start it again, or bring it back: servescope restore {run_id}",
                )
            status = read_status(run_dir)
            display.show(status, note if state(status) == "queued" else "")
            if done(status):
                return interrupted
            if asked() and not interrupted:
                interrupted = True
                say("Ending the run; what it did is kept.")
                cancel()
            time.sleep(LOOK_S)


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Inside, Ctrl-C and SIGTERM are wishes to be asked for instead of exceptions."""
    wishes: list[int] = []
    before = {
        number: signal.signal(number, lambda n, _: wishes.append(n)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: bool(wishes)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def index_now(home: Home) -> None:
    """Take the run into the database now if nobody has it open; otherwise its owner, or the next one, will."""
    from app.server.indexing import ingest_all

    try:
        ingest_all(home, wait_s=0.0)
    except LabError as error:
        say(f"The run is kept and will be indexed later: {error.message}")


def print_result(result: dict[str, Any]) -> None:
    """A run's result as a table."""
    from app.runs.latencies import ALL, latency_rows
    from store.metrics import STALL_MS
    from store.summary import LATENCY_FIGURES, small_samples

    requests = result["requests"]
    rows: list[tuple[str, Any]] = [
        ("status", ", ".join([result["status"], *result["labels"]])),
        ("requests", f"{requests['finished']} of {requests['total']} finished, {requests['failed']} failed"),
        ("iterations", result["iterations"] or 0),
        (
            "output",
            f"{result['output_tokens'] or 0:,} tokens, {_speed(result)}",
        ),
    ]
    for row in latency_rows(result):
        told = "  ".join(f"{k} {_figure(row.figures.get(k))}" for k in LATENCY_FIGURES)
        whose = "" if row.group == ALL else f"{row.group}: "
        rows.append((f"{whose}{row.short} (ms)", f"{told}  of {row.figures.get('count') or 0:,}"))
    rows += [
        ("objective", _objective(result["slo"])),
        ("stalls", f"{result['stalls']:,} gaps above {STALL_MS:g} ms"),
        ("prefix-cache hits", _hits(result)),
        ("draft tokens", f"{result['accepted_tokens'] or 0:,} of {result['draft_tokens'] or 0:,} accepted"),
        ("preemptions", result["preemptions"]),
    ]
    if result["kv_capacity_tokens"]:
        if result["kv_could_hold_tokens"]:
            rows.append(("KV memory", f"room for {result['kv_could_hold_tokens']:,} tokens"))
        rows.append(
            ("KV pool", f"{result['peak_kv_tokens'] or 0:,} of {result['kv_capacity_tokens']:,} tokens at its fullest")
        )
    stdout().print(table(("", ""), rows, title=result["run_id"]))
    for words in small_samples(result):
        say(words)
    if result["disturbances"]:
        say(f"Disturbed: {'; '.join(result['disturbances'])}.")
    for request in result.get("refused") or []:
        say(f"Request {request['request_id']} was refused: {request['error']}")


def _objective(slo: dict[str, Any]) -> str:
    """How the run met the usual objective."""
    if slo["attainment"] is None:
        return "not known"
    return f"{slo['name']}: {slo['attainment']:.1%} of the requests in time, {_figure(slo['in_time_per_s'])} a second"


def _hits(result: dict[str, Any]) -> str:
    """Prefix-cache hits, and apart from them the tokens that preempted requests found again."""
    again = result.get("preempted_hit_tokens") or 0
    hits = f"{result['prefix_hit_tokens'] or 0:,} tokens"
    return f"{hits}; {again:,} more found again after preemptions" if again else hits


def _speed(result: dict[str, Any]) -> str:
    """The run's rate, and beside it that of its steady state, where the run was long enough to have one."""
    steady = result.get("output_tokens_per_s_steady")
    beside = "" if steady is None else f"; steady {_figure(steady)}"
    return f"{_figure(result['output_tokens_per_s'])} tokens/s{beside}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"
