"""One list of runs and experiments: what it says of each kind, what a search finds, what is folded away; tags of both."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.errors import LabError
from app.experiments.file import create_experiment, write_experiment
from app.experiments.listing import Entry, folded, list_all, matches, plan_of
from app.experiments.main_figure import main_figure
from app.experiments.plan import Experiment, Turn, Variant, grid, plan
from app.experiments.rate_search import plan_capacity
from app.home import Home
from app.runs import trash
from app.runs.folder import create_run
from app.runs.notes import read_notes, write_notes
from store.notes import MOST_TAGS
from store.plan import ClaimMark, StopRule
from telemetry.status import write_status
from tests.app.lab_process import asked_here, scenario_file
from tests.app.small_runs import small_spec

SIDES = (Variant("on", {"chunked_prefill.token_budget": "16"}), Variant("off", {"chunked_prefill": "off"}))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


@pytest.fixture
def compared(home: Home, tmp_path: Path) -> Experiment:
    """A comparison of two repeats with runs that served nothing, and one run beside it."""
    experiment, specs = plan(str(scenario_file(tmp_path)), SIDES, 2)
    turns = []
    for n, turn in enumerate(experiment.turns):
        labels = ("warm-up",) if turn.warm_up else ("random weights",)
        spec = small_spec(f"of-it-{n}").model_copy(update={"experiment_id": experiment.experiment_id, "labels": labels})
        write_status(create_run(home, spec), state="finished")
        turns.append(replace(turn, run_id=spec.run_id, done=True))
    experiment = replace(experiment, turns=tuple(turns), state="finished")
    create_experiment(home, experiment, specs)
    write_status(create_run(home, small_spec("alone")), state="finished")
    return experiment


def listed(home: Home, **asked: Any) -> list[str]:
    return [entry["id"] for entry in list_all(home) if matches(entry, **asked)]


def entry_of(home: Home, name: str) -> Entry:
    return next(entry for entry in list_all(home) if entry["id"] == name)


def test_an_experiment_stands_in_the_list_with_what_its_runs_say(home: Home, compared: Experiment) -> None:
    entry = entry_of(home, compared.experiment_id)
    assert (entry["kind"], entry["status"], entry["done"], entry["total"]) == ("comparison", "finished", 5, 5)
    assert entry["labels"] == ["random weights"], "a warm-up's label is none of the experiment's"
    assert (entry["model"], entry["variants"]) == ("random:tiny", ["on", "off"])
    assert entry.keys() >= entry_of(home, "alone").keys() - {
        "run_id", "device", "requests_total", "requests_done", "iterations", "output_tokens", "ended_unix_ns"
    }  # fmt: skip


@pytest.mark.parametrize("damage", ["{", '{"version": 1}'])
def test_a_damaged_experiment_is_listed_with_what_is_wrong(home: Home, compared: Experiment, damage: str) -> None:
    (home.experiment_dir(compared.experiment_id) / "experiment.json").write_text(damage)
    assert "experiment.json cannot be read" in entry_of(home, compared.experiment_id)["problem"]


def test_runs_of_an_experiment_and_warm_ups_are_folded_away_until_they_are_asked_for_or_it_is_gone(
    home: Home, compared: Experiment
) -> None:
    def left(**asked: bool) -> set[str]:
        entries = list_all(home)
        known = {entry["id"] for entry in entries if entry["kind"] != "run"}
        how = {"runs_of_experiments": False, "warm_ups": False} | asked
        return {entry["id"] for entry in entries if not folded(entry, known, **how)}

    whole = {compared.experiment_id, "alone"}
    counted = {f"of-it-{n}" for n in range(1, 5)}
    assert left() == whole
    assert left(runs_of_experiments=True) == whole | counted
    assert left(warm_ups=True) == whole | {"of-it-0"}
    trash.move_to_trash(home.experiment_dir(compared.experiment_id), home.trash_dir(compared.experiment_id))
    assert left() == {"alone"} | counted


def test_a_search_finds_every_word_anywhere_and_kinds_and_tags_narrow_it(home: Home, compared: Experiment) -> None:
    write_notes(home, compared.experiment_id, name="Night shift", tags=["Budget", "for the talk"])
    write_notes(home, "alone", notes="the budget of the night", tags=["Budget"])
    assert set(listed(home, words="night budget")) == {compared.experiment_id, "alone"}
    assert listed(home, words="night comparison") == [compared.experiment_id]
    assert listed(home, words="off talk") == [compared.experiment_id], "variants are searched, too"
    assert listed(home, kinds=["run"], tags=["Budget"]) == ["alone"]
    assert listed(home, tags=["Budget", "for the talk"]) == [compared.experiment_id]
    assert listed(home, kinds=["sweep"]) == []


def test_tags_are_kept_beside_name_and_notes_and_only_what_can_be_a_tag(home: Home, compared: Experiment) -> None:
    for name in ("alone", compared.experiment_id):
        write_notes(home, name, notes="kept")
        write_notes(home, name, tags=[" slow ", "slow", "two words"])
        assert read_notes(home, name).tags == ("slow", "two words")
        assert read_notes(home, name).notes == "kept"
        for bad in ("", " ", "a,b", "line\nbreak", "x" * 41):
            with pytest.raises(LabError, match="cannot be a tag"):
                write_notes(home, name, tags=["fine", bad])
        with pytest.raises(LabError, match=f"There may be {MOST_TAGS} tags"):
            write_notes(home, name, tags=[str(n) for n in range(MOST_TAGS + 1)])
        assert read_notes(home, name).tags == ("slow", "two words"), "nothing half-written stays"
    with pytest.raises(LabError, match="no run"):
        write_notes(home, "x-nothing", tags=["slow"])


def test_the_command_line_tags_and_finds_by_tag_kind_and_words(home: Home, compared: Experiment) -> None:
    assert json.loads(asked_here(home, "tag", "alo", "slow", "two words", "--json").stdout) == {
        "id": "alone",
        "tags": ["slow", "two words"],
    }
    asked_here(home, "tag", compared.experiment_id, "slow")
    said = json.loads(asked_here(home, "runs", "--tag", "slow", "--json").stdout)
    assert [run["run_id"] for run in said["runs"]] == ["alone"]
    assert [one["id"] for one in said["experiments"]] == [compared.experiment_id]
    said = json.loads(asked_here(home, "runs", "random", "--kind", "comparison", "--json").stdout)
    assert (said["runs"], [one["tags"] for one in said["experiments"]]) == ([], [["slow"]])
    assert json.loads(asked_here(home, "tag", "alone", "--remove", "slow", "--json").stdout)["tags"] == ["two words"]
    refused = asked_here(home, "runs", "--kind", "walk")
    assert refused.returncode == 1
    assert "capacity" in refused.stderr


def test_a_plan_is_read_again_when_its_file_has_changed(home: Home, compared: Experiment) -> None:
    assert plan_of(home, compared.experiment_id).title == compared.title
    write_experiment(home, replace(compared, title="another"))
    assert plan_of(home, compared.experiment_id).title == "another"


def figures(values: dict[str, float]) -> dict[str, dict[str, Any]]:
    return {run: {"itl_ms": {"p99": value}, "ttft_ms": {"p50": 2 * value}} for run, value in values.items()}


def test_a_comparison_shows_its_ratio_by_the_figure_it_is_about(compared: Experiment) -> None:
    on, off = compared.runs_of("on"), compared.runs_of("off")
    known = figures(dict.fromkeys(on, 10.0) | {off[0]: 20.0, off[1]: 40.0})
    assert main_figure(compared, known) == "ITL p99: off x3 of on"
    by_rule = replace(compared, stop=StopRule("ttft_ms", 0.05, 3))
    assert main_figure(by_rule, known) == "TTFT p50: off x3 of on"
    assert main_figure(compared, {}) == "", "rows that are not there yet"
    del known[off[1]]
    assert main_figure(compared, known) == "", "a mean of fewer repeats would be another figure"


def test_a_sweep_shows_its_best_value_and_a_search_its_capacities(tmp_path: Path) -> None:
    over = {"max_num_seqs": ["1", "2", "4"]}
    sweep, _ = plan(str(scenario_file(tmp_path)), grid(over), 1, kind="sweep", over=over)
    done = [replace(t, done=True, run_id=f"r{n}") for n, t in enumerate(sweep.turns)]
    served = replace(sweep, turns=tuple(done))
    assert main_figure(served, figures({"r1": 9.0, "r2": 5.0, "r3": 7.0})) == "ITL p99: best with max_num_seqs=2, 5 ms"
    timed = tmp_path / "timed.yaml"
    timed.write_text(scenario_file(tmp_path).read_text().replace("{kind: at-once}", "{kind: interval, every_s: 0.05}"))
    search, _ = plan_capacity(str(timed), [Variant("a"), Variant("b")], low=1, high=8)
    assert main_figure(search, {}) == ""
    tried = (Turn("a", 0, done=True, rate=2.0, held=True), Turn("b", 0, done=True, rate=1.0, held=False))
    assert main_figure(replace(search, turns=tried), {}) == "a: 2 requests/s; b: below 1 requests/s"


def test_an_experiment_that_tests_a_claim_is_a_verdict(home: Home, compared: Experiment) -> None:
    write_experiment(home, replace(compared, claim=ClaimMark("orca", "h")))
    entry = entry_of(home, compared.experiment_id)
    assert (entry["kind"], entry["paper"]) == ("verdict", "orca")
