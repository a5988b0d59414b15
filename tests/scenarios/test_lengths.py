"""Length distributions: their bounds, their means, and the figures published about them."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenarios.lengths import Fixed, FromTrace, Lognormal, Normal, Reasoning, Uniform, Zipf
from scenarios.streams import stream

MANY = 100_000


def draws(lengths, count: int = MANY) -> list[int]:
    rng = stream(0, "lengths")
    return [lengths.draw(rng, 0) for _ in range(count)]


def test_fixed_is_fixed():
    assert set(draws(Fixed(tokens=7), 100)) == {7}


def test_uniform_takes_both_ends_and_all_between():
    lengths = draws(Uniform(low=3, high=9))
    assert set(lengths) == set(range(3, 10))
    assert statistics.fmean(lengths) == pytest.approx(6, rel=0.05)


def test_normal_keeps_mean_and_deviation():
    lengths = draws(Normal(mean=1200, cv=0.3))
    assert statistics.fmean(lengths) == pytest.approx(1200, rel=0.05)
    assert statistics.stdev(lengths) == pytest.approx(360, rel=0.05)


def test_lognormal_keeps_its_median_and_sigma():
    lengths = sorted(draws(Lognormal(median=800, sigma=1.0)))
    assert lengths[MANY // 2] == pytest.approx(800, rel=0.05)
    assert lengths[int(MANY * 0.8413)] / lengths[MANY // 2] == pytest.approx(2.718, rel=0.05)


def test_zipf_has_the_shape_of_burstgpt_demo():
    lengths = sorted(draws(Zipf(theta=1.1, low=1, high=1024)))
    assert statistics.fmean(lengths) == pytest.approx(102, rel=0.05)
    assert lengths[MANY // 2] == pytest.approx(12, abs=1)
    assert lengths[int(MANY * 0.90)] == pytest.approx(355, rel=0.05)
    assert lengths[int(MANY * 0.99)] == pytest.approx(916, rel=0.05)


def test_zipf_of_theta_zero_is_uniform():
    assert statistics.fmean(draws(Zipf(theta=0, low=1, high=99))) == pytest.approx(50, rel=0.05)


@given(
    lengths=st.one_of(
        st.builds(Normal, mean=st.floats(1, 500), cv=st.floats(0, 5), low=st.just(10), high=st.just(90)),
        st.builds(Lognormal, median=st.floats(1, 500), sigma=st.floats(0, 5), low=st.just(10), high=st.just(90)),
        st.builds(Zipf, theta=st.floats(0, 10), low=st.just(10), high=st.just(90)),
        st.builds(Uniform, low=st.just(10), high=st.just(90)),
    )
)
def test_no_length_leaves_its_bounds(lengths):
    assert all(10 <= n <= 90 for n in draws(lengths, 50))


def test_a_thought_is_cut_at_its_budget():
    lengths = draws(Reasoning(median=800, sigma=2, budget=1000, answer_low=50, answer_high=60), 1000)
    assert max(lengths) <= 1060
    assert min(lengths) >= 51
    assert sum(n >= 1050 for n in lengths) > 300


def test_a_traced_length_is_scaled_and_never_zero():
    assert FromTrace(scale=0.5).draw(stream(0), 200) == 100
    assert FromTrace(scale=0.001).draw(stream(0), 3) == 1
    assert FromTrace(high=64).draw(stream(0), 999) == 64
