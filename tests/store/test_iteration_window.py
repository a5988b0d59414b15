"""What the picture of an iteration draws, held against the rows it is drawn from."""

from __future__ import annotations

from collections import Counter

import pytest

from store import iteration_window
from telemetry.rows import BLOCK_EVENTS, SLICE_KINDS
from tests.row_maker import stored
from tests.store.crowded_run import CROWDED, ROOMY, Served

both = pytest.mark.parametrize("run_id", [CROWDED, ROOMY])


@both
def test_bounds_are_those_of_the_rows(served: Served, run_id: str) -> None:
    steps, slices = stored(served.con, run_id, "iteration"), stored(served.con, run_id, "slice")
    known = iteration_window.bounds(served.con, run_id)
    assert known is not None
    assert (known.first, known.last) == (0, len(steps) - 1)
    assert known.longest == max(steps, key=lambda step: step["end_ns"] - step["start_ns"])["iteration"]
    assert known.slices_per_step == pytest.approx(len(slices) / len(steps))
    assert iteration_window.bounds(served.con, "nobody") is None


@both
def test_the_picture_has_every_row_of_its_iterations_and_no_other(
    served: Served, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iteration_window, "MOST_STEPS", 20)
    known = iteration_window.bounds(served.con, run_id)
    assert known is not None
    requests = {row["request"]: row for row in stored(served.con, run_id, "request")}
    for around in (0, known.longest, known.last):
        window = iteration_window.window(served.con, run_id, around, known)
        inside = range(window.first, window.last + 1)
        assert around in inside
        assert len(inside) == 20
        rows = {
            row: [r for r in stored(served.con, run_id, row) if r["iteration"] in inside]
            for row in ("iteration", "slice", "decision", "block")
        }
        assert window.steps.to_pylist() == rows["iteration"]
        drawn = {(s["iteration"], s["request"]): s for s in window.slices.to_pylist()}
        assert len(drawn) == len(rows["slice"])
        for row in rows["slice"]:
            bar = drawn[row["iteration"], row["request"]]
            assert SLICE_KINDS[bar["kind"]] == row["kind"]
            assert all(bar[name] == row[name] for name in ("tokens", "context_len", "drafted", "accepted", "emitted"))
            assert bar["itl_ms"] == (-1 if row["itl_ns"] is None else pytest.approx(row["itl_ns"] / 1e6))
            assert bar["cached"] == min(row["context_len"], requests[row["request"]]["cached_tokens"])
        assert window.decisions == rows["decision"]
        touched = Counter((row["iteration"], row["event"]) for row in rows["block"])
        assert {
            (t["iteration"], event): t[event] for t in window.touched for event in BLOCK_EVENTS if t[event]
        } == touched
        assert window.names == {
            number: (requests[number]["request_id"], requests[number]["group"]) for _, number in drawn
        }


def test_some_prompts_were_found_in_the_cache(served: Served) -> None:
    """Else the hatched part of the bars is not tested."""
    known = iteration_window.bounds(served.con, CROWDED)
    assert known is not None
    assert any(bar["cached"] for bar in iteration_window.window(served.con, CROWDED, 10, known).slices.to_pylist())


def test_a_large_batch_is_shown_with_fewer_around_it(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iteration_window, "MOST_SLICES", 10)
    known = iteration_window.bounds(served.con, CROWDED)
    assert known is not None
    window = iteration_window.window(served.con, CROWDED, 30, known)
    assert window.last - window.first + 1 == 20
