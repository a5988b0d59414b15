"""Sized scenarios ask the same share of every machine, and say so; what contradicts that is refused by name."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

import scenarios
from engine.config import EngineConfig, RunSpec
from engine.config.rates import MachineRates
from scenarios.build import NOT_SIZED
from tests.scenarios.modelled import MACHINES, TWO_CORES

RATES = TWO_CORES.rates()
GIVEN = {
    "workload.sizing.kind": "given",
    "workload.sizing.prefill_tokens_per_s": str(RATES.prefill_tokens_per_s),
    "workload.sizing.step_ms": str(RATES.step_ms),
    "workload.sizing.batch_step_ms": str(RATES.batch_step_ms),
    "workload.sizing.tokens_per_word": str(RATES.tokens_per_word),
}
SIZED = [
    i.name for i in scenarios.available() if any(g.sized_by for g in scenarios.load(i.name).workload.groups.values())
]
BY_LOAD = ["chat", "shared-prompt", "memory-bound", "burst", "few-shot", "reasoning"]
OWN = """
title: A
summary: B
question: C
workload:
  groups:
    users: {requests: 2, output_tokens: 8, ARRIVALS}
"""


def measured(config: EngineConfig) -> MachineRates:
    return RATES


def rate_of(spec: RunSpec) -> float:
    times = [r.arrival_ns / 1e9 for r in spec.requests]
    return (len(times) - 1) / (times[-1] - times[0])


@pytest.mark.parametrize("name", BY_LOAD)
def test_every_machine_is_asked_the_same_share_of_what_it_can_serve(name: str):
    shares = []
    for machine in MACHINES.values():
        rates = machine.rates()
        spec = scenarios.build(name, measure=machine.rates)
        (group,) = spec.sizing.groups.values()
        words = [len(f"{r.prompt} {r.system or ''}".split()) for r in spec.requests]
        tokens = rates.tokens_per_word * sum(words) / len(words) + 30 * spec.requests[0].chat
        answer = sum(r.max_tokens for r in spec.requests) / len(spec.requests)
        work = rates.work_s(tokens, answer, spec.engine.max_num_seqs)
        shares.append(group.requests_per_s * work / group.load)
    assert shares == [pytest.approx(1, rel=0.2)] * len(shares)  # the rule takes the mean of the first 16 requests


@pytest.mark.parametrize("name", SIZED)
def test_the_pattern_of_arrivals_is_the_same_on_every_machine(name: str):
    written = scenarios.build(name)
    for machine in MACHINES.values():
        sized = scenarios.build(name, measure=machine.rates)
        for group, fitted in sized.sizing.groups.items():
            before, after = ([r.arrival_ns for r in s.requests if r.group == group] for s in (written, sized))
            assert after == [pytest.approx(at * fitted.stretch, abs=100) for at in before]


def test_without_rates_and_with_fixed_the_times_are_those_of_the_file():
    written = scenarios.build("chat")
    fixed = scenarios.build("chat", {"workload.sizing": "fixed"}, measure=measured)
    assert (written.requests, written.sizing) == (fixed.requests, None)
    assert scenarios.build("ragged", measure=measured).sizing is None
    assert NOT_SIZED not in fixed.labels


def test_rates_that_cannot_be_had_are_said_in_the_labels():
    spec = scenarios.build("chat", measure=lambda config: None)
    assert spec.requests == scenarios.build("chat").requests
    assert NOT_SIZED in spec.labels


def test_given_rates_give_the_same_requests_on_every_machine_and_the_spec_keeps_them():
    there = scenarios.build("starter", measure=measured)
    here = scenarios.build("starter", GIVEN, measure=MACHINES["GPU"].rates)
    assert here.requests == there.requests
    assert here.workload_hash == there.workload_hash
    assert RunSpec.model_validate_json(there.model_dump_json()) == there
    assert there.sizing.rates == RATES


def test_rates_are_asked_for_once_and_for_the_settings_of_the_run():
    asked: list[EngineConfig] = []

    def measure(config: EngineConfig) -> MachineRates:
        asked.append(config)
        return RATES

    scenarios.build("starter", {"dtype": "float32", "threads": "3"}, measure=measure)
    assert [(config.dtype, config.threads) for config in asked] == [("float32", 3)]


def test_more_requests_begin_with_the_same_ones_when_sized():
    few, many = (scenarios.build("chat", {"workload.requests": n}, measure=measured).requests for n in ("5", "40"))
    assert many[:5] == few


def test_speed_and_load_change_a_sized_rate():
    plain, double, fuller = (
        rate_of(scenarios.build("chat", changes, measure=measured))
        for changes in ({}, {"workload.speed": "2"}, {"workload.sized_by.load": "1.4"})
    )
    assert double == pytest.approx(2 * plain)
    assert fuller == pytest.approx(2 * plain)


def test_times_set_by_hand_are_taken_as_given():
    spec = scenarios.build(
        "chat", {"workload.arrivals.kind": "interval", "workload.arrivals.every_s": "2"}, measure=measured
    )
    assert {b.arrival_ns - a.arrival_ns for a, b in pairwise(spec.requests)} == {2_000_000_000}
    mixed = scenarios.build("starter", {"workload.long-prompt.arrivals.think_s": "9"}, measure=measured)
    assert mixed.sizing.as_given == ("long-prompt",)
    assert "long-prompt: times as given" in mixed.sizing.in_words
    assert {r.arrival_ns for r in mixed.requests if r.group == "long-prompt" and r.after} == {9_000_000_000}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"workload.arrivals.rate": "3", "workload.sized_by.load": "0.5"}, "sized_by"),
        ({"workload.arrivals.rate": "3", "workload.sizing": "machine"}, "workload.sizing"),
        ({"workload.arrivals.rate": "3"} | GIVEN, "workload.sizing"),
        ({"workload.sizing": "fixed", "workload.sized_by.load": "0.5"}, "workload.sizing=fixed"),
        ({"workload.sized_by.step_ms": "20"}, "either load or step_ms"),
        ({"workload.sizing": "fixd"}, "no such kind"),
        ({"workload.sizing.kind": "given"}, "missing"),
        ({"workload.sized_by.load": "0"}, "too small"),
        ({"workload.sized_by.prefill_steps": "9"}, "documents"),
    ],
)
def test_a_contradiction_is_refused_by_name(changes: dict[str, str], named: str):
    with pytest.raises(scenarios.ConfigError) as caught:
        scenarios.build("chat", changes, measure=measured)
    assert named in f"{caught.value.message} {caught.value.mend}"
    assert caught.value.field.startswith("workload.")


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ("sized_by: {load: 1}", "interval"),
        ("arrivals: {kind: closed-loop, clients: 2}, sized_by: {load: 1}", "interval"),
        ("arrivals: {kind: interval, every_s: 0}, sized_by: {load: 1}", "some time apart"),
        ("sized_by: {}", "Give load"),
        ("prompt: {kind: documents}, prompt_tokens: 9, sized_by: {prefill_steps: 3}", "without prompt_tokens"),
    ],
)
def test_a_file_that_cannot_be_sized_so_is_refused(tmp_path: Path, keys: str, named: str):
    (tmp_path / "own.yaml").write_text(OWN.replace("ARRIVALS", keys), encoding="utf-8")
    with pytest.raises(scenarios.ScenarioError) as caught:
        scenarios.load(tmp_path / "own.yaml")
    assert named in caught.value.message


def test_prompts_grow_where_the_machine_computes_them_fast_and_never_beyond_the_model():
    words = {
        name: scenarios.build("starter", measure=m.rates).sizing.groups["long-prompt"].words
        for name, m in MACHINES.items()
    }
    assert words["slow prompts"] == scenarios.load("starter").workload.groups["long-prompt"].prompt.words
    assert words["two cores"] < words["many cores"] < words["GPU"]
    tight = RATES.model_copy(update={"prefill_tokens_per_s": 1e6, "longest": 2048})
    spec = scenarios.build("starter", measure=lambda config: tight)
    assert spec.sizing.groups["long-prompt"].words * tight.tokens_per_word + 24 < 2048


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"workload.requests": "20001"}, "20000"),
        (
            {"workload.requests": "20000", "workload.prompt.kind": "tokens", "workload.prompt_tokens": "251"},
            "5,000,000",
        ),
        (
            {"workload.requests": "3000", "workload.prompt.kind": "documents", "workload.prompt.words": "9000"},
            "5,000,000",
        ),
    ],
)
def test_a_workload_larger_than_a_spec_may_be_is_refused(changes: dict[str, str], named: str):
    with pytest.raises(scenarios.ConfigError) as caught:
        scenarios.build("chat", changes)
    assert "requests" in caught.value.field
    assert named in f"{caught.value.message} {caught.value.mend}"


def test_the_groups_of_a_workload_are_bounded_together():
    with pytest.raises(scenarios.ConfigError, match="20,000"):
        scenarios.build("starter", {"workload.chat.requests": "15000", "workload.long-prompt.requests": "9000"})
