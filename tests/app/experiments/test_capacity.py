"""Capacity: rates tried one after the other, each decided by the last; gone on with wherever it stopped."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from app.errors import LabError
from app.experiments.drive import drive_here, runs_planned, seconds_left
from app.experiments.file import create_experiment, read_experiment, write_experiment
from app.experiments.judge import result_of_experiment
from app.experiments.plan import Experiment, Turn, Variant, at_rate, natural_rate, spec_of_turn
from app.experiments.rate_points import rate_points, wilson
from app.experiments.rate_search import (
    capacity_result,
    criterion_in_words,
    most_runs,
    next_turn,
    plan_capacity,
    repeats_in_words,
)
from app.exports.export import export
from app.exports.rate_search_report import capacity_report
from app.home import Home
from app.words.states import DISTURBED_RATES
from store.errors import StoreError
from tests.app.lab_process import scenario_file, servescope
from tests.app.small_runs import wait_for


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


@pytest.fixture
def timed(tmp_path: Path) -> str:
    path = scenario_file(tmp_path)
    path.write_text(path.read_text().replace("{kind: at-once}", "{kind: interval, every_s: 0.05}"))
    return str(path)


def answer(experiment: Experiment, knees: dict[str, float]) -> Experiment:
    """Play the search with variants that hold up to known rates."""
    experiment = replace(experiment, turns=(replace(experiment.turns[0], done=True),))
    while (turn := next_turn(experiment)) is not None:
        assert turn.rate is not None
        done = replace(turn, done=True, held=turn.rate <= knees[turn.variant], figures={"attainment": 1.0})
        experiment = replace(experiment, turns=(*experiment.turns, done))
    return experiment


def test_the_same_requests_come_faster(timed: str) -> None:
    _, specs = plan_capacity(timed, [Variant("a")])
    assert natural_rate(specs["a"]) == pytest.approx(20)
    faster = at_rate(specs["a"], 80)
    assert natural_rate(faster) == pytest.approx(80)
    assert [r.model_dump(exclude={"arrival_ns"}) for r in faster.requests] == [
        r.model_dump(exclude={"arrival_ns"}) for r in specs["a"].requests
    ]


def test_every_variant_gets_its_own_bracket_and_they_take_turns(timed: str, home: Home) -> None:
    planned, specs = plan_capacity(timed, [Variant("a"), Variant("b", {"policy": "orca"})], low=1, high=64)
    answered = answer(planned, {"a": 10, "b": 25})
    assert runs_planned(answered) == most_runs(answered) >= len(answered.turns)
    assert [turn.variant for turn in answered.turns[1:5]] == ["a", "b", "a", "b"]
    result = capacity_result(home, answered)
    for name, knee in (("a", 10), ("b", 25)):
        held, failed = result["variants"][name]["bracket"]
        assert held <= knee < failed <= 1.051 * held
    assert "x2.5" in result["summary"][1]
    served = spec_of_turn(specs, answered, 3)
    assert natural_rate(served) == pytest.approx(answered.turns[3].rate)


def flickering(experiment: Experiment, says: dict[float, list[bool]]) -> Experiment:
    """Play a search whose rates say something else from time to time."""
    experiment = replace(experiment, turns=(replace(experiment.turns[0], done=True),))
    while (turn := next_turn(experiment)) is not None:
        assert turn.rate is not None
        held = says[turn.rate].pop(0)
        figures = {"attainment": 1.0, "disturbances": 0.0 if held else 1.0}
        done = replace(turn, done=True, held=held, figures=figures, run_id=f"r{len(experiment.turns)}")
        experiment = replace(experiment, turns=(*experiment.turns, done))
    return experiment


def test_a_rate_is_served_until_most_of_its_repeats_agree(timed: str, home: Home) -> None:
    planned, specs = plan_capacity(timed, [Variant("a")], low=20, high=40, tolerance=1.0, repeats=3)
    assert planned.repeats == 3
    says = {20.0: [True, False, True], 40.0: [False, False, True]}
    answered = flickering(planned, says)
    assert [turn.rate for turn in answered.turns[1:]] == [20, 20, 20, 40, 40]
    assert says == {20.0: [], 40.0: [True]}, "the third run at 40 could not change the answer"
    assert len(answered.turns) <= most_runs(answered) == 1 + 3 * most_runs(replace(answered, repeats=1)) - 3
    result = capacity_result(home, answered)
    assert result["variants"]["a"]["bracket"] == [20, 40]
    assert repeats_in_words(3) == "Each rate was served up to 3 times, and holds where most of these do."
    assert spec_of_turn(specs, answered, 3).title.endswith("20 requests/s, repeat 3")


def test_of_two_repeats_both_must_hold(timed: str) -> None:
    planned, _ = plan_capacity(timed, [Variant("a")], low=20, high=40, tolerance=1.0, repeats=2)
    answered = flickering(planned, {20.0: [True, False], 40.0: []})
    assert [turn.held for turn in answered.turns[1:]] == [True, False]


def test_a_disturbed_search_says_so_in_its_result_and_in_its_file(timed: str, home: Home) -> None:
    planned, _ = plan_capacity(timed, [Variant("a")], low=20, high=40, tolerance=1.0)
    quiet, disturbed = (
        flickering(planned, {20.0: [True], 40.0: [True]}),
        flickering(planned, {20.0: [True], 40.0: [False]}),
    )
    assert capacity_result(home, quiet)["variants"]["a"]["disturbed"] == []
    assert capacity_result(home, disturbed)["variants"]["a"]["disturbed"] == ["r2"]
    assert [capacity_result(home, one)["labels"] for one in (quiet, disturbed)] == [[], ["disturbed"]]
    assert DISTURBED_RATES in capacity_report(home, disturbed)
    assert DISTURBED_RATES not in capacity_report(home, quiet)


def test_a_range_that_says_nothing_is_said(timed: str, home: Home) -> None:
    planned, _ = plan_capacity(timed, [Variant("a")], low=1, high=64)
    never, always = answer(planned, {"a": 0}), answer(planned, {"a": 1000})
    assert "not even the lowest" in capacity_result(home, never)["summary"][0]
    assert "at least 64" in capacity_result(home, always)["summary"][0]
    assert len(never.turns) == 2
    assert len(always.turns) == 3


def test_bad_searches_are_refused(timed: str, tmp_path: Path) -> None:
    (tmp_path / "once").mkdir()
    with pytest.raises(LabError, match="no rate"):
        plan_capacity(str(scenario_file(tmp_path / "once")), [Variant("a")])
    with pytest.raises(LabError, match="0 < low < high"):
        plan_capacity(timed, [Variant("a")], low=8, high=2)
    with pytest.raises(StoreError, match="no objective"):
        plan_capacity(timed, [Variant("a")], slo="soon")


def test_a_search_is_served_and_goes_on_where_its_driver_was_lost(home: Home, timed: str, tmp_path: Path) -> None:
    experiment, specs = plan_capacity(
        timed, [Variant("a")], low=20, high=40, tolerance=0.9, slo="ttft=60000,tpot=60000"
    )
    create_experiment(home, experiment, specs)
    first, queue = drive_here(home, experiment.experiment_id)
    wait_for(lambda: queue.tick() or sum(t.done for t in first.step().turns) == 2)
    queue.stop()
    first.release()
    tried = read_experiment(home, experiment.experiment_id).turns[1]
    assert (tried.rate, tried.held, tried.figures["attainment"]) == (20, True, 1.0)
    second, queue = drive_here(home, experiment.experiment_id)
    wait_for(lambda: queue.tick() or second.step().state == "finished")
    queue.stop()
    second.release()
    after = read_experiment(home, experiment.experiment_id)
    assert after.turns[1] == tried
    assert seconds_left(home, after) == 0
    result = result_of_experiment(home, experiment.experiment_id)
    assert [probe["requests_per_s"] for probe in result["variants"]["a"]["probes"]] == [20, 40]
    assert result["variants"]["a"]["capacity"] == 40
    assert "random weights" in result["labels"]
    page, figures = tmp_path / "out.html", tmp_path / "out.csv"
    export(home, experiment.experiment_id, page)
    export(home, experiment.experiment_id, figures)
    assert "a: at least 40 requests/s" in page.read_text()
    assert "--low 20 --high 40" in page.read_text()
    (note,) = result["notes"]
    fewest = min(probe["itl_samples"] for probe in result["variants"]["a"]["probes"])
    assert f"too few of {fewest:.0f} samples" in note
    assert note in page.read_text()
    rows = list(csv.DictReader(figures.open()))
    assert [(row["variant"], float(row["requests_per_s"]), row["held"]) for row in rows] == [
        ("a", 20, "True"),
        ("a", 40, "True"),
    ]


def test_the_criterion_is_said(timed: str) -> None:
    by_objective, _ = plan_capacity(timed, [Variant("a")])
    by_gap, _ = plan_capacity(timed, [Variant("a")], tbt_ms=200)
    assert "90% of the requests in time" in criterion_in_words(by_objective)
    assert "within 200 ms" in criterion_in_words(by_gap)


def test_what_is_written_is_read(home: Home, timed: str) -> None:
    experiment, specs = plan_capacity(timed, [Variant("a")])
    create_experiment(home, experiment, specs)
    turns = (
        *experiment.turns,
        Turn("a", 0, run_id="x", attempts=1, done=True, rate=1 / 3, held=False, figures={"attainment": None}),
    )
    write_experiment(home, replace(experiment, turns=turns))
    assert read_experiment(home, experiment.experiment_id).turns == turns


@pytest.mark.slow
def test_the_command_prints_one_object(home: Home, timed: str) -> None:
    done = servescope(
        home, "capacity", timed, "--low", "20", "--high", "40", "--slo", "ttft=0.001,tpot=0.001", "--json"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["variants"]["as it is"]["bracket"] == [None, 20]
    assert "[1/" in done.stderr


def test_every_rate_has_an_interval_by_its_repeats_or_by_its_requests() -> None:
    def tried(rate: float, share: float, **figures: float) -> Turn:
        return Turn("a", 0, run_id=f"r{rate:g}", done=True, rate=rate, figures={"attainment": share, **figures})

    once, stopped, uncounted = tried(4, 0.9, requests=50), tried(8, 0.2, requests=9, stopped_early=1.0), tried(2, 1.0)
    repeated = [tried(6, share, requests=50) for share in (0.8, 0.9, 1.0)]
    points = {point["requests_per_s"]: point for point in rate_points([once, stopped, uncounted, *repeated])}
    assert list(points) == [2, 4, 6, 8]
    assert points[4]["interval"] == pytest.approx((0.7864, 0.9565), abs=1e-4)  # Wilson's, of 45 in 50
    assert points[6]["attainment"] == pytest.approx(0.9)
    assert points[6]["interval"] == pytest.approx(
        (0.9 - 0.2484, 1.0), abs=1e-4
    )  # t of two degrees: 4.303 * 0.1 / sqrt(3)
    assert points[2]["interval"] is None
    assert points[8]["interval"] is None, "a part of the requests says nothing of the whole"
    assert wilson(1.0, 20)[1] == 1.0
