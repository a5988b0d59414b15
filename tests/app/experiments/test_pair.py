"""Two runs side by side: figures by group, expectations seen or refuted, and repeats until the answer is narrow enough."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import scenarios
from app.commands.compare_options import parse_until
from app.commands.comparison_results import print_pair
from app.errors import LabError
from app.experiments.commands import compare_command
from app.experiments.drive import runs_planned
from app.experiments.expectations import Side, meant
from app.experiments.file import read_experiment
from app.experiments.judge import result_of_experiment
from app.experiments.missing_runs import what_rests_on
from app.experiments.pair import pair_of, pair_result, pair_table
from app.experiments.plan import Experiment, Variant, plan
from app.experiments.repeats import repeats_of
from app.experiments.stop_rule import another_repeat, stop_in_words
from app.experiments.tables import figures_table
from app.home import Home
from app.runs.folder import read_spec
from app.runs.latencies import ALL
from app.runs.result import result_of
from app.settings import controls as book
from engine.config import EngineConfig, apply_overrides
from store.aside import rows_aside
from store.claim_figures import names
from store.plan import StopRule, Turn
from tests.app.small_runs import experiment_here, served_experiment

FILE = """
title: A shared text
summary: Random tiny weights.
question: How often is it read?
expect:
  - says: "With prefix sharing: fewer prompt tokens computed, the same tokens."
    when: {prefix_sharing: on}
    figures: [{of: computed_prompt_tokens, goes: down}, {of: same_tokens, goes: same}]
  - says: "With prefix sharing: more prompt tokens computed."
    when: {prefix_sharing: on}
    figures: [{of: computed_prompt_tokens, goes: up}]
  - says: "A larger pool: no preemption."
    when: {kv_blocks: larger}
    figures: [{of: preemptions, goes: zero}]
  - "Everybody is glad."
engine: {model: "random:tiny", device: cpu, threads: 1, kv_blocks: 600, max_num_seqs: 4, dtype: float32}
workload:
  groups:
    one: {requests: 4, prompt: {kind: shared-system, words: 60}, output_tokens: 8, ignore_eos: true}
    other: {requests: 2, prompt: {kind: shared-system, words: 60}, output_tokens: 4, ignore_eos: true}
"""
SIDES = (Variant("off", {"prefix_sharing": "off"}), Variant("on", {"prefix_sharing": "on"}))


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("scenario") / "shared.yaml"
    path.write_text(FILE)
    return str(path)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("pair") / "home").prepare()


@pytest.fixture(scope="module")
def served(home: Home, scenario: str) -> Experiment:
    """Both sides, once."""
    return read_experiment(home, served_experiment(home, *plan(scenario, SIDES, 1)))


@pytest.fixture(scope="module")
def pair(home: Home, served: Experiment, scenario: str) -> dict[str, Any]:
    runs = {v.name: served.runs_of(v.name) for v in served.variants}
    sides = [Side(name, read_spec(home.run_dir(ids[0])).engine, ids) for name, ids in runs.items()]
    with rows_aside(home.runs, [run for ids in runs.values() for run in ids]) as rows:
        return pair_result(rows.con, scenario, *sides)


def test_the_figures_are_those_of_show_by_group_and_percentile(
    home: Home, served: Experiment, pair: dict[str, Any]
) -> None:
    before, after = (result_of(home, served.runs_of(name)[0]) for name in ("off", "on"))
    assert list(dict.fromkeys(row["group"] for row in pair["figures"])) == [ALL, "one", "other"]
    for row in pair["figures"]:
        sides = [told if row["group"] == ALL else told["groups"][row["group"]] for told in (before, after)]
        if row["samples"]:
            share = row["figure"].split(", ")[-2]
            assert [row["before"], row["after"]] == [side[row["metric"]][share] for side in sides]
            assert row["samples"] == [side[row["metric"]]["count"] for side in sides]
        else:
            assert [row["before"], row["after"]] == [side[row["metric"]] for side in sides]


def test_the_table_has_a_column_for_each_run_and_says_on_how_many_samples_a_percentile_rests(
    pair: dict[str, Any],
) -> None:
    table = pair_table(pair, "one")
    assert table.heads == ("figure", "off", "on", "change", "samples")
    assert {row["figure"].split(", ")[0] for row in table.rows} >= {
        "TTFT",
        "ITL",
        "TPOT",
        "E2E latency",
        "Output tokens per second",
        "Stalls: gaps above 200 ms",
    }
    assert table.cells()[2][-1] == "4, too few", "the p99 of four requests"


def test_the_command_shows_the_pair_and_refuses_runs_of_other_requests(
    home: Home, served: Experiment, capsys: Any
) -> None:
    off, on = (served.runs_of(name)[0] for name in ("off", "on"))
    told = pair_of(home, on, off)
    assert (told["before"]["run_id"], told["after"]["run_id"]) == (off, on), "the earlier run first"
    assert (told["before"]["name"], told["after"]["name"]) == ("prefix sharing off", "prefix sharing on")
    print_pair(told)
    assert "Figures of other" in capsys.readouterr().out
    warm_up = served.turns[0].run_id
    with pytest.raises(LabError, match="not asked the same"):
        pair_of(home, on, warm_up)


def test_expectations_are_seen_refuted_or_not_tested_by_these_runs(pair: dict[str, Any]) -> None:
    assert [line["outcome"] for line in pair["expect"]] == ["seen", "refuted", "not tested", "not tested"]
    assert "the same tokens" in pair["expect"][0]["why"]
    assert "against" in pair["expect"][1]["why"]


def test_one_pair_says_what_it_cannot_tell(pair: dict[str, Any]) -> None:
    assert "One run each, of the same 6 requests" in pair["says"][0]
    assert "Both gave the same tokens." in pair["says"]


def test_a_comparison_judges_the_same_expectations(
    home: Home, served: Experiment, scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.experiments.expectations.load", lambda name: scenarios.load(scenario))
    result = result_of_experiment(home, served.experiment_id)
    assert [line["outcome"] for line in result["expect"]] == ["seen", "refuted", "not tested", "not tested"]


def test_a_comparison_has_the_latencies_of_each_group(home: Home, served: Experiment) -> None:
    result = result_of_experiment(home, served.experiment_id)
    run = result_of(home, served.runs_of("on")[0])
    assert list(result["groups"]) == ["one", "other"]
    for group, effects in result["groups"].items():
        told = run["groups"][group]
        assert effects["ttft_ms"]["on"]["value"] == pytest.approx(told["ttft_ms"]["p50"])
        assert effects["itl_ms_p99"]["on"]["value"] == pytest.approx(told["itl_ms"]["p99"])
        assert effects["stalls"]["on"]["value"] == told["stalls"]
        assert effects["ttft_ms"]["on"]["samples"] == told["ttft_ms"]["count"]
    assert figures_table(result, group="one").title == "Figures of one"


@pytest.mark.parametrize("name", [info.name for info in scenarios.available()])
def test_scenarios_expect_of_figures_and_settings_that_are_there(name: str) -> None:
    known = {control.path for control in book.controls()}
    for line in scenarios.load(name).expectations:
        assert {figure.of for figure in line.figures} <= set(names())
        assert line.settings.keys() <= known


@pytest.mark.parametrize(
    ("when", "one", "other", "expected"),
    [
        ({"chunked_prefill": "on"}, {"chunked_prefill": "on"}, {"chunked_prefill": "off"}, True),
        ({"chunked_prefill": "on"}, {"chunked_prefill": "off"}, {"chunked_prefill": "on"}, False),
        ({"kv_blocks": "larger"}, {"kv_blocks": "200"}, {"kv_blocks": "100"}, True),
        ({"kv_blocks": "larger"}, {"kv_blocks": "none"}, {"kv_blocks": "100"}, False),
        ({"prefix_sharing.order": "grouped"}, {"prefix_sharing.order": "grouped"}, {"prefix_sharing": "off"}, True),
        ({"policy": "static"}, {"policy": "static"}, {"policy": "static"}, False),
    ],
)
def test_an_expectation_speaks_of_the_side_with_its_settings(
    when: dict[str, str], one: dict[str, str], other: dict[str, str], expected: bool
) -> None:
    sides = [apply_overrides(EngineConfig(), settings) for settings in (one, other)]
    assert meant(when, *sides) is expected


def ruled(ratios: list[float], *, width: float = 0.05, most: int = 6) -> Experiment:
    """A comparison whose figure is 100 on one side and that times a ratio on the other, repeat by repeat."""
    metric = "itl_ms_p99"
    turns = tuple(
        Turn(name, repeat, run_id=f"r-{name}-{repeat}", done=True, figures={metric: 100.0 * factor})
        for repeat, ratio in enumerate(ratios)
        for name, factor in (("a", 1.0), ("b", ratio))
    )
    return Experiment(
        "x-rule", "compare", "s", "t", "q", (Variant("a"), Variant("b")), len(ratios), turns, {"a": "h", "b": "h"},
        stop=StopRule(metric, width, most),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ratios", "goes_on"),
    [
        ([0.5], True),  # of one repeat nothing is known
        ([0.5, 0.5], False),
        ([0.5, 0.6], True),
        ([0.5, 0.501, 0.499, 0.5], False),
        ([1.0, 1.0, 1.001], False),  # what it says is not asked: no difference is narrow too
        ([0.5, 0.9, 0.4, 0.8, 0.6, 0.7], True),
    ],
)
def test_repeats_are_added_while_the_ratio_scatters_whatever_it_says(ratios: list[float], goes_on: bool) -> None:
    more = another_repeat(ruled(ratios, most=20))
    assert (more is not None) is goes_on
    if more is not None:
        added = more.turns[2 * len(ratios) :]
        assert [turn.repeat for turn in added] == [len(ratios)] * 2
        assert [turn.variant for turn in added] == (["b", "a"] if len(ratios) % 2 else ["a", "b"])
        assert "more are added" in stop_in_words(ruled(ratios, most=20)) or len(ratios) == 1


def test_the_cap_ends_it_and_says_so() -> None:
    capped = ruled([0.5, 0.9], most=2)
    assert another_repeat(capped) is None
    assert "the cap is reached" in stop_in_words(capped)


def test_a_figure_that_is_missing_ends_it() -> None:
    lacking = ruled([0.5, 0.9])
    turns = (*lacking.turns[:-1], replace(lacking.turns[-1], figures={}))
    assert another_repeat(replace(lacking, turns=turns)) is None


@pytest.mark.parametrize(
    ("text", "wrong"), [("itl_ms_p99=0%", "0.1%"), ("stalls=5%", "none of"), ("itl_ms_p99", "FIGURE=SHARE")]
)
def test_a_rule_that_is_none_is_refused_with_what_would_be_right(text: str, wrong: str) -> None:
    with pytest.raises(LabError, match=wrong):
        parse_until(text, 5)


def test_a_pair_goes_on_as_a_comparison_whose_first_repeat_it_is(home: Home, served: Experiment) -> None:
    runs = {name: served.runs_of(name)[0] for name in ("off", "on")}
    experiment, specs = repeats_of(home, runs, StopRule("output_tokens_per_s", 1.0, 2))
    assert experiment.complete_repeats() == 1
    assert runs_planned(experiment) == 5
    assert "--until output_tokens_per_s=100% --most 2" in compare_command(experiment)
    over = read_experiment(home, experiment_here(home, experiment, specs))
    assert [over.runs_of(name)[0] for name in ("off", "on")] == list(runs.values())
    result = result_of_experiment(home, over.experiment_id)
    assert (result["repeats"], result["stop"]["metric"]) == (2, "output_tokens_per_s")
    assert result["stop"]["scatter"] is not None
    assert runs_planned(over) == 5
    own = what_rests_on(home, runs["on"], None)  # as of a run that was served for no experiment
    assert own is not None
    assert "repeat 1 of on" in own
