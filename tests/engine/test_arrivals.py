"""Who comes when, and who waits for whom."""

from __future__ import annotations

import pytest

from engine.arrivals import Arrivals
from engine.config import RequestSpec, Sampling
from engine.config.errors import EngineError
from engine.request import Request


def make(index: int, **values) -> Request:
    return Request(index, RequestSpec(request_id=f"r{index}", prompt="-", **values), [1], Sampling(), 1)


def test_requests_come_in_order_of_arrival():
    requests = [make(0, arrival_ns=30), make(1, arrival_ns=10), make(2, arrival_ns=10)]
    arrivals = Arrivals(requests)
    assert arrivals.next_ns == 10
    assert [r.index for r in arrivals.pop_due(10)] == [1, 2]
    assert arrivals.outstanding == 1
    assert arrivals.pop_due(29) == []
    assert [r.index for r in arrivals.pop_due(1000)] == [0]
    assert arrivals.outstanding == 0


def test_a_follower_arrives_after_the_end_of_the_one_it_follows():
    first, second = make(0), make(1, after="r0", arrival_ns=5)
    arrivals = Arrivals([first, second])
    assert arrivals.pop_due(100) == [first]
    assert arrivals.next_ns is None
    assert arrivals.outstanding == 1
    arrivals.ended(first, 200)
    assert arrivals.pop_due(204) == []
    assert arrivals.pop_due(205) == [second]
    assert second.arrival_ns == 205


def test_users_give_up_after_their_patience_unless_served():
    patient, impatient = make(0, cancel_after_ns=50), make(1, cancel_after_ns=50)
    arrivals = Arrivals([patient, impatient])
    arrivals.pop_due(0)
    patient.end_reason = "length"
    assert arrivals.pop_given_up(49) == []
    assert arrivals.pop_given_up(50) == [impatient]


def test_those_who_never_came_are_known():
    arrivals = Arrivals([make(0), make(1, arrival_ns=10**12), make(2, after="r1")])
    arrivals.pop_due(0)
    assert [r.index for r in arrivals.never_came()] == [1, 2]


@pytest.mark.parametrize(
    ("requests", "field", "words"),
    [
        ([make(0), make(0)], "request_id", "two requests"),
        ([make(0, after="nobody")], "after", "does not exist"),
        ([make(0), make(1, after="r2"), make(2, after="r1")], "after", "for itself"),
    ],
)
def test_impossible_workloads_are_refused(requests, field, words):
    with pytest.raises(EngineError, match=words) as caught:
        Arrivals(requests)
    assert caught.value.field == field
    assert caught.value.mend
