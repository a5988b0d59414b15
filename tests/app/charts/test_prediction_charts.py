"""Charts of a reveal: the prediction over what was measured, and which parts of it missed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from app.charts.predictions import amount_chart, curve_chart, ordering_chart
from app.theme import LIGHT
from store import predictions


def drawn(*values: float) -> dict[str, list[object]]:
    return {"values": list(values), "intervals": [(value - 0.5, value + 0.5) for value in values]}


def test_points_that_missed_are_crossed_and_the_others_are_not() -> None:
    figure = np.array([[1.0, 1.1, 0.9], [4.0, 4.1, 3.9], [9.0, 9.1, 8.9]])
    scored = predictions.curve([1.0, 6.0, 9.0], figure, close=0.1)
    assert (scored.right, scored.parts, scored.missed) == (2, 3, (1,))
    chart = curve_chart(
        drawn(1, 4, 9), [1, 4, 16], [1.0, 6.0, 9.0], LIGHT, title="gain", axis="requests", missed=scored.missed
    )
    (crosses,) = [trace for trace in chart.data if trace.name == "missed"]
    assert (list(crosses.x), list(crosses.y)) == ([4], [6.0])
    right = curve_chart(drawn(1, 4, 9), [1, 4, 16], [1.0, 4.0, 9.0], LIGHT, title="gain", axis="requests")
    assert "missed" not in {trace.name for trace in right.data}


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
def test_every_bar_that_is_out_of_order_says_where_it_belongs(order: tuple[str, ...]) -> None:
    """Of figures that surely differ a bar says so exactly where a pair with it is the other way round."""
    figures = {"a": np.array([1.0, 1.1, 0.9]), "b": np.array([5.0, 5.1, 4.9]), "c": np.array([9.0, 9.1, 8.9])}
    scored = predictions.ordering(order, figures)
    measured = {name: drawn(float(values.mean())) for name, values in figures.items()}
    (bars,) = ordering_chart(order, measured, LIGHT, title="measured, ms", missed=scored.missed).data
    for place, (name, said) in enumerate(zip(order, bars.text, strict=True)):
        up = any(other < name for other in order[place + 1 :])
        down = any(other > name for other in order[:place])
        assert said == ("out of order" if up and down else "too far up" if up else "too far down" if down else "")
    assert (order == ("a", "b", "c")) == (not any(bars.text))
    assert list(bars.y) == [f"{n}. {name}" for n, name in enumerate(order, 1)]


def test_an_amount_without_an_interval_is_drawn_as_a_point() -> None:
    chart = amount_chart({"values": [3.0], "intervals": [None]}, (2.0, 2.0), LIGHT, title="times", no_effect=1.0)
    assert {"Your prediction", "mean"} <= {trace.name for trace in chart.data}
