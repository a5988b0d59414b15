"""A rate that cannot hold any more is stopped early and says so; a run that was disturbed is served again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from row_maker import iteration_values, request_values, set_status

from app.experiments import saturation
from app.experiments.disturbed import disturbed_turns, serve_disturbed_again, without_disturbed
from app.experiments.drive import Driver
from app.experiments.file import create_experiment
from app.experiments.judge import result_of_experiment
from app.experiments.plan import Experiment, Variant, plan
from app.experiments.rate_search import capacity_result, plan_capacity
from app.experiments.tables import rates_table
from app.home import Home
from app.runs import disturbances
from app.runs.brief import brief_of
from app.runs.facts import load_run
from app.runs.folder import create_run
from app.runs.listing import entry
from engine.config import RunSpec
from telemetry.recorder import Recorder
from telemetry.status import read_status
from tests.app.lab_process import scenario_file

MS = 1_000_000
SLO = "ttft=100,tpot=100"
Served = Callable[[str], None]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


@pytest.fixture
def timed(tmp_path: Path) -> str:
    path = scenario_file(tmp_path, requests=20)
    path.write_text(path.read_text().replace("{kind: at-once}", "{kind: interval, every_s: 0.05}"))
    return str(path)


class Engine:
    """Serves what a driver submits, on paper: the ``late`` requests of a run wait 900 ms for their first token, the others 20 ms."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.cancelled: list[str] = []

    def submit(self, spec: RunSpec) -> None:
        create_run(self.home, spec)
        set_status(self.home.run_dir(spec.run_id), "running")

    def cancel(self, run_id: str) -> None:
        self.cancelled.append(run_id)
        set_status(self.home.run_dir(run_id), "cancelled", labels=["unfinished"])

    def serve(
        self,
        run_id: str,
        *,
        ended: int,
        late: int = 0,
        state: str = "finished",
        host_cpu: float = 20.0,
        delayed: int = 0,
        long_gaps: int = 0,
    ) -> None:
        """``delayed``: requests that waited 3 s to be scheduled; ``long_gaps``: gaps of 300 ms between two tokens."""
        run_dir = self.home.run_dir(run_id)
        with Recorder(run_dir) as recorder:
            recorder.run("start", "running", environment={"cpu": {"cores": 2}})
            recorder.iteration(**iteration_values(0, decode_requests=1, decode_tokens=1, emitted_tokens=1))
            for request in range(ended):
                first = (900 if request < late else 20) * MS
                scheduled = 3000 * MS if request < delayed else 0
                first += scheduled
                times = {"first_scheduled_ns": scheduled, "first_token_ns": first, "end_ns": first + 90 * MS}
                recorder.request(**request_values(request, **times))
            for gap in range(long_gaps):
                recorder.slices(
                    gap, request=[0], kind="decode", tokens=1, context_len=[9], emitted=1, itl_ns=[300 * MS]
                )
            for second in range(5):
                recorder.device(time_ns=second * 1000 * MS, device="cpu", host_cpu_percent=host_cpu, cpu_percent=40.0)
        set_status(run_dir, state, summary={"workload_hash": brief_of(run_dir).workload_hash})


def driven(home: Home, experiment: Experiment, specs: dict[str, RunSpec]) -> tuple[Driver, Engine]:
    create_experiment(home, experiment, specs)
    engine = Engine(home)
    return Driver(home, experiment.experiment_id, engine.submit, engine.cancel), engine


def begun(driver: Driver) -> str:
    """The run that the driver begins next."""
    while True:
        experiment = driver.step()
        turn = next((turn for turn in experiment.turns if not turn.done), None)
        if turn is not None and turn.run_id:
            return turn.run_id


@pytest.mark.parametrize(("late", "stopped"), [(2, False), (3, True)])
def test_a_rate_is_stopped_once_more_than_a_tenth_of_its_requests_came_too_late(
    home: Home, timed: str, late: int, stopped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saturation, "LOOK_S", 0.0)
    driver, engine = driven(home, *plan_capacity(timed, [Variant("a")], low=20, high=40, tolerance=0.9, slo=SLO))
    engine.serve(begun(driver), ended=4)  # the warm-up
    lowest = begun(driver)
    engine.serve(lowest, ended=20, late=20, state="running")
    driver.step()
    assert engine.cancelled == [], "the lowest rate says what a request alone would see"
    set_status(home.run_dir(lowest), "finished")
    over = driver.step()
    driver.release()
    assert over.turns[1].held is False

    other, specs = plan_capacity(timed, [Variant("a")], low=20, high=40, tolerance=0.9, slo=SLO)
    driver, engine = driven(home, other, specs)
    engine.serve(begun(driver), ended=4)
    engine.serve(begun(driver), ended=20)
    highest = begun(driver)
    engine.serve(highest, ended=5, late=late, state="running")
    driver.step()
    assert (engine.cancelled == [highest]) is stopped
    if not stopped:
        driver.release()
        return
    over = driver.step()
    driver.release()
    assert (over.turns[2].held, over.turns[2].figures["stopped_early"], over.turns[2].attempts) == (False, 1.0, 1)
    result = capacity_result(home, over)
    assert result["variants"]["a"]["bracket"] == [20, 40]
    assert any("stopped early" in note for note in result["notes"])
    assert "no, stopped early" in [cell for row in rates_table(result).cells() for cell in row]
    assert "unfinished" not in result["labels"]


@pytest.mark.parametrize(
    ("missed", "stopped"),
    [
        ({"delayed": 11}, False),  # of 20 requests: the median may still be among the others
        ({"delayed": 12}, True),
        ({"long_gaps": 2}, False),  # of 140 gaps that there can be: p99 may still be below
        ({"long_gaps": 3}, True),
    ],
)
def test_by_sarathis_criterion_any_rate_is_stopped_once_median_or_p99_cannot_hold(
    home: Home, timed: str, missed: dict[str, int], stopped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saturation, "LOOK_S", 0.0)
    search = plan_capacity(timed, [Variant("a")], low=20, high=40, tolerance=0.9, tbt_ms=100)
    driver, engine = driven(home, *search)
    engine.serve(begun(driver), ended=4)  # the warm-up
    lowest = begun(driver)
    engine.serve(lowest, ended=15, state="running", **missed)
    driver.step()
    assert (engine.cancelled == [lowest]) is stopped
    over = driver.step()
    driver.release()
    assert bool(over.turns[1].figures.get("stopped_early")) is stopped
    assert over.turns[1].held is (False if stopped else None)


@pytest.mark.parametrize(("again", "attempts"), [(0, 1), (1, 2)])
def test_a_disturbed_run_is_served_again_as_often_as_the_plan_allows(
    home: Home, timed: str, again: int, attempts: int
) -> None:
    experiment, specs = plan(timed, [Variant("a"), Variant("b", {"policy": "orca"})], 1)
    driver, engine = driven(home, replace(experiment, again=again), specs)
    engine.serve(begun(driver), ended=4, host_cpu=95.0)  # nobody reads a warm-up
    for _ in range(attempts):
        run = begun(driver)
        engine.serve(run, ended=20, host_cpu=95.0)
    over = driver.step()
    driver.release()
    assert (over.turns[1].done, over.turns[1].attempts, over.turns[1].run_id) == (True, attempts, run)
    assert over.turns[0].attempts == 1
    assert read_status(home.run_dir(run))["state"] == "finished"


def test_disturbed_repeats_are_left_out_on_every_side_or_served_again(home: Home, timed: str) -> None:
    experiment, specs = plan(timed, [Variant("a"), Variant("b", {"policy": "orca"})], 2)
    driver, engine = driven(home, experiment, specs)
    engine.serve(begun(driver), ended=4)
    for host_cpu in (20.0, 95.0, 20.0, 20.0):
        engine.serve(begun(driver), ended=20, host_cpu=host_cpu)
    while (over := driver.step()).state == "running":
        pass
    driver.release()
    (disturbed,) = disturbed_turns(home, over)
    assert (disturbed.variant, disturbed.repeat) == ("b", 0)
    calm = without_disturbed(home, over)
    assert [calm.runs_of(name) for name in "ab"] == [[over.runs_of(name)[1]] for name in "ab"]
    assert result_of_experiment(home, over.experiment_id)["repeats"] == 2
    without = result_of_experiment(home, over.experiment_id, calm=True)
    assert (without["repeats"], [about["disturbed"] for about in without["variants"].values()]) == (1, [[], []])

    again = serve_disturbed_again(home, over.experiment_id, 2)
    assert (again.state, again.again) == ("running", 2)
    assert [(t.variant, t.repeat, t.run_id) for t in again.turns if not t.done] == [("b", 0, "")]
    driver = Driver(home, over.experiment_id, engine.submit, engine.cancel)
    engine.serve(begun(driver), ended=20)
    while (mended := driver.step()).state == "running":
        pass
    driver.release()
    assert disturbed_turns(home, mended) == ()
    assert mended.runs_of("a") == over.runs_of("a"), "what was not disturbed stays"


def test_a_list_labels_a_disturbed_run_and_looks_at_its_rows_once(
    home: Home, timed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, specs = plan(timed, [Variant("a"), Variant("b", {"policy": "orca"})], 1)
    driver, engine = driven(home, experiment, specs)
    run = begun(driver)
    assert "disturbed" not in entry(home, run)["labels"], "it goes on"
    engine.serve(run, ended=4, host_cpu=95.0)
    driver.release()
    assert "disturbed" in entry(home, run)["labels"]
    assert "disturbed" in load_run(home, run).labels
    monkeypatch.setattr(disturbances, "_from_rows", None)
    assert "disturbed" in entry(home, run)["labels"]
    assert (home.run_dir(run) / "brief.json").read_text().count("other processes used") == 1
