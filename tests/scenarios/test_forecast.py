"""A run on paper: how long it takes and what it holds at once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scenarios
from engine.config import MachineRates
from scenarios.forecast import Expected, forecast
from scenarios.preview import preview

RATES = MachineRates(prefill_tokens_per_s=1000, step_ms=10, batch_step_ms=24)


def test_one_request_takes_its_prompt_and_its_steps():
    ahead = forecast([Expected(5.0, 1000, 11)], RATES, places=4, block_size=16)
    assert ahead.run_s == pytest.approx(1.0 + 10 * 0.010)
    assert (ahead.running, ahead.waiting, ahead.tokens) == (1, 0, 1011)
    assert ahead.blocks == 64 + 1


def test_requests_beyond_the_places_wait_for_one():
    ahead = forecast([Expected(0.0, 10, 11)] * 3, RATES, places=1, block_size=16)
    assert ahead.run_s == pytest.approx(3 * (0.010 + 10 * 0.010))
    assert (ahead.running, ahead.waiting, ahead.tokens) == (1, 2, 21)


def test_who_follows_comes_after_the_answer_and_a_pause():
    ahead = forecast([Expected(0.0, 1000, 1), Expected(2.0, 1000, 1, after=0)], RATES, places=8, block_size=16)
    assert ahead.run_s == pytest.approx(1.0 + 2.0 + 1.0)
    assert ahead.running == 1


requests = st.lists(
    st.builds(Expected, st.floats(0, 100), st.integers(1, 500), st.integers(1, 50)), min_size=1, max_size=60
)


@settings(deadline=None)
@given(requests, st.integers(1, 8))
def test_nothing_is_lost_and_more_places_hold_more_at_once(asked: list[Expected], places: int):
    ahead = forecast(asked, RATES, places, block_size=16)
    longest = sorted((one.prompt_tokens + one.output_tokens for one in asked), reverse=True)
    assert longest[0] <= ahead.tokens <= sum(longest[:places])
    assert ahead.tokens / 16 <= ahead.blocks
    assert 1 <= ahead.running <= min(places, len(asked))
    alone_s = sum(one.prompt_tokens for one in asked) / 1000
    assert ahead.run_s >= alone_s - 1e-9


def test_a_large_workload_is_served_on_paper_too():
    asked = [Expected(n * 0.001, 100, 200) for n in range(20_000)]
    assert forecast(asked, RATES, places=4096, block_size=16).running == 4096


@pytest.mark.parametrize("name", ["starter", "memory-bound", "agents"])
def test_the_preview_says_how_long_and_how_much(name: str):
    ahead = preview(scenarios.build(name), RATES)
    assert ahead.run_s is not None
    assert ahead.run_s >= ahead.arrive_within_s - 1e-6
    said = " ".join(ahead.estimate)
    assert "from the first request to the last answer" in said
    assert f"{ahead.pool_blocks:,} blocks" in said
    assert ("requests will wait for blocks" in said) == (
        ahead.kv_blocks is not None and ahead.pool_blocks > ahead.kv_blocks
    )


def test_where_the_machine_is_not_known_the_pool_is_bounded_all_the_same():
    ahead = preview(scenarios.build("chat", {"workload.sizing": "fixed"}))
    known = preview(scenarios.build("chat", {"workload.sizing": "fixed"}), RATES)
    assert ahead.run_s is None
    assert ahead.pool_tokens >= known.pool_tokens
    assert "not known" in " ".join(ahead.estimate)
