"""Repeats over seeds: each repeat asks requests of its own, and within one every variant is asked the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from app.errors import LabError
from app.experiments.commands import compare_command
from app.experiments.drive import Driver
from app.experiments.file import create_experiment, read_experiment, read_specs
from app.experiments.judge import result_of_experiment
from app.experiments.plan import Variant, plan, spec_of_turn
from app.home import Home
from store.plan import StopRule
from tests.app.experiments.test_saturation import Engine, begun
from tests.app.lab_process import scenario_file

SIDES = (Variant("a"), Variant("b", {"policy": "orca"}))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    path = scenario_file(tmp_path)
    path.write_text(path.read_text().replace("{kind: fixed, tokens: 20}", "{kind: uniform, low: 4, high: 60}"))
    return str(path)


def test_each_repeat_has_requests_of_its_own_and_both_variants_the_same(scenario: str, home: Home) -> None:
    experiment, specs = plan(scenario, SIDES, 3, draws=3, common={"workload.seed": "7"})
    assert len(set(experiment.draws)) == 3
    create_experiment(home, experiment, specs)
    kept = read_experiment(home, experiment.experiment_id)
    assert kept == experiment
    assert read_specs(home, kept) == specs
    for index, turn in enumerate(experiment.turns):
        if not turn.warm_up:
            spec = spec_of_turn(specs, experiment, index)
            assert spec.workload_hash == experiment.draws[turn.repeat] == experiment.hash_of(turn.variant, turn.repeat)
            assert spec.engine == specs[turn.variant].engine
            assert spec.workload["workload.seed"] == str(7 + turn.repeat), "it can be served again"
    assert "--repeats 3 --seeds" in compare_command(experiment)
    assert plan(scenario, SIDES, 3, common={"workload.seed": "7"})[0].draws == ()


def test_the_result_pairs_repeats_and_refuses_a_run_of_another_draw(scenario: str, home: Home) -> None:
    experiment, specs = plan(scenario, SIDES, 2, draws=2)
    create_experiment(home, experiment, specs)
    engine = Engine(home)
    driver = Driver(home, experiment.experiment_id, engine.submit, engine.cancel)
    for _ in experiment.turns:
        engine.serve(begun(driver), ended=4)
    while (over := driver.step()).state == "running":
        pass
    driver.release()
    result = result_of_experiment(home, experiment.experiment_id)
    assert (result["repeats"], result["draws"], over.state) == (2, 2, "finished")

    path = home.experiment_dir(experiment.experiment_id) / "experiment.json"
    plan_of_it = json.loads(path.read_text())
    plan_of_it["draws"].reverse()
    path.write_text(json.dumps(plan_of_it))
    with pytest.raises(LabError, match="asked other requests"):
        result_of_experiment(home, experiment.experiment_id)


@pytest.mark.parametrize("damage", ["too few", "a sweep", "a rule that may want more"])
def test_a_plan_whose_draws_do_not_fit_is_refused(scenario: str, home: Home, damage: str) -> None:
    experiment, specs = plan(scenario, SIDES, 3, draws=3)
    changed = {
        "too few": replace(experiment, draws=experiment.draws[:2]),
        "a sweep": replace(experiment, kind="sweep"),
        "a rule that may want more": replace(experiment, stop=StopRule("itl_ms", 0.1, 4)),
    }[damage]
    create_experiment(home, changed, specs)
    with pytest.raises(LabError, match="one for each"):
        read_experiment(home, experiment.experiment_id)
