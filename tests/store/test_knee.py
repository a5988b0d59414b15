"""A knee is where a curve turns; a straight one has none."""

from __future__ import annotations

import numpy as np
import pytest

from store.knee import knee

RATES = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


@pytest.mark.parametrize(
    ("y", "at"),
    [
        ([10, 11, 12, 13, 200, 400], 3),  # a latency that stays, then rises
        ([100, 200, 300, 390, 400, 405], 3),  # a throughput that rises, then stays
        ([10, 20, 30, 40, 50, 60], None),
        ([10, 10, 10, 10, 10, 10], None),
        ([10, 11, np.nan, np.nan, np.nan, 400], None),
    ],
)
def test_the_knee_is_the_last_point_before_it_turns(y: list[float], at: int | None) -> None:
    assert knee(RATES, y) == at


def test_the_order_in_which_rates_were_tried_does_not_matter() -> None:
    assert knee([6.0, 1.0, 5.0, 2.0, 4.0, 3.0], [400, 10, 200, 11, 13, 12]) == 4
