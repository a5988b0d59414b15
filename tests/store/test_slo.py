"""Objectives count every request that was asked; capacity is found, or said not to be there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.errors import StoreError
from store.slo import PRESETS, Alone, Bisection, Slo, attainment, capacity, goodput, parse_slo

SLO = Slo("test", ttft=100, tpot=10)
LENGTHS = np.full(4, 50.0)


def test_a_dropped_request_counts_as_missed() -> None:
    ttft = np.array([50.0, 150.0, np.nan, 90.0])
    tpot = np.array([5.0, 5.0, np.nan, 50.0])
    assert attainment(ttft, tpot, 4, SLO, LENGTHS) == 0.25
    assert attainment(ttft, tpot, 8, SLO, LENGTHS) == 0.125
    assert attainment(np.array([]), np.array([]), 0, SLO, LENGTHS[:0]) is None


def test_a_request_with_one_token_needs_only_the_first_token_in_time() -> None:
    assert attainment(np.array([50.0]), np.array([np.nan]), 1, SLO, LENGTHS[:1]) == 1.0


def test_goodput_is_the_highest_rate_before_attainment_breaks() -> None:
    assert goodput([4, 1, 2, 8], [0.5, 1.0, 0.95, 0.92]) == 2
    assert goodput([1, 2], [0.5, 0.4]) is None


@given(st.floats(0.2, 90))
def test_bisection_finds_the_knee(knee: float) -> None:
    highest = capacity(lambda rate: rate <= knee, 0.1, 100, tolerance=0.01)
    assert highest is not None
    assert highest <= knee
    assert highest == pytest.approx(knee, rel=0.02)


def test_capacity_outside_the_range_is_said() -> None:
    assert capacity(lambda rate: False, 1, 8) is None
    assert capacity(lambda rate: True, 1, 8) == 8
    with pytest.raises(ValueError, match="low"):
        capacity(lambda rate: True, 8, 1)


def test_objectives_scale() -> None:
    assert PRESETS["chat-13b"].scaled(2).ttft == 500
    alone = Alone(step_ms=4, prompt_token_ms=0.5)
    ttft, tpot = PRESETS["relaxed"].bounds_ms(np.array([2.0, 100.0]), alone)
    assert ttft.tolist() == [100, 1250], "a short prompt takes one step at least"
    assert tpot == 100
    with pytest.raises(ValueError, match="alone"):
        PRESETS["strict"].bounds_ms(LENGTHS, None)


def test_objectives_are_read_as_people_write_them() -> None:
    assert parse_slo("chat-13b") is PRESETS["chat-13b"]
    assert parse_slo("ttft=250, tpot=80") == Slo("ttft=250, tpot=80", 250, 80)
    assert parse_slo("7.5x") == Slo("7.5x", 7.5, 7.5, relative=True)
    for wrong in ("", "fast", "ttft=250", "ttft=-1,tpot=5", "ttft=nan,tpot=5", "0x", "ttft=1,tpot=2,ttft=3"):
        with pytest.raises(StoreError, match="no objective"):
            parse_slo(wrong)


@given(st.floats(0.15, 90), st.integers(0, 12))
def test_a_search_goes_on_wherever_it_stopped(knee: float, stopped_after: int) -> None:
    search, tried = Bisection(0.1, 100, 0.02), dict[float, bool]()
    while (rate := search.next_rate(tried)) is not None:
        tried[rate] = rate <= knee
        if len(tried) == stopped_after:
            tried = dict(reversed(tried.items()))  # read back from a file, in another order
    held, failed = search.bracket(tried)
    assert held is not None
    assert failed is not None
    assert held <= knee < failed <= held * 1.0201
    assert len(tried) <= search.most_probes()
