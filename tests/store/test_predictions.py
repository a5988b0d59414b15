"""A prediction against the measured interval: right within it, right direction, wrong, open; and whether an effect showed."""

from __future__ import annotations

import numpy as np
import pytest

from store.predictions import choice, curve, number, ordering, shows

TWICE = np.array([1.95, 2.0, 2.05])  # interval: 1.88 to 2.12
NOTHING = np.array([0.9, 1.0, 1.1])
NO_VALUE = np.array([np.nan, 2.0, 2.0])


@pytest.mark.parametrize(
    ("predicted", "score"), [(2.0, "right"), (1.9, "right"), (2.5, "direction"), (1.2, "direction"), (0.8, "wrong"), (1.0, "wrong")]
)  # fmt: skip
def test_a_number_is_right_within_the_interval_and_has_the_direction_on_its_side_of_no_effect(
    predicted: float, score: str
) -> None:
    assert number(predicted, TWICE, close=0.0, neutral=1.0).score == score


def test_a_number_just_beside_the_interval_is_right_where_the_question_says_so() -> None:
    assert number(2.2, TWICE, close=0.0, neutral=1.0).score == "direction"
    assert number(2.2, TWICE, close=0.1, neutral=1.0).score == "right"
    assert number(8.0, np.array([8.0, 8.0, 8.0]), close=0.0, neutral=0.0).score == "right", "a count has no width"


def test_a_number_without_a_value_of_no_effect_has_no_direction() -> None:
    assert number(2.5, TWICE, close=0.0, neutral=None).score == "wrong"


@pytest.mark.parametrize(
    ("low", "high", "score"),
    [(1.5, 2.5, "right"), (2.0, None, "right"), (1.1, 1.5, "direction"), (1.0, 1.5, "direction"), (3.0, None, "direction"),
     (None, 0.9, "wrong"), (0.9, 1.1, "wrong")],
)  # fmt: skip
def test_an_answer_is_right_where_the_interval_reaches_into_it(
    low: float | None, high: float | None, score: str
) -> None:
    assert choice(low, high, TWICE, neutral=1.0).score == score


def test_two_answers_that_the_interval_does_not_tell_apart_are_both_right() -> None:
    wide = np.array([1.0, 1.2, 1.4])
    assert choice(None, 1.2, wide, neutral=1.0).score == choice(1.2, None, wide, neutral=1.0).score == "right"


def figures(**values: float) -> dict[str, np.ndarray]:
    return {name: value + np.array([-0.1, 0.0, 0.1]) for name, value in values.items()}


def test_an_order_is_right_where_no_pair_is_surely_the_other_way_round() -> None:
    measured = figures(a=1, b=2, c=3)
    assert ordering(("a", "b", "c"), measured).score == "right"
    swapped = ordering(("b", "a", "c"), measured)
    assert (swapped.score, swapped.right, swapped.parts) == ("direction", 2, 3)
    backwards = ordering(("c", "b", "a"), measured)
    assert (backwards.score, backwards.right) == ("wrong", 0)


def test_figures_that_cannot_be_told_apart_may_stand_in_any_order() -> None:
    alike = {"a": np.array([1.0, 1.2, 0.9]), "b": np.array([1.1, 1.0, 1.0]), "c": np.array([5.0, 5.1, 4.9])}
    assert ordering(("a", "b", "c"), alike).score == ordering(("b", "a", "c"), alike).score == "right"


RISES = np.array([[1.0, 1.0, 1.0], [1.9, 2.0, 2.1], [3.8, 4.0, 4.2]])


@pytest.mark.parametrize(
    ("predicted", "score", "right"),
    [((1, 2, 4), "right", 3), ((1, 3, 9), "direction", 1), ((1, 1, 1), "wrong", 1), ((4, 2, 1), "wrong", 1)],
)
def test_a_curve_is_right_at_every_point_and_has_the_direction_from_first_to_last(
    predicted: tuple[float, ...], score: str, right: int
) -> None:
    scored = curve(predicted, RISES, close=0.05)
    assert (scored.score, scored.right, scored.parts) == (score, right, 3)


def test_a_figure_without_a_value_leaves_every_kind_open() -> None:
    assert number(2.0, NO_VALUE, close=0.1, neutral=1.0).score == "open"
    assert choice(1.0, 3.0, NO_VALUE, neutral=1.0).score == "open"
    assert ordering(("a", "b"), {"a": NO_VALUE, "b": TWICE}).score == "open"
    assert curve((1.0, 2.0), np.array([NO_VALUE, TWICE]), close=0.1).score == "open"


def test_runs_that_scatter_so_much_that_anything_would_be_right_leave_it_open() -> None:
    scattered = np.array([1.5, 2.0, 3.0])
    assert number(2.0, scattered, close=0.1, neutral=1.0, log=True).score == "open"
    assert choice(1.0, 3.0, scattered, neutral=1.0, log=True).score == "open"
    assert ordering(("a", "b"), {"a": scattered, "b": TWICE + 9}).score == "open"
    assert curve((2.0, 2.0), np.array([scattered, TWICE]), close=0.1).score == "open"
    assert number(0.3, scattered, close=0.0, neutral=1.0, log=True).score == "wrong", "what lies outside is decided"
    assert shows(scattered, beyond=0.5, goes="up", log=True)
    assert number(2.0, np.array([0.0, 2.0, 4.0]), close=0.0, neutral=0.0).score == "right", "a count may be none"


def test_an_effect_shows_where_the_whole_interval_lies_beyond_no_effect() -> None:
    assert shows(TWICE, beyond=1.0, goes="up")
    assert not shows(TWICE, beyond=1.0, goes="down")
    assert not shows(NOTHING, beyond=1.0, goes="up")
    assert shows(TWICE - 3, beyond=0.0, goes="down")
    assert not shows(NO_VALUE, beyond=1.0, goes="up")


def test_ratios_are_set_against_by_their_logarithms() -> None:
    skewed = np.array([1.5, 2.0, 2.5])
    assert number(1.02, skewed, close=0.0, neutral=1.0, log=True).score == "direction"  # 1.03 to 3.7 by the logarithm
    assert number(0.9, skewed, close=0.0, neutral=1.0, log=True).score == "wrong"
    assert number(0.9, skewed, close=0.0, neutral=1.0, log=False).score == "right"  # 0.76 to 3.2
