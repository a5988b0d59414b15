"""Scenario files: the built-in ones are sound, and a bad file is answered with what would be right."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

import scenarios
from engine.config import EngineConfig
from scenarios.file_schema import SCHEMA, schema_text
from scenarios.yaml_file import read_yaml

VALIDATOR = jsonschema.Draft202012Validator(json.loads(schema_text()))
NAMES = [info.name for info in scenarios.available()]

GOOD = """
title: A
summary: B
question: C
engine: {max_num_seqs: 4}
workload:
  groups:
    users: {requests: 2, output_tokens: 8}
"""


def refusal(tmp_path: Path, text: str) -> scenarios.ScenarioError:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(scenarios.ScenarioError) as caught:
        scenarios.load(path)
    assert "mine.yaml" in str(caught.value)
    return caught.value


def test_the_promised_scenarios_exist():
    assert {"starter", "shared-prompt", "copy-heavy", "memory-bound", "chat"} <= set(NAMES)
    assert NAMES[0] == "starter"


@pytest.mark.parametrize("name", NAMES)
def test_every_built_in_scenario_teaches_and_builds(name: str):
    scenario = scenarios.load(name)
    spec = scenarios.build(name)
    assert scenario.question.endswith("?")
    assert scenario.watch
    assert scenario.expect
    assert spec.scenario == name
    assert spec.title == scenario.title
    assert len({r.request_id for r in spec.requests}) == len(spec.requests)
    timed = [r.arrival_ns for r in spec.requests if r.after is None]
    assert timed == sorted(timed)
    assert timed[0] == 0
    known = {r.request_id for r in spec.requests}
    assert all(r.after in known for r in spec.requests if r.after is not None)


def test_the_published_schema_is_the_scenarios_own():
    assert SCHEMA.read_text(encoding="utf-8") == schema_text(), "python -m scenarios.file_schema writes it anew"


@pytest.mark.parametrize(
    "path", [*(info.path for info in scenarios.available()), None], ids=lambda p: p.stem if p else "GOOD"
)
def test_the_schema_takes_what_the_loader_takes(path: Path | None, tmp_path: Path):
    if path is None:
        path = tmp_path / "good.yaml"
        path.write_text(GOOD, encoding="utf-8")
    assert not list(VALIDATOR.iter_errors(read_yaml(path)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("title: A", "titel: A"),
        ("max_num_seqs: 4", "max_num_seqs: many"),
        ("output_tokens: 8", "output_tokens: 0"),
        ("output_tokens: 8", "output_tokens: {kind: unifrom, low: 1, high: 2}"),
        ("requests: 2", "requests: 2, arrivals: {kind: poisson, rate: -1}"),
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(tmp_path: Path, old: str, new: str):
    text = GOOD.replace(old, new)
    refusal(tmp_path, text)
    assert list(VALIDATOR.iter_errors(read_yaml(tmp_path / "mine.yaml")))


@pytest.mark.parametrize("technique", ["true", "false", "null", "{}", "{token_budget: 32}"])
def test_the_schema_knows_switches(tmp_path: Path, technique: str):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace("max_num_seqs: 4", f"chunked_prefill: {technique}"), encoding="utf-8")
    scenarios.load(path)
    assert not list(VALIDATOR.iter_errors(read_yaml(path)))


@pytest.mark.parametrize("name", NAMES)
def test_expectations_are_directions_without_typed_in_results(name: str):
    assert not [
        line for line in scenarios.load(name).expectations if re.search(r"\d+(\.\d+)? ?(%|x|ms|s)\b", line.says)
    ]


def test_the_ragged_workload_is_the_published_one():
    spec = scenarios.build("ragged")
    assert len(spec.requests) == 32
    assert sum(len(r.prompt_token_ids) for r in spec.requests) == 4174
    assert sum(r.max_tokens for r in spec.requests) == 2005
    assert all(r.sampling.ignore_eos and r.sampling.temperature == 0 for r in spec.requests)
    assert spec.engine.max_num_seqs == 16


def test_the_common_gpu_workload_is_the_published_one():
    spec = scenarios.build("nano-bench")
    assert len(spec.requests) == 256
    assert sum(r.max_tokens for r in spec.requests) == 133_966
    assert all(r.sampling.ignore_eos and r.sampling.temperature == 0.6 for r in spec.requests)


def test_the_workload_hash_of_a_recipe_never_changes():
    assert scenarios.build("ragged").workload_hash == scenarios.build("ragged", {"kv_blocks": "99"}).workload_hash
    ids = scenarios.build("ragged").requests[0].prompt_token_ids
    assert ids[:4] == tuple(scenarios.build("ragged", {"workload.requests": "1"}).requests[0].prompt_token_ids[:4])


def test_run_ids_sort_by_time_and_differ():
    ids = [scenarios.new_run_id() for _ in range(50)]
    assert all(re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", i) for i in ids)
    assert len(set(ids)) > 45


def test_a_run_id_and_a_seed_can_be_given():
    spec = scenarios.build("chat", run_id="mine", seed=7)
    assert (spec.run_id, spec.engine.seed) == ("mine", 7)


def test_a_good_file_of_ones_own_builds(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text(GOOD, encoding="utf-8")
    spec = scenarios.build(tmp_path / "mine.yaml")
    assert spec.scenario == "mine"
    assert [r.max_tokens for r in spec.requests] == [8, 8]
    assert spec.engine.max_num_seqs == 4


@pytest.mark.parametrize(
    ("old", "new", "field", "mend"),
    [
        ("question: C", "qestion: C", "mine.yaml: ", "question"),
        ("{max_num_seqs: 4}", "{max_num_seq: 4}", "engine.max_num_seq", "max_num_seqs"),
        ("{max_num_seqs: 4}", "{max_num_seqs: four}", "engine.max_num_seqs", "a whole number, at least 1"),
        ("{max_num_seqs: 4}", '{max_num_seqs: "4"}', "engine.max_num_seqs", "a whole number"),
        (
            "{max_num_seqs: 4}",
            "{chunked_prefill: {token_budget: 0}}",
            "engine.chunked_prefill.token_budget",
            "at least 1",
        ),
        ("{max_num_seqs: 4}", "{chunked_prefill: 5}", "engine.chunked_prefill", "token_budget"),
        ("{max_num_seqs: 4}", "5", "engine", "a map"),
        ("requests: 2", "requests: 0", "workload.groups.users.requests", "at least 1"),
        ("requests: 2", "request: 2", "workload.groups.users", "requests"),
        ("requests: 2,", "", "workload.groups.users.requests", "a whole number"),
        ("output_tokens: 8", "output_tokens: lots", "workload.groups.users.output_tokens", "uniform"),
        ("output_tokens: 8", "output_tokens: {kind: unifrom}", "output_tokens.kind", "uniform"),
        ("output_tokens: 8", "output_tokens: {low: 3}", "output_tokens.kind", "uniform"),
        ("output_tokens: 8", "output_tokens: {kind: uniform, low: 3}", "output_tokens.high", "a whole number"),
        ("output_tokens: 8", "output_tokens: {kind: zipf, teta: 1}", "output_tokens.teta", "theta"),
        ("output_tokens: 8", "output_tokens: 8, arrivals: {kind: poisson, rate: .inf}", "arrivals.rate", "a number"),
        ("output_tokens: 8", "output_tokens: {kind: trace}", "workload.groups.users", ""),
        ("requests: 2, output_tokens: 8", "requests: 2", "workload.groups.users", ""),
        ("workload:", "workload: 3\nx:", "mine.yaml: ", ""),
    ],
)
def test_a_bad_key_or_value_is_named_with_its_mend(tmp_path: Path, old: str, new: str, field: str, mend: str):
    assert old in GOOD
    error = refusal(tmp_path, GOOD.replace(old, new))
    assert field in error.field
    assert mend in error.mend


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: A\ntitle: B\n", "given twice"),
        ("title: [1, 2\n", "YAML"),
        ("a: &x 1\nb: *x\n", "aliases"),
        ("- 1\n- 2\n", "not a map"),
        ("", "not a map"),
        ("title: !!python/object/apply:os.getcwd []\n", "YAML"),
        ("{? [1, 2] : 3}\n", "key"),
        ("[" * 100_000, "levels deep"),
        ("a: " + "{a: " * 5000 + "1" + "}" * 5000, "levels deep"),
        ("seed: " + "9" * 5000, "digits"),
        ("speed: 1e400", "too large"),
        ("at: !!timestamp 9999-99-99", "tag"),
        ("n: !!int abc", "tag"),
        ('title: "\\ud800"', "character"),
    ],
)
def test_a_file_that_is_no_map_of_keys_is_refused(tmp_path: Path, text: str, message: str):
    assert message in refusal(tmp_path, text).message


@pytest.mark.parametrize("text", ["1:30", "010", "0x10", "0b11", "2026-11-26", ".inf", "1_0:00"])
def test_what_only_looks_like_a_number_is_text(tmp_path: Path, text: str):
    path = tmp_path / "x.yaml"
    path.write_text(f"a: {text}\n", encoding="utf-8")
    assert read_yaml(path) == {"a": text}


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("requests: 2", "requests: 2, priority: 3000000000", "priority"),
        ("requests: 2", "requests: 2, cancel_after_s: 1e12", "cancel_after_s"),
        ("workload:", "time_limit_s: 1e300\nworkload:", "time_limit_s"),
    ],
)
def test_a_number_that_no_row_can_hold_is_refused(tmp_path: Path, old: str, new: str, field: str):
    assert field in refusal(tmp_path, GOOD.replace(old, new)).field


def test_a_file_that_is_not_text_is_refused(tmp_path: Path):
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(scenarios.ScenarioError, match="UTF-8"):
        scenarios.load(tmp_path / "b.yaml")


def test_numbers_may_be_written_in_every_usual_way(tmp_path: Path):
    text = GOOD.replace("requests: 2", "requests: 2, arrivals: {kind: poisson, rate: 1e1}")
    (tmp_path / "n.yaml").write_text(text, encoding="utf-8")
    assert scenarios.load(tmp_path / "n.yaml").workload.groups["users"].arrivals.rate == 10


@pytest.mark.parametrize("name", ["startr", "", "../starter", "gone.yaml", "/etc/passwd"])
def test_an_unknown_scenario_is_refused_with_a_mend(name: str):
    with pytest.raises(scenarios.ScenarioError) as caught:
        scenarios.build(name)
    assert caught.value.mend


def test_overrides_reach_groups_by_name():
    spec = scenarios.build("starter", {"workload.chat.requests": "7", "workload.groups.long-prompt.requests": "2"})
    assert sum(r.group == "chat" for r in spec.requests) == 7
    assert sum(r.group == "long-prompt" for r in spec.requests) == 2


def test_a_single_group_needs_no_name():
    assert len(scenarios.build("chat", {"workload.requests": "3"}).requests) == 3


def test_changing_the_kind_keeps_what_both_kinds_have():
    spec = scenarios.build("starter", {"workload.long-prompt.arrivals.kind": "at-once", "workload.chat.requests": "6"})
    assert {r.arrival_ns for r in spec.requests if r.group == "long-prompt"} == {3_000_000_000}


def test_a_speed_that_puts_arrivals_beyond_all_time_is_refused():
    with pytest.raises(scenarios.ConfigError, match="speed"):
        scenarios.build("chat", {"workload.speed": "1e-300"})


def test_speed_divides_arrival_times():
    slow, fast = (scenarios.build("burst", {"workload.speed": s}).requests for s in ("1", "4"))
    assert [r.arrival_ns for r in fast] == [pytest.approx(r.arrival_ns / 4, abs=1) for r in slow]


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("workload.requests", "workload.chat.requests"),
        ("workload.caht.requests", "workload.chat"),
        ("workload.chat.request", "requests"),
        ("workload.chat.arrivals.client", "clients"),
        ("wrkload.seed", "Known here"),
    ],
)
def test_an_unknown_workload_setting_is_answered_with_the_nearest(name: str, mend: str):
    with pytest.raises(scenarios.ConfigError) as caught:
        scenarios.build("starter", {name: "3"})
    assert mend in caught.value.mend


def test_total_tokens_are_split_by_their_ratio(tmp_path: Path):
    text = GOOD.replace(
        "output_tokens: 8",
        "total_tokens: {kind: zipf, theta: 0.6, low: 1024, high: 4096}, prompt_to_output: 20, prompt: {kind: tokens}",
    )
    (tmp_path / "s.yaml").write_text(text, encoding="utf-8")
    for request in scenarios.build(tmp_path / "s.yaml", {"workload.requests": "40"}).requests:
        total = len(request.prompt_token_ids) + request.max_tokens
        assert 1024 <= total <= 4096
        assert request.max_tokens == pytest.approx(total / 21, abs=1)


def test_every_key_of_a_group_reaches_the_request(tmp_path: Path):
    keys = "ignore_eos: true, temperature: 0.5, priority: 3, cancel_after_s: 1.5"
    (tmp_path / "k.yaml").write_text(GOOD.replace("requests: 2", f"requests: 1, {keys}"), encoding="utf-8")
    (request,) = scenarios.build(tmp_path / "k.yaml").requests
    assert request.sampling.ignore_eos
    assert request.sampling.temperature == 0.5
    assert (request.priority, request.cancel_after_ns) == (3, 1_500_000_000)


def test_a_file_without_engine_settings_takes_the_defaults(tmp_path: Path):
    (tmp_path / "d.yaml").write_text(GOOD.replace("engine: {max_num_seqs: 4}", ""), encoding="utf-8")
    assert scenarios.build(tmp_path / "d.yaml").engine == EngineConfig()
