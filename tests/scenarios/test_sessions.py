"""Sessions and agent programs: a turn comes after the answer and a pause, and goes on from what was really said."""

from __future__ import annotations

import itertools
import random
import statistics
from collections import Counter

import pytest

import scenarios
from engine.config import ConfigError
from scenarios.arrivals import Sessions
from scenarios.lengths import Uniform
from scenarios.pauses import LognormalPause, UniformPause


def agents(**keys: str):
    """The requests of ``agents``, some of its keys changed, in order of their numbers."""
    settings = {f"workload.programs.{k.replace('__', '.')}": v for k, v in keys.items()}
    return sorted(scenarios.build("agents", settings).requests, key=lambda r: r.request_id)


def test_every_turn_but_the_first_continues_the_one_before():
    requests = agents()
    for earlier, request in itertools.pairwise(requests):
        assert request.continues == (request.after is not None)
        assert request.after in (None, earlier.request_id)
    assert {r.after is None for r in requests} == {True, False}
    assert all(r.prompt.startswith("\n\nTool: ") and r.prompt.endswith("\n\nAgent:") for r in requests if r.continues)


def test_sessions_have_as_many_turns_as_drawn():
    requests = agents(requests="400")
    lengths = []
    for request in requests:
        if request.after is None:
            lengths.append(0)
        lengths[-1] += 1
    assert set(lengths[:-1]) == {3, 4, 5, 6}  # the last one is cut where the requests end


def test_all_programs_begin_with_the_same_instructions():
    firsts = [r.prompt.split("Task: ")[0] for r in agents() if not r.continues]
    assert len(firsts) > 3
    assert len(set(firsts)) == 1
    assert len(firsts[0].split()) >= 100


def test_more_requests_begin_with_the_same_ones():
    assert agents(requests="60")[:37] == agents(requests="37")


@pytest.mark.parametrize(
    ("pause", "mean", "most"),
    [(UniformPause(low_s=1, high_s=3), 2.0, 3.0), (LognormalPause(median_s=2, sigma=0.5), 2 * 2.718281828**0.125, 1e9)],
)
def test_pauses_keep_their_mean(pause, mean: float, most: float):
    rng = random.Random(3)
    drawn = [pause.draw(rng) for _ in range(100_000)]
    assert statistics.fmean(drawn) == pytest.approx(mean, rel=0.05)
    assert max(drawn) <= most


def test_sessions_begin_at_their_rate():
    arrivals = Sessions(rate=2.0, turns=Uniform(low=1, high=3)).draw(100_000, random.Random(1))
    begins = [a.at_s for a in arrivals if a.after is None]
    assert begins == sorted(begins)
    assert len(begins) / begins[-1] == pytest.approx(2.0, rel=0.05)
    turns = Counter(a.session for a in arrivals)
    assert statistics.fmean(turns.values()) == pytest.approx(2.0, rel=0.05)


def test_times_of_sessions_are_stretched_alike():
    plain = Sessions(rate=2.0, start_s=1, pause=LognormalPause(median_s=1, longest_s=4)).draw(50, random.Random(1))
    slow = Sessions(rate=2.0, start_s=1, pause=LognormalPause(median_s=1, longest_s=4)).stretched(3.0)
    assert [a.at_s for a in slow.draw(50, random.Random(1))] == pytest.approx([3 * a.at_s for a in plain])


def test_a_bare_number_is_a_fixed_pause():
    assert {r.arrival_ns for r in agents(arrivals__pause="0.25") if r.continues} == {250_000_000}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"workload.arrivals.kind": "at-once"}, "rrivals of kind sessions go with"),
        ({"workload.prompt.kind": "chat"}, "rrivals of kind sessions go with"),
        ({"workload.prompt_tokens": "40"}, "leave out prompt_tokens"),
        ({"workload.arrivals.turns.kind": "trace"}, "a trace's rows are no sessions"),
        ({"workload.arrivals.pause": "soon"}, "map with kind: one of fixed, uniform, lognormal"),
    ],
)
def test_what_does_not_fit_sessions_is_refused(settings: dict[str, str], words: str):
    with pytest.raises(ConfigError) as caught:
        scenarios.build("agents", settings)
    assert words in f"{caught.value.message} {caught.value.mend}"
