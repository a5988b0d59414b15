"""Predicates of claims: rows that satisfy them, rows that do not, and noise, which decides nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.predicates import (
    Judged,
    crossing,
    difference,
    level,
    monotone,
    rank,
    ratio,
    slope,
    slopes,
    within,
    worst,
)

X = (1.0, 2.0, 4.0, 8.0)
REPEATS = 5


def rows(*means: float, noise: float = 0.001, seed: int = 0) -> np.ndarray:
    """Repeats around each point's mean, scattered by a share of it."""
    random = np.random.default_rng(seed)
    return np.array(means)[:, None] * (1 + noise * random.standard_normal((len(means), REPEATS)))


def noisy(*means: float) -> np.ndarray:
    """The same means under scatter that hides them."""
    return np.array(means)[:, None] * np.array([0.1, 2.5, 0.3, 1.9, 0.2])


WILD = np.array([[1, 9, 2, 7, 3], [8, 2, 6, 1, 9], [3, 8, 1, 9, 2], [7, 1, 8, 2, 6]], np.float64)


def line(rise: float, noise: float = 0.001, seed: int = 0) -> np.ndarray:
    return rows(*(10 + rise * x for x in X), noise=noise, seed=seed)


Case = tuple[str, Callable[[], Judged]]
CASES: dict[str, list[Case]] = {
    "ratio": [
        ("reproduced", lambda: ratio(rows(2.0), rows(1.0), ">=", 1.5)),
        ("reproduced", lambda: ratio(rows(0.4), rows(1.0), "<=", 0.5)),
        ("direction only", lambda: ratio(rows(1.2), rows(1.0), ">=", 1.5)),
        ("direction only", lambda: ratio(rows(0.8), rows(1.0), "<=", 0.5)),
        ("not reproduced", lambda: ratio(rows(0.9), rows(1.0), ">=", 1.5)),
        ("not reproduced", lambda: ratio(rows(2.0, 0.9), rows(1.0, 1.0), ">=", 1.5)),
        ("inconclusive", lambda: ratio(noisy(2.0), rows(1.0), ">=", 1.5)),
        ("inconclusive", lambda: ratio(rows(0.0), rows(1.0), ">=", 1.5)),
        ("inconclusive", lambda: ratio(np.array([[2.0]]), np.array([[1.0]]), ">=", 1.5)),
    ],
    "difference": [
        ("reproduced", lambda: difference(rows(5.0), rows(1.0), ">=", 3)),
        ("direction only", lambda: difference(rows(2.0), rows(1.0), ">=", 3)),
        ("not reproduced", lambda: difference(rows(1.0), rows(2.0), ">=", 3)),
        ("inconclusive", lambda: difference(noisy(5.0), rows(1.0), ">=", 3)),
    ],
    "level": [
        ("reproduced", lambda: level(rows(0.4), "<=", 0.5)),
        ("not reproduced", lambda: level(rows(0.6), "<=", 0.5)),
        ("direction only", lambda: level(rows(0.6), "<=", 0.5, neutral=1.0)),
        ("inconclusive", lambda: level(noisy(0.4), "<=", 0.5)),
    ],
    "slope": [
        ("reproduced", lambda: slope(line(8), line(1), X, 4)),
        ("reproduced", lambda: slope(line(8), line(0), X, 4)),
        ("direction only", lambda: slope(line(2), line(1), X, 4)),
        ("not reproduced", lambda: slope(line(1), line(2), X, 4)),
        ("inconclusive", lambda: slope(noisy(18, 26, 42, 74), line(1), X, 4)),
    ],
    "crossing": [
        ("reproduced", lambda: crossing(line(2), rows(15, 15, 15, 15), X)),
        ("not reproduced", lambda: crossing(line(2), rows(1, 1, 1, 1), X)),
        ("inconclusive", lambda: crossing(noisy(12, 14, 18, 26), rows(15, 15, 15, 15), X)),
    ],
    "monotone": [
        ("reproduced", lambda: monotone(rows(1, 2, 3, 4), X, "rises")),
        ("reproduced", lambda: monotone(rows(4, 3, 2, 1), X, "falls")),
        ("direction only", lambda: monotone(rows(1, 3, 2, 4), X, "rises")),
        ("not reproduced", lambda: monotone(rows(4, 3, 2, 1), X, "rises")),
        ("inconclusive", lambda: monotone(WILD, X, "rises")),
    ],
    "rank": [
        ("reproduced", lambda: rank([rows(1), rows(2), rows(3)], "abc")),
        ("direction only", lambda: rank([rows(1), rows(3), rows(2)], "abc")),
        ("not reproduced", lambda: rank([rows(3), rows(2), rows(1)], "abc")),
        ("inconclusive", lambda: rank([WILD[:1], WILD[1:2], WILD[2:3]], "abc")),
    ],
    "within": [
        ("reproduced", lambda: within(rows(1.05, 1.0), [rows(1, 2), rows(2, 1)], 0.1, "lower")),
        ("reproduced", lambda: within(rows(2, 3), [rows(1, 2), rows(2, 1)], 0.1, "higher")),
        ("not reproduced", lambda: within(rows(1.05, 1.5), [rows(1, 2), rows(2, 1)], 0.1, "lower")),
        ("inconclusive", lambda: within(noisy(1.05), [rows(1)], 0.1, "lower")),
    ],
}


@pytest.mark.parametrize(
    ("expected", "judge"), [pytest.param(*case, id=kind) for kind in CASES for case in CASES[kind]]
)
def test_a_predicate_says_what_its_rows_say(expected: str, judge: Callable[[], Judged]):
    assert judge().outcome == expected


def test_every_predicate_is_tried_on_good_rows_bad_rows_and_noise():
    for cases in CASES.values():
        assert {"reproduced", "not reproduced", "inconclusive"} <= {expected for expected, _ in cases}


def test_all_predicates_of_a_claim_must_hold():
    assert worst(["reproduced", "direction only"]) == "direction only"
    assert worst(["reproduced", "inconclusive", "direction only"]) == "inconclusive"
    assert worst(["inconclusive", "not reproduced"]) == "not reproduced"
    assert worst(["reproduced"] * 3) == "reproduced"


def test_counts_that_do_not_scatter_are_decided_by_two_repeats_and_not_by_one():
    assert ratio(np.full((1, 2), 4.0), np.full((1, 2), 1.0), ">=", 3).outcome == "reproduced"
    assert ratio(np.full((1, 1), 4.0), np.full((1, 1), 1.0), ">=", 3).outcome == "inconclusive"


UNKNOWN = np.full((4, REPEATS), np.nan)


@pytest.mark.parametrize(
    "judged",
    [
        ratio(UNKNOWN, rows(1, 1, 1, 1), ">=", 1.5),
        difference(UNKNOWN, rows(1, 1, 1, 1), ">=", 0),
        level(UNKNOWN, "<=", 1),
        slope(UNKNOWN, line(1), X, 2),
        crossing(UNKNOWN, line(1), X),
        monotone(UNKNOWN, X, "rises"),
        rank([rows(1, 1, 1, 1), UNKNOWN], "ab"),
        within(UNKNOWN, [line(1)], 0.1, "lower"),
    ],
)
def test_a_figure_without_a_value_decides_nothing(judged: Judged):
    assert judged.outcome == "inconclusive"


@given(st.floats(0.1, 10), st.floats(-5, 5))
def test_a_slope_is_that_of_least_squares(rise: float, start: float):
    places = [1.0, 3.0, 4.0]
    figure = np.array([[start + rise * x] for x in places])
    assert slopes(figure, places)[0] == pytest.approx(np.polyfit(places, figure[:, 0], 1)[0])


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.floats(0.001, 1000))
def test_a_ratio_does_not_depend_on_the_unit(top: float, bottom: float, unit: float):
    a, b = rows(top), rows(bottom, seed=2)
    plain, scaled = ratio(a, b, ">=", 1.5), ratio(a * unit, b * unit, ">=", 1.5)
    assert scaled.outcome == plain.outcome
    assert scaled.value == pytest.approx(plain.value)


@pytest.mark.parametrize("seed", range(20))
def test_noise_around_no_effect_is_hardly_ever_called_an_effect(seed: int):
    """Twenty tries of figures that do not differ: none is called reproduced."""
    assert (
        ratio(rows(1.0, noise=0.05, seed=seed), rows(1.0, noise=0.05, seed=seed + 99), ">=", 1.2).outcome
        != "reproduced"
    )
