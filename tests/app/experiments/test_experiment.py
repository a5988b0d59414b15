"""Experiments: the same requests for all, in turns, taken up where they stopped."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.commands.compare_options import parse_variant
from app.errors import LabError
from app.experiments.drive import Driver, drive_here, pause, resume, seconds_left
from app.experiments.file import create_experiment, read_experiment, read_specs, write_experiment
from app.experiments.judge import result_of_experiment
from app.experiments.plan import Experiment, Variant, grid, plan, spec_of_turn, turns, with_turn
from app.exports.export import export
from app.home import Home
from app.runs.process import worker_environment
from app.words.states import DISTURBED
from engine.config import ChunkedPrefill, ConfigError, RequestSpec, RunSpec
from store.metrics import METRICS
from telemetry.status import read_status
from tests.app.lab_process import LabProcess, asked_here, lab_on, scenario_file, servescope
from tests.app.small_runs import served_experiment, wait_for

SIDES = (Variant("on", {"chunked_prefill.token_budget": "16"}), Variant("off", {"chunked_prefill": "off"}))
ARGUMENTS = ("--variant", "on:chunked_prefill.token_budget=16", "--variant", "off:chunked_prefill=off")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


@pytest.fixture
def small(tmp_path: Path) -> str:
    return str(scenario_file(tmp_path))


def planned(small: str, repeats: int = 2) -> tuple[Experiment, dict[str, RunSpec]]:
    return plan(small, SIDES, repeats)


def test_all_variants_are_asked_the_same(small: str) -> None:
    experiment, specs = planned(small)
    assert specs["on"].requests == specs["off"].requests
    assert specs["on"].engine != specs["off"].engine
    assert set(experiment.workload_hashes.values()) == {specs["on"].workload_hash}
    served = spec_of_turn(specs, experiment, 1)
    assert served.workload_hash == experiment.workload_hash
    assert served.experiment_id == experiment.experiment_id


def test_the_run_that_warms_up_is_short(small: str) -> None:
    experiment, specs = planned(small)
    long = {
        name: spec.model_copy(update={"requests": (_longer(spec.requests[0]),) * 9}) for name, spec in specs.items()
    }
    first = spec_of_turn(long, experiment, 0)
    assert [r.max_tokens for r in first.requests] == [8] * 4
    assert {r.max_tokens for r in spec_of_turn(long, experiment, 1).requests} == {500}


def _longer(request: RequestSpec) -> RequestSpec:
    return request.model_copy(update={"max_tokens": 500})


@given(st.integers(2, 6), st.integers(1, 9))
def test_every_variant_is_served_in_every_repeat_and_the_order_turns(count: int, repeats: int) -> None:
    names = [f"v{n}" for n in range(count)]
    order = turns(names, repeats)
    assert order[0].warm_up
    rest = order[1:]
    assert sorted((t.variant, t.repeat) for t in rest) == sorted((n, r) for n in names for r in range(repeats))
    rounds = [[t.variant for t in rest if t.repeat == r] for r in range(repeats)]
    assert all(after == before[::-1] for before, after in itertools.pairwise(rounds))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"seed": "7"}, "requests differ"),
        ({"sampling.temperature": "0.7"}, "requests differ"),
        ({"workload.requests": "3"}, "requests differ"),
        ({"model": "random:smollm2-135m"}, "different models"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_reason(small: str, settings: dict[str, str], reason: str) -> None:
    with pytest.raises(LabError, match=reason):
        plan(small, (Variant("a"), Variant("b", settings)), 2)


def test_a_variant_that_contradicts_itself_or_what_all_share_is_refused_by_name(small: str) -> None:
    part = {"chunked_prefill.token_budget": "32"}
    with pytest.raises(ConfigError, match="contradicts chunked_prefill=off"):
        plan(small, (Variant("a"), Variant("b", {"chunked_prefill": "off"} | part)), 2)
    with pytest.raises(ConfigError, match="contradicts chunked_prefill=off"):
        plan(small, (Variant("a"), Variant("b", part)), 2, common={"chunked_prefill": "off"})
    with pytest.raises(ConfigError, match="contradicts chunked_prefill=off"):
        plan(
            small,
            grid({"chunked_prefill": ["off", "on"]} | {key: [value] for key, value in part.items()}),
            1,
            kind="sweep",
        )
    with pytest.raises(LabError, match="given twice, as on and as off"):
        parse_variant("b:chunked_prefill=on,chunked_prefill=off")


def test_what_all_share_is_changed_by_a_variants_own_settings(small: str) -> None:
    common = {"chunked_prefill.token_budget": "32", "seed": "7"}
    _, specs = plan(small, (Variant("with"), Variant("without", {"chunked_prefill": "off"})), 2, common=common)
    assert specs["with"].engine.chunked_prefill == ChunkedPrefill(token_budget=32)
    assert specs["without"].engine.chunked_prefill is None
    assert {spec.engine.seed for spec in specs.values()} == {7}


@pytest.mark.parametrize("variants", [(), (Variant("a"),), (Variant("a"), Variant("a")), (Variant("a"), Variant(""))])
def test_a_comparison_needs_two_sides_with_names(small: str, variants: tuple[Variant, ...]) -> None:
    with pytest.raises(LabError, match="variant"):
        plan(small, variants, 2)


def test_a_sweep_may_change_what_is_asked(small: str) -> None:
    variants = grid({"workload.speed": ["1", "2"], "chunked_prefill.token_budget": ["16", "32"]})
    assert len(variants) == 4
    experiment, specs = plan(small, grid({"workload.requests": ["2", "3"]}), 1, kind="sweep")
    assert [len(spec.requests) for spec in specs.values()] == [2, 3]
    assert len(set(experiment.workload_hashes.values())) == 2


def test_variants_are_written_as_settings_with_commas() -> None:
    assert parse_variant("both:a.b=1,c=on") == Variant("both", {"a.b": "1", "c": "on"})
    assert parse_variant("list:sampling.stop=x,y,seed=3") == Variant("list", {"sampling.stop": "x,y", "seed": "3"})
    assert parse_variant("plain") == Variant("plain")


def test_what_is_on_disk_is_what_was_planned(home: Home, small: str) -> None:
    experiment, specs = planned(small)
    create_experiment(home, experiment, specs)
    assert read_experiment(home, experiment.experiment_id) == experiment
    assert read_specs(home, experiment) == specs
    with pytest.raises(LabError, match="no experiment"):
        read_experiment(home, "x-nothing")


def test_an_experiment_goes_on_where_its_driver_was_lost(home: Home, small: str) -> None:
    experiment, specs = planned(small, repeats=1)
    create_experiment(home, experiment, specs)
    first, queue = drive_here(home, experiment.experiment_id)
    wait_for(lambda: queue.tick() or first.step().turns[0].done)
    queue.stop()
    first.release()
    done = read_experiment(home, experiment.experiment_id).turns[0]
    second, queue = drive_here(home, experiment.experiment_id)
    wait_for(lambda: queue.tick() or second.step().state == "finished")
    queue.stop()
    second.release()
    after = read_experiment(home, experiment.experiment_id)
    assert after.turns[0] == done
    result = result_of_experiment(home, experiment.experiment_id)
    assert result["workload_hash"] == experiment.workload_hash
    assert result["variants"]["off"]["same_tokens_as_baseline"] is True
    effect = result["metrics"]["ttft_ms"]["off"]
    assert set(effect) >= {"value", "interval", "ratio", "ratio_interval", "verdict"}
    assert effect["verdict"] == "too noisy, run more", "one repeat cannot say more"
    assert seconds_left(home, after) == 0


def test_a_run_that_was_lost_is_tried_again_and_a_failed_one_ends_the_experiment(home: Home, small: str) -> None:
    experiment, specs = planned(small, repeats=1)
    create_experiment(home, experiment, specs)
    driver, queue = drive_here(home, experiment.experiment_id)
    begun = driver.step()
    queue.cancel(begun.turns[0].run_id)
    again = driver.step()
    assert again.turns[0].attempts == 2
    assert again.turns[0].run_id != begun.turns[0].run_id
    queue.cancel(again.turns[0].run_id)
    path = home.runs / again.turns[0].run_id / "status.json"
    path.write_text(json.dumps(read_status(path.parent) | {"state": "failed", "error": {"message": "No room."}}))
    ended = driver.step()
    assert ended.state == "failed"
    assert "No room." in ended.problem
    assert resume(home, experiment.experiment_id).state == "running"
    queue.stop()
    driver.release()


def test_runs_that_were_asked_something_else_are_not_compared(home: Home, small: str) -> None:
    experiment, specs = planned(small, repeats=1)
    served_experiment(home, experiment, specs)
    after = read_experiment(home, experiment.experiment_id)
    write_experiment(home, replace(after, workload_hashes=dict.fromkeys(after.workload_hashes, "0" * 64)))
    with pytest.raises(LabError, match="workload hash differs"):
        result_of_experiment(home, experiment.experiment_id)
    write_experiment(home, with_turn(after, 1, done=False))
    with pytest.raises(LabError, match="No repeat"):
        result_of_experiment(home, experiment.experiment_id)


@pytest.mark.slow
def test_the_command_prints_the_promised_object_and_nothing_else(home: Home, small: str) -> None:
    done = servescope(home, "compare", small, *ARGUMENTS, "--repeats", "1", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result) >= {"experiment_id", "workload_hash", "variants", "metrics"}
    assert set(result["variants"]) == {"on", "off"}


@pytest.mark.slow
def test_a_lab_serves_what_the_command_line_began(home: Home, small: str) -> None:
    command = [sys.executable, "-m", "app.cli", "compare", small, *ARGUMENTS, "--repeats", "1"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=worker_environment() | {"SERVESCOPE_HOME": str(home.root)},
    )
    wait_for(lambda: home.experiment_ids())
    (experiment_id,) = home.experiment_ids()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with lab_on(home):
        wait_for(lambda: read_experiment(home, experiment_id).state == "finished")
    assert result_of_experiment(home, experiment_id)["repeats"] == 1


@pytest.mark.slow
@pytest.mark.rare
def test_an_experiment_goes_on_after_the_lab_was_killed(home: Home, small: str) -> None:
    experiment, specs = planned(small, repeats=2)
    create_experiment(home, experiment, specs)
    first = LabProcess(home).start()
    wait_for(lambda: sum(turn.done for turn in read_experiment(home, experiment.experiment_id).turns) >= 2)
    first.kill()
    before = read_experiment(home, experiment.experiment_id)
    assert before.state == "running"
    with lab_on(home) as second:
        wait_for(lambda: read_experiment(home, experiment.experiment_id).state == "finished")
        asked = "SELECT state, runs_done FROM experiments"
        wait_for(lambda: second.sql(asked) == [["finished", len(before.turns)]])
    after = read_experiment(home, experiment.experiment_id)
    done = [turn for turn in before.turns if turn.done]
    assert list(after.turns[: len(done)]) == done, "what was done was not done again"
    assert result_of_experiment(home, experiment.experiment_id)["repeats"] == 2


@pytest.mark.slow
def test_a_sweep_is_judged_by_the_objectives_asked_for_and_exported_as_a_curve(
    home: Home, small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("--over", "workload.speed=1,2", "--repeats", "1", "--slo", "ttft=60000,tpot=60000", "--json")
    path = Path(small)
    path.write_text(path.read_text().replace("{kind: at-once}", "{kind: interval, every_s: 0.05}"))
    swept = servescope(home, "sweep", small, *given)
    assert swept.returncode == 0, swept.stderr
    result = json.loads(swept.stdout)
    assert set(result["variants"]) == {"workload.speed=1", "workload.speed=2"}
    assert [effect["value"] for effect in result["metrics"]["slo_attainment"].values()] == [1, 1]
    assert result["goodput"][0]["requests_per_s"] == pytest.approx(40, rel=0.01)
    experiment_id = result["experiment_id"]
    stricter = result_of_experiment(home, experiment_id, "ttft=0.001,tpot=0.001")
    assert stricter["goodput"][0]["requests_per_s"] is None
    assert max(stricter["slo"]["attainment"]["workload.speed=1"]) == 0
    pages = {}
    for most in (-1.0, 1000.0):  # percent of the machine that others may use
        monkeypatch.setattr("store.machine.OTHERS_CPU", most)
        path = tmp_path / f"{most}.html"
        export(home, experiment_id, path)
        pages[most] = path.read_text()
    assert f"{METRICS['itl_ms'].title}, p99 over workload.speed" in pages[1000.0], "the sweep's curve"
    assert DISTURBED in pages[-1.0]
    assert DISTURBED not in pages[1000.0]
    refused = asked_here(home, "compare", small, *ARGUMENTS, "--slo", "soon", "--json")
    assert refused.returncode == 1
    assert json.loads(refused.stdout)["error"]["kind"] == "slo"


def test_a_stop_between_two_looks_of_the_driver_is_not_lost(
    home: Home, small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, specs = planned(small)
    create_experiment(home, experiment, specs)
    submitted: list[RunSpec] = []
    driver = Driver(home, experiment.experiment_id, submitted.append)
    written = driver._write

    def stopped_meanwhile(changed: Experiment) -> Experiment:
        pause(home, experiment.experiment_id)
        return written(changed)

    monkeypatch.setattr(driver, "_write", stopped_meanwhile)
    assert driver.step().state == "paused"
    assert read_experiment(home, experiment.experiment_id).state == "paused"
    assert submitted == []
    driver.release()
