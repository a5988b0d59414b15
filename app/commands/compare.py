"""``servescope compare`` and ``servescope sweep``: the same requests, served in several ways."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.comparison_results import print_capacity, print_comparison
from app.commands.console import Json, command, emit, say
from app.commands.run import interruptible
from app.errors import LabError
from app.locks import running_lab
from app.settings.written import parse_settings

if TYPE_CHECKING:
    from app.experiments.plan import Experiment
    from app.home import Home

LOOK_S = 0.2
REPEATS = 5
Repeats = Annotated[int, typer.Option("--repeats", min=1, help="How often each variant is served.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting all variants share. Repeatable.")
]
Objective = Annotated[
    str | None,
    typer.Option(
        "--slo", metavar="SLO", help="ttft=250,tpot=100 (ms), 5x (times a request alone), or a preset: strict."
    ),
]
Until = Annotated[
    str | None,
    typer.Option(
        "--until",
        metavar="FIGURE=SHARE",
        help="Add repeats until the figure's ratio is known to this share: itl_ms_p99=5%.",
    ),
]
Most = Annotated[int, typer.Option("--most", min=2, help="With --until: repeats at most.")]
Again = Annotated[
    int, typer.Option("--again", min=0, max=10, help="Serve a run that was disturbed again, up to so many times.")
]
Calm = Annotated[
    bool, typer.Option("--leave-out-disturbed", help="Judge without the repeats in which a run was disturbed.")
]
Seeds = Annotated[bool, typer.Option("--seeds", help="Each repeat asks requests of its own, drawn from another seed.")]
Resume = Annotated[
    str | None,
    typer.Option("--resume", metavar="EXPERIMENT", help="Go on with one; with --again also with its disturbed runs."),
]
Ray = Annotated[
    str | None,
    typer.Option("--ray", metavar="ADDRESS", help="Serve on this Ray cluster (auto: the one of this machine)."),
]


def register(app: typer.Typer) -> None:
    app.command()(compare)
    app.command()(sweep)
    app.command()(capacity)


@command
def compare(
    scenario: Annotated[str | None, typer.Argument(help="A built-in scenario or a .yaml file.")] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option("--variant", metavar="NAME:KEY=VALUE,...", help="A way to serve it. The first is the baseline."),
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option("--repeats", min=1, help=f"How often each variant is served: {REPEATS}, or 2 with --until."),
    ] = None,
    until: Until = None,
    most: Most = 12,
    seeds: Seeds = False,
    again: Again = 0,
    set: Set = None,
    slo: Objective = None,
    ray: Ray = None,
    resume: Resume = None,
    leave_out_disturbed: Calm = False,
    json: Json = False,
) -> None:
    """Serve the same requests in two or more ways, in turns.

    Says what differs and how surely. For example: servescope compare starter --variant on: --variant
    off:chunked_prefill=off
    """
    from app.commands.compare_options import parse_until, parse_variant
    from app.experiments.disturbed import serve_disturbed_again
    from app.experiments.plan import Variant, plan
    from app.home import Home
    from app.runs.machine_rates import measure_for
    from store.slo import DEFAULT_SLO

    home = Home.from_environment().prepare()
    if resume is not None:
        if again:
            serve_disturbed_again(home, resume, again)
        _see_through(home, resume, json, again=True, slo=slo, ray=ray, calm=leave_out_disturbed)
        return
    if scenario is None:
        raise LabError("nothing-named", field="scenario", message="Name a scenario, or give --resume EXPERIMENT.")
    variants = [parse_variant(text) for text in variant or []]
    if len(variants) == 1:
        variants.insert(0, Variant("as it is"))
    stop = parse_until(until, most) if until else None
    several = repeats or (2 if stop else REPEATS)
    experiment, specs = plan(
        scenario,
        variants,
        several,
        common=parse_settings(set or []),
        slo=slo or DEFAULT_SLO,
        measure=measure_for(home, say),
        draws=max(several, most if stop else 0) if seeds else 0,
    )
    _begin(home, replace(experiment, stop=stop, again=again), specs, json, ray, calm=leave_out_disturbed)


@command
def sweep(
    scenario: Annotated[str, typer.Argument(help="A built-in scenario or a .yaml file.")],
    over: Annotated[
        list[str],
        typer.Option("--over", metavar="KEY=V1,V2,...", help="A setting and its values. Give it once or twice."),
    ],
    repeats: Repeats = 2,
    again: Again = 0,
    set: Set = None,
    slo: Objective = None,
    ray: Ray = None,
    json: Json = False,
) -> None:
    """Serve a scenario for every value of a setting.

    Of two settings: for every combination. For example: servescope sweep starter --over
    chunked_prefill.token_budget=32,64,128
    """
    from app.experiments.plan import grid, plan
    from app.home import Home
    from app.runs.machine_rates import measure_for
    from store.slo import DEFAULT_SLO

    home = Home.from_environment().prepare()
    values = {key: [v for v in text.split(",") if v] for key, text in parse_settings(over, "--over").items()}
    experiment, specs = plan(
        scenario,
        grid(values),
        repeats,
        common=parse_settings(set or []),
        kind="sweep",
        over=values,
        slo=slo or DEFAULT_SLO,
        measure=measure_for(home, say),
    )
    _begin(home, replace(experiment, again=again), specs, json, ray)


@command
def capacity(
    scenario: Annotated[str, typer.Argument(help="A built-in scenario or a .yaml file whose requests come over time.")],
    variant: Annotated[
        list[str] | None,
        typer.Option("--variant", metavar="NAME:KEY=VALUE,...", help="A way to serve it. Without any: as it is."),
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, help="How often each rate is served; it holds where most of them do.")
    ] = 1,
    low: Annotated[float | None, typer.Option(help="Lowest rate, requests/s. Default: a quarter of its own.")] = None,
    high: Annotated[float | None, typer.Option(help="Highest rate, requests/s. Default: eight times its own.")] = None,
    tolerance: Annotated[float, typer.Option(min=0.005, max=1.0, help="How closely, as a share of the rate.")] = 0.05,
    tbt: Annotated[
        float | None,
        typer.Option(
            "--tbt", metavar="MS", help="Instead of --slo: p99 inter-token latency, with 2 s of median delay."
        ),
    ] = None,
    again: Again = 0,
    set: Set = None,
    slo: Objective = None,
    ray: Ray = None,
    json: Json = False,
) -> None:
    """Find the highest rate that is still served well.

    Rates of arrivals are tried by bisection. For example: servescope capacity chat --slo ttft=500,tpot=100
    """
    from app.commands.compare_options import parse_variant
    from app.experiments.plan import Variant
    from app.experiments.rate_search import plan_capacity
    from app.home import Home
    from app.runs.machine_rates import measure_for
    from store.slo import DEFAULT_SLO

    home = Home.from_environment().prepare()
    variants = [parse_variant(text) for text in variant or []] or [Variant("as it is")]
    experiment, specs = plan_capacity(
        scenario,
        variants,
        repeats=repeats,
        low=low,
        high=high,
        tolerance=tolerance,
        slo=slo or DEFAULT_SLO,
        measure=measure_for(home, say),
        tbt_ms=tbt,
        common=parse_settings(set or []),
    )
    _begin(home, replace(experiment, again=again), specs, json, ray)


def _begin(
    home: Home, experiment: Experiment, specs: dict[str, Any], json: bool, ray: str | None, *, calm: bool = False
) -> None:
    from app.experiments.drive import runs_planned
    from app.experiments.file import create_experiment
    from app.experiments.rate_search import criterion_in_words
    from app.experiments.stop_rule import stop_in_words

    home.require_space()
    if experiment.sizing:
        say(experiment.sizing)
    waiting = replace(experiment, state="paused") if ray else experiment  # else a lab would take it up first
    create_experiment(home, waiting, specs)
    runs = runs_planned(experiment)
    if experiment.kind == "capacity":
        say(f"{experiment.experiment_id}: at most {runs} runs; a rate holds with {criterion_in_words(experiment)}.")
    elif experiment.stop is not None:
        say(f"{experiment.experiment_id}: at most {runs} runs. {stop_in_words(experiment)}")
    else:
        say(f"{experiment.experiment_id}: {runs} runs, {experiment.repeats} of each variant in turns and a warm-up.")
    _see_through(home, experiment.experiment_id, json, ray=ray, calm=calm)


def _see_through(
    home: Home,
    experiment_id: str,
    json: bool,
    *,
    again: bool = False,
    slo: str | None = None,
    ray: str | None = None,
    calm: bool = False,
) -> None:
    """Follow an experiment to its end, driving it where no lab does, and print the result; ``calm``: without disturbed
    repeats.
    """
    from app.experiments.drive import resume
    from app.experiments.judge import result_of_experiment

    if again:
        resume(home, experiment_id)
    interrupted = _follow_on_ray(home, experiment_id, ray) if ray else follow(home, experiment_id)
    result = result_of_experiment(home, experiment_id, slo, calm=calm)
    if json:
        emit(result)
    elif result["kind"] == "capacity":
        print_capacity(result)
    else:
        print_comparison(result)
    if interrupted:
        say(f"Stopped; what is done is kept. Go on with: servescope compare --resume {experiment_id}")
        raise typer.Exit(130)
    if result["state"] != "finished":
        raise typer.Exit(1)


def _follow_on_ray(home: Home, experiment_id: str, address: str) -> bool:
    """Serve it on a cluster and watch. Returns whether it was interrupted."""
    from filelock import Timeout

    from app.commands.progress import ExperimentProgress
    from app.experiments.cluster import serve_on_ray

    try:
        with interruptible() as asked, ExperimentProgress(home) as display:
            return serve_on_ray(home, experiment_id, address, display.show, asked)
    except Timeout as error:
        raise LabError(
            "in-use",
            field="experiment",
            value=experiment_id,
            message="Another process serves this experiment.",
            mend="Stop it there first.",
        ) from error


def follow(home: Home, experiment_id: str) -> bool:
    """Watch, and drive where nobody else does, until it is over. Returns whether it was interrupted."""
    from filelock import Timeout

    from app.commands.progress import ExperimentProgress
    from app.experiments.drive import Driver, drive_here, pause
    from app.experiments.file import read_experiment
    from app.runs.queue import RunQueue
    from app.server.client import call

    driver: Driver | None = None
    queue: RunQueue | None = None
    told = interrupted = False

    def cancel(run_id: str) -> None:
        lab = running_lab(home)
        if queue is not None:
            queue.cancel(run_id)
        elif lab is not None:
            call(lab, "POST", f"/runs/{run_id}/cancel")

    with interruptible() as asked, ExperimentProgress(home) as display:
        while True:
            lab = running_lab(home)
            if lab is not None and driver is None and not told:
                say(f"The lab at {lab.url} serves this experiment: {lab.url}/compare?experiment={experiment_id}")
                told = True
            if driver is None and lab is None:
                with contextlib.suppress(Timeout):  # another command drives it
                    driver, queue = drive_here(home, experiment_id)
            if queue is not None and driver is not None:
                queue.tick()
                driver.step()
            experiment = read_experiment(home, experiment_id)
            if experiment.state != "running" and not (queue is not None and queue.running()):
                break
            display.show(experiment)
            if asked() and not interrupted:
                interrupted = True
                pause(home, experiment_id, cancel)
            time.sleep(LOOK_S)
    if driver is not None:
        driver.release()
    if experiment.problem:
        say(f"error: {experiment.problem}")
    return interrupted
