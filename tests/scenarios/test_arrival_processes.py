"""Arrival processes keep their promises: rate, variation, order, and how many can be in flight."""

from __future__ import annotations

import math
import statistics
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenarios.arrivals import AtOnce, Bursts, ClosedLoop, Gamma, Interval, Poisson, Replay
from scenarios.streams import stream
from scenarios.traces import TraceRow

MANY = 100_000
PROCESSES = [
    AtOnce(start_s=1),
    Interval(every_s=0.5),
    Poisson(rate=3),
    Gamma(rate=3, cv=2),
    Bursts(size=4, every_s=1, spread_s=3),
]


@pytest.mark.parametrize("cv", [0.5, 1.0, 2.0, 4.0])
def test_gamma_keeps_rate_and_coefficient_of_variation(cv: float):
    gaps = Gamma(rate=2.5, cv=cv).gaps(MANY, stream(0, "gamma", cv))
    assert statistics.fmean(gaps) == pytest.approx(1 / 2.5, rel=0.05)
    assert statistics.stdev(gaps) / statistics.fmean(gaps) == pytest.approx(cv, rel=0.05)


def test_poisson_keeps_its_rate_and_has_no_memory():
    gaps = Poisson(rate=8).gaps(MANY, stream(0, "poisson"))
    mean = statistics.fmean(gaps)
    assert mean == pytest.approx(1 / 8, rel=0.05)
    assert statistics.stdev(gaps) / mean == pytest.approx(1, rel=0.05)
    assert sum(gap > mean for gap in gaps) / MANY == pytest.approx(math.exp(-1), rel=0.05)


@pytest.mark.parametrize(
    "process", [Poisson(rate=2, exact_rate=True), *(Gamma(rate=2, cv=cv, exact_rate=True) for cv in (0.5, 4))]
)
def test_an_exact_rate_holds_for_few_requests_and_keeps_the_ratios_of_the_gaps(process):
    times = [a.at_s for a in process.draw(16, stream(0))]
    drawn = [a.at_s for a in process.model_copy(update={"exact_rate": False}).draw(16, stream(0))]
    assert times[-1] - times[0] == pytest.approx(15 / 2)
    assert drawn[-1] != pytest.approx(15 / 2)
    assert [t * drawn[-1] for t in times] == pytest.approx([t * times[-1] for t in drawn])
    stretched = process.stretched(3).draw(16, stream(0))
    assert [a.at_s for a in stretched] == pytest.approx([3 * t for t in times])


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.kind)
def test_arrivals_are_in_order_from_the_start(process):
    times = [a.at_s for a in process.draw(200, stream(0))]
    assert len(times) == 200
    assert times == sorted(times)
    assert times[0] == process.start_s


@pytest.mark.parametrize("process", [*PROCESSES, ClosedLoop(clients=3)], ids=lambda p: p.kind)
def test_one_request_is_possible(process):
    assert len(process.draw(1, stream(0))) == 1


def test_bursts_come_together():
    times = [a.at_s for a in Bursts(size=3, every_s=10, start_s=1).draw(7, stream(0))]
    assert times == [1, 1, 1, 11, 11, 11, 21]


def test_a_spread_burst_is_strewn_evenly():
    times = [a.at_s for a in Bursts(size=4, every_s=10, spread_s=2).draw(5, stream(0))]
    assert times == [0, 0.5, 1.0, 1.5, 10]


@given(clients=st.integers(1, 20), requests=st.integers(1, 80))
def test_a_closed_loop_never_has_more_requests_in_flight_than_clients(clients: int, requests: int):
    arrivals = ClosedLoop(clients=clients, think_s=0.1).draw(requests, stream(0))
    assert len(arrivals) == requests
    assert sum(a.after is None for a in arrivals) == min(clients, requests)
    followed = [a.after for a in arrivals if a.after is not None]
    assert len(set(followed)) == len(followed)  # nobody is followed by two, so each client has one request at a time
    assert all(a.after < i for i, a in enumerate(arrivals) if a.after is not None)


@given(
    gaps=st.lists(st.floats(0, 100), min_size=2, max_size=30),
    speed=st.floats(0.1, 50),
)
def test_replay_keeps_the_ratios_of_the_gaps(gaps: list[float], speed: float):
    times = [7.0]
    for gap in gaps:
        times.append(times[-1] + gap)
    rows = [TraceRow(t, 1, 1) for t in times]
    arrivals = [a.at_s for a in Replay(path="x", speed=speed, start_s=2).draw(len(rows), stream(0), rows)]
    assert arrivals[0] == 2
    assert [(b - a) * speed for a, b in pairwise(arrivals)] == pytest.approx(gaps, abs=1e-6)
