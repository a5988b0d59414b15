"""The preview says beforehand what a run will ask: nothing is lost on the way, and shared text and load are what they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import scenarios
from engine.config import MachineRates
from scenarios.preview import BINS, bins, preview

RATES = MachineRates(prefill_tokens_per_s=1000, step_ms=10, batch_step_ms=24)
NAMES = [info.name for info in scenarios.available()]


@pytest.mark.parametrize("name", NAMES)
def test_every_request_is_in_every_picture(name: str):
    spec = scenarios.build(name)
    expected = preview(spec, RATES)
    assert expected.requests == len(spec.requests) == sum(expected.groups.values())
    assert (
        sum(one.count for one in expected.prompt_lengths)
        == sum(one.count for one in expected.output_lengths)
        == expected.requests
    )
    assert sum(one.count for one in expected.arrivals_s) == expected.requests - expected.following
    assert expected.output_tokens == sum(r.max_tokens for r in spec.requests)
    assert 0 <= expected.shared_tokens < expected.prompt_tokens
    assert expected.work_s > 0
    assert all(sentence.endswith(".") for sentence in expected.in_words)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200))
def test_bins_count_every_value_once(values: list[float]):
    counted = bins(values)
    assert sum(one.count for one in counted) == len(values)
    assert len(counted) <= BINS
    assert counted[0].start == min(values)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=200))
def test_bins_of_lengths_begin_and_end_at_whole_numbers(values: list[int]):
    counted = bins(values, whole=True)
    for one in counted:
        assert one.count == sum(one.start <= value < one.end for value in values)
    assert sum(one.count for one in counted) == len(values)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_shared_tokens_are_those_that_a_cache_can_find(share: float):
    asked = {"workload.prompt.share": str(share), "workload.prompt_tokens": "512"}
    expected = preview(scenarios.build("hit-rate", asked), RATES)
    assert expected.shared_tokens / expected.prompt_tokens == pytest.approx(share, abs=0.02)


def test_a_turn_is_as_long_as_the_talk_before_it():
    asked = {
        "workload.programs.output_tokens": "10",
        "workload.programs.requests": "3",
        "workload.programs.arrivals.turns": "3",
    }
    expected = preview(scenarios.build("agents", asked), RATES)
    assert expected.following == 2
    first = expected.prompt_lengths[0].start
    assert expected.prompt_lengths[-1].end - 1 >= first + 2 * 10
    assert expected.shared_tokens >= 2 * (first + 10)


def test_the_load_is_work_over_the_time_it_comes_in():
    asked = {
        "workload.users.arrivals": '{"kind": "interval", "every_s": 2}',
        "workload.users.prompt": '{"kind": "tokens"}',
        "workload.users.prompt_tokens": "500",
        "workload.users.output_tokens": "1",
        "workload.users.requests": "11",
    }
    expected = preview(scenarios.build("hit-rate", asked), RATES)
    assert expected.arrive_within_s == 20
    assert expected.work_s == pytest.approx(11 * 0.5)
    assert expected.load == pytest.approx(0.25)
    assert preview(scenarios.build("hit-rate", asked | {"workload.speed": "8"}), RATES).load == pytest.approx(2)


def test_load_is_what_a_sized_scenario_asks_for():
    asked = {"workload.requests": "400", "workload.sizing.kind": "given"} | {
        f"workload.sizing.{key}": str(getattr(RATES, key))
        for key in ("prefill_tokens_per_s", "step_ms", "batch_step_ms")
    }
    assert preview(scenarios.build("chat", asked)).load == pytest.approx(0.7, rel=0.15)


def test_without_rates_no_load_is_said():
    expected = preview(scenarios.build("chat"))
    assert expected.work_s is None
    assert expected.load is None
    assert "not known" in expected.in_words[-1]
    assert preview(scenarios.build("ragged"), RATES).load is None
