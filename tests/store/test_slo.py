"""Objectives count every request that was asked; capacity is found, or said not to be there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.slo import PRESETS, Slo, attainment, capacity, goodput, relative

SLO = Slo("test", ttft_ms=100, tpot_ms=10)


def test_a_dropped_request_counts_as_missed() -> None:
    ttft = np.array([50.0, 150.0, np.nan, 90.0])
    tpot = np.array([5.0, 5.0, np.nan, 50.0])
    assert attainment(ttft, tpot, 4, SLO) == 0.25
    assert attainment(ttft, tpot, 8, SLO) == 0.125
    assert attainment(np.array([]), np.array([]), 0, SLO) is None


def test_a_request_with_one_token_needs_only_the_first_token_in_time() -> None:
    assert attainment(np.array([50.0]), np.array([np.nan]), 1, SLO) == 1.0


def test_goodput_is_the_highest_rate_before_attainment_breaks() -> None:
    assert goodput([4, 1, 2, 8], [0.5, 1.0, 0.95, 0.92]) == 2
    assert goodput([1, 2], [0.5, 0.4]) is None


@given(st.floats(0.2, 90))
def test_bisection_finds_the_knee(knee: float) -> None:
    found = capacity(lambda rate: rate <= knee, 0.1, 100, tolerance=0.01)
    assert found is not None
    assert found <= knee
    assert found == pytest.approx(knee, rel=0.02)


def test_capacity_outside_the_range_is_said() -> None:
    assert capacity(lambda rate: False, 1, 8) is None
    assert capacity(lambda rate: True, 1, 8) == 8
    with pytest.raises(ValueError, match="low"):
        capacity(lambda rate: True, 8, 1)


def test_objectives_scale() -> None:
    assert PRESETS["chat-13b"].scaled(2).ttft_ms == 500
    assert relative(20, 4, 25).tpot_ms == 100
