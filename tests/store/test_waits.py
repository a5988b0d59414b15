"""Why not sooner, held against a walk through the rows of runs that the engine served."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from store import waits
from store.database import Database
from tests.row_maker import stored
from tests.store.crowded_run import CROWDED, ROOMY, Served

both = pytest.mark.parametrize("run_id", [CROWDED, ROOMY])


class Walk:
    """The rows of a run, walked through step by step."""

    def __init__(self, served: Served, run_id: str) -> None:
        self.steps = stored(served.con, run_id, "iteration")
        self.requests = {row["request"]: row for row in stored(served.con, run_id, "request")}
        self.slices = {(row["iteration"], row["request"]): row for row in stored(served.con, run_id, "slice")}
        self.thrown = [
            (row["iteration"], row["request"])
            for row in stored(served.con, run_id, "decision")
            if row["action"] == "preempted"
        ]

    def until(self, index: int) -> int:
        """When the plan after a step was made."""
        return self.steps[index + 1]["start_ns"] if index + 1 < len(self.steps) else self.steps[index]["end_ns"]

    def stop(self, step: dict) -> str:
        return "policy" if step["admission_stop"] == "none_waiting" else step["admission_stop"]

    def spells(self, request: int) -> list[tuple[int, str, int]]:
        """Step, reason and ns of every piece of a request's waiting."""
        row = self.requests[request]
        arrived, scheduled = row["arrival_ns"], row["first_scheduled_ns"]
        pieces = []
        planned = min((s["start_ns"] for s in self.steps if s["start_ns"] >= arrived), default=scheduled)
        pieces.append((-1, "next_plan", min(planned, scheduled) - arrived))
        for index, step in enumerate(self.steps):
            if arrived <= step["start_ns"] < scheduled:
                pieces.append((index, self.stop(step), min(self.until(index), scheduled) - step["start_ns"]))
        for iteration, victim in self.thrown:
            if victim == request:
                back = min(i for i, r in self.slices if r == request and i >= iteration)
                for index in range(iteration, back):
                    pieces.append((index, "preempted", self.until(index) - self.steps[index]["start_ns"]))
        return pieces


@both
def test_every_wait_is_told_by_what_it_was_for(served: Served, run_id: str) -> None:
    walk = Walk(served, run_id)
    for row in waits.waits(served.con, run_id).to_pylist():
        expected: dict[str, float] = defaultdict(float)
        for _, reason, ns in walk.spells(row["request"]):
            expected[reason] += ns / 1e6
        for reason in waits.WAITS:
            assert row[f"{reason}_ms"] == pytest.approx(expected[reason], abs=1e-6), (row["request"], reason)
        assert row["waited_ms"] == pytest.approx(sum(expected.values()), abs=1e-6)


def test_the_runs_wait_for_many_things(served: Served) -> None:
    """Else the claims of this file say little."""
    for run_id, reasons in (
        (CROWDED, ("next_plan", "blocks", "budget", "preempted")),
        (ROOMY, ("next_plan", "max_requests")),
    ):
        (total,) = served.con.sql(
            f"SELECT {', '.join(f'sum({r}_ms) AS {r}' for r in reasons)} FROM ({waits.waits_query(run_id).sql})",
            params=waits.waits_query(run_id).parameters,
        ).fetchall()
        assert min(total) > 0, dict(zip(reasons, total, strict=True))


@both
def test_groups_add_up_to_all_requests(served: Served, run_id: str) -> None:
    each = waits.waits(served.con, run_id).to_pylist()
    for group in waits.waits_by_group(served.con, run_id).to_pylist():
        members = [row for row in each if row["group"] == group["group"]]
        assert group["requests"] == len(members)
        for name in ("waited", *waits.WAITS):
            assert group[f"{name}_ms"] == pytest.approx(sum(row[f"{name}_ms"] for row in members))
        assert group["longest"] in [r["request"] for r in members if r["waited_ms"] == group["longest_ms"]]


@both
def test_who_held_up_whom_adds_up_to_what_was_waited_for(served: Served, run_id: str) -> None:
    """All that was waited, but for the wait for the next plan, is shared out to those the engine computed for meanwhile."""
    walk = Walk(served, run_id)
    blamed = waits.blame(served.con, run_id, limit=1000).to_pylist()
    held = sum(step["waiting"] * (walk.until(i) - step["start_ns"]) for i, step in enumerate(walk.steps))
    nobody = sum(  # steps that computed nothing of what was waited for
        step["waiting"] * (walk.until(i) - step["start_ns"])
        for i, step in enumerate(walk.steps)
        if walk.stop(step) == "prefix" and not step["prefill_tokens"]
    )
    assert sum(row["held_up_ms"] for row in blamed) == pytest.approx((held - nobody) / 1e6)
    assert blamed == sorted(blamed, key=lambda row: -row["held_up_ms"])


def test_one_requests_wait_is_blamed_on_those_computed_meanwhile(served: Served) -> None:
    walk = Walk(served, CROWDED)
    each = waits.waits(served.con, CROWDED).to_pylist()
    longest = max(each, key=lambda row: row["waited_ms"])["request"]
    blamed = {row["request"]: row["held_up_ms"] for row in waits.blame(served.con, CROWDED, longest, 1000).to_pylist()}
    steps = {index for index, _, _ in walk.spells(longest) if index >= 0}
    assert longest not in blamed
    assert set(blamed) <= {r for i, r in walk.slices if i in steps or i + 1 in steps}
    assert sum(blamed.values()) <= sum(ns for _, _, ns in walk.spells(longest)) / 1e6 + 1e-6


def test_a_wait_is_told_in_order_with_the_one_in_front(served: Served) -> None:
    walk = Walk(served, CROWDED)
    for request, row in walk.requests.items():
        told = waits.spells(served.con, CROWDED, request)
        waiting = [spell for spell in told if spell["reason"] != "preempted"]
        assert sum(s["until_ns"] - s["since_ns"] for s in waiting) <= row["first_scheduled_ns"] - row["arrival_ns"]
        assert [s["since_ns"] for s in told] == sorted(s["since_ns"] for s in told)
        for spell in waiting:
            if spell["head"] is not None and spell["head"] != request:
                assert walk.requests[spell["head"]]["arrival_ns"] <= row["arrival_ns"], "nobody overtakes"
    blocked = [s for r in walk.requests for s in waits.spells(served.con, CROWDED, r) if s["reason"] == "blocks"]
    assert blocked
    assert all(s["blocks_needed"] > s["blocks_free"] - 44 // 100 - 1 for s in blocked if s["head"] is not None)


@both
def test_every_gap_is_told_by_what_was_computed_in_it(served: Served, run_id: str) -> None:
    walk = Walk(served, run_id)
    ends = {step["end_ns"]: index for index, step in enumerate(walk.steps)}
    told = waits.gaps(served.con, run_id).to_pylist()
    assert len(told) == sum(row["itl_ns"] is not None for row in walk.slices.values())
    for gap in told:
        request, last = gap["request"], gap["iteration"]
        row = walk.slices[last, request]
        first = ends[walk.steps[last]["end_ns"] - row["itl_ns"]] + 1
        thrown = [i for i, victim in walk.thrown if victim == request and first <= i <= last]
        expected: dict[str, float] = defaultdict(float)
        for index in range(first, last + 1):
            step, own = walk.steps[index], walk.slices.get((index, request))
            if own is None:
                kind = "preempted" if thrown and thrown[0] <= index else "without"
            elif own["kind"] == "prefill":
                kind = "recomputed"
            else:
                kind = "beside_prefill" if step["prefill_tokens"] else "beside_decodes"
            expected[kind] += (step["end_ns"] - step["start_ns"]) / 1e6
        expected["between"] = gap["itl_ms"] - sum(expected.values())
        assert gap["iterations"] == last + 1 - first
        for kind in waits.GAPS:
            assert gap[f"{kind}_ms"] == pytest.approx(expected[kind], abs=1e-6), (request, last, kind)


@both
def test_gaps_by_group_add_up(served: Served, run_id: str) -> None:
    each = waits.gaps(served.con, run_id).to_pylist()
    groups = waits.gaps_by_group(served.con, run_id).to_pylist()
    for name in ("itl", *waits.GAPS):
        assert sum(g[f"{name}_ms"] for g in groups) == pytest.approx(sum(row[f"{name}_ms"] for row in each), abs=1e-6)
    assert sum(g["gaps"] for g in groups) == len(each)


def test_gaps_of_one_request_are_its_gaps_of_all(served: Served) -> None:
    each = [row for row in waits.gaps(served.con, CROWDED).to_pylist() if row["request"] == 3]
    assert waits.gaps(served.con, CROWDED, 3).to_pylist() == each


def test_an_unknown_run_waited_for_nothing(served: Served) -> None:
    for ask in (waits.waits, waits.waits_by_group, waits.blame, waits.gaps, waits.gaps_by_group):
        assert ask(served.con, "x' OR '1'='1").num_rows == 0
    assert waits.spells(served.con, "nobody", 0) == []


def test_the_last_step_before_a_time_is_looked_up_and_not_searched_for(tmp_path: Path) -> None:
    """A loop over every step for every request takes minutes at 10^7 slice rows; the guess that chose it saw few rows."""
    with Database(tmp_path / "db.duckdb") as database, database.read() as con:
        asked = waits.waits_query("r1")
        plan = "".join(row[1] for row in con.execute(f"EXPLAIN {asked.sql}", asked.parameters).fetchall()).lower()
    assert "asof" in plan
    assert "nested" not in plan
