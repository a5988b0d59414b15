"""The page on preemption: what it says of swaps, of waiting for them, and of what computing again would have cost."""

from __future__ import annotations

import math

import pyarrow as pa

from app.panels.preemption import charts
from app.panels.preemption.page import (
    crossover_in_words,
    link_in_words,
    sessions_of,
    spread_in_words,
    totals_in_words,
    waits_in_words,
)
from app.panels.preemption.tables import swaps_table
from app.panels.sentences import decision_in_words
from app.theme import LIGHT
from engine.config import RequestSpec
from store.link_fit import LinkFit
from store.swaps import Costs

TOTAL = {
    "direction": "out", "swaps": 2, "blocks": 10, "blocks_kept": 3, "copies": 60, "bytes": 3_000_000, "copies_per_swap": 30.0,
    "bytes_per_swap": 1.5e6, "bytes_per_copy": 5e4, "bytes_per_s": 2e9, "copying_ms": 1.5, "waited_ms": 0.25,
}  # fmt: skip


def moved(request: int, direction: str, tokens: int, ms: float) -> dict:
    return {
        "t": 1.0, "request": request, "direction": direction, "tokens": tokens, "copies": 10, "bytes": 10_000, "kb_per_copy": 1.0,
        "copying_ms": ms, "gb_per_s": 1.0,
    }  # fmt: skip


def test_totals_and_table_say_the_same() -> None:
    said = totals_in_words([TOTAL, TOTAL | {"direction": "in", "swaps": 1, "waited_ms": 1.0}])
    assert "2 requests swapped out, 1 back in" in said
    assert "6.0 MB in 120 copies" in said
    assert "1.2 ms" in said
    assert totals_in_words([]) == "No request had to be swapped to host memory."
    [row] = swaps_table([TOTAL]).cells()
    assert row[:5] == ["out", "2", "10", "3", "30"]
    assert row[-2:] == ["1.5", "0.25"]


def test_a_swap_in_is_drawn_with_the_swap_out_before_it() -> None:
    table = pa.Table.from_pylist(
        [moved(1, "out", 40, 2.0), moved(2, "in", 9, 9.0), moved(1, "in", 40, 3.0), moved(1, "ahead", 48, 7.0)]
    )
    assert charts.pairs(table) == [(1, 40, 5.0)]
    costs = Costs(LinkFit(1e-6, 1e8), 2.0, 46_080, 2e8, 7e4, 1e12)
    names = [trace.name for trace in charts.crossover(table, costs, LIGHT).data]
    assert names == ["swapped out and in", "swap, predicted", "recompute, predicted"]
    assert [trace.name for trace in charts.copies(table, LIGHT).data] == ["out", "in", "ahead"]
    assert [trace.name for trace in charts.bandwidth(table, costs.link, LIGHT).data] == ["out", "in", "ahead", "fitted"]


def test_the_crossing_is_said_in_tokens() -> None:
    costs = Costs(LinkFit(1e-6, 1e8), 2.0, 46_080, 2e8, 7e4, 1e12)
    assert f"below {costs.crossover_tokens():,.0f} tokens" in crossover_in_words(costs)
    always = Costs(LinkFit(0.0, 1e12), 2.0, 46_080, 2e8, 7e4, 1e12)
    assert "cheaper at every length" in crossover_in_words(always)
    assert crossover_in_words(None).startswith("Too few swaps")


def test_waiting_and_spread_in_words() -> None:
    assert waits_in_words(pa.table({"compute_ms": [9.0, 6.0], "wait_ms": [1.0, 4.0]})).startswith("25.00 %")
    said = spread_in_words(pa.table({"tpot_ms": [1.0, 1.0], "ttft_ms": [1.0, 0.0]}))
    assert said == "Jain's index over 2 sessions: 1.000 of TPOT, 0.500 of TTFT."


def test_turns_of_a_conversation_are_one_session() -> None:
    after = [None, None, "0", "2"]
    asked = [RequestSpec(request_id=str(n), prompt="-", after=name) for n, name in enumerate(after)]
    assert sessions_of(asked) == ([0, 1, 2, 3], [0, 1, 0, 0])


def test_decisions_tell_a_swap_from_a_loss() -> None:
    left = {"action": "preempted", "request": 4, "reason": "pool_full", "tokens": 90}
    assert "kept in host memory" in decision_in_words(left | {"value": 90.0})
    assert "a more important request" in decision_in_words(left | {"value": 90.0, "reason": "priority"})
    assert "will be computed again" in decision_in_words(left | {"reason": "host_full"})
    assert "host memory too" in decision_in_words(left | {"reason": "host_full"})
    back = {"action": "admitted", "request": 4, "reason": "swapped_in", "tokens": 90}
    assert "90 tokens are copied in" in decision_in_words(back)


def test_a_link_whose_rate_cannot_be_told_is_given_none() -> None:
    words = link_in_words(LinkFit(2e-6, math.inf))
    assert "2.00 µs" in words
    assert "GB/s" not in words
