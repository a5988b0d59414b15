"""When a run was disturbed, second by second, from the machine's counters."""

from __future__ import annotations

import duckdb
import pyarrow as pa

from app.words.disturbed import disturbed_in_words
from store.machine import disturbed_stretches

FULL_S, THERMAL, IDLE = 10**9, 0b100000, 0b1


def samples(second: int, others: float, throttle: int | None) -> list[dict[str, object]]:
    """Ten samples of a second on two cores, of which the run's process has one whole."""
    return [
        {
            "run_id": "r",
            "device": "cuda:0",
            "time_ns": second * FULL_S + tenth * FULL_S // 10,
            "host_cpu_percent": others + 50.0 + (30.0 if tenth % 2 else -30.0),  # single samples jump about
            "cpu_percent": 100.0,
            "throttle_reasons": throttle,
        }
        for tenth in range(10)
    ]


def test_stretches_are_seconds_on_end_and_told_in_words() -> None:
    seconds = [(5, None), (40, None), (30, THERMAL), (5, THERMAL), (5, IDLE), (25, None)]
    rows = [row for second, (others, throttle) in enumerate(seconds) for row in samples(second, others, throttle)]
    con = duckdb.connect()
    con.register("devices", pa.Table.from_pylist(rows))
    con.register("runs", pa.Table.from_pylist([{"run_id": "r", "environment": '{"cpu": {"cores": 2}}'}]))
    told = disturbed_stretches(con, "r")
    assert [(one["kind"], one["from_s"], one["to_s"]) for one in told] == [
        ("others", 1.0, 2.9),
        ("throttled", 2.0, 3.9),
        ("others", 5.0, 5.9),
    ]
    assert round(told[0]["others_percent"]) == 40
    assert disturbed_in_words(told) == (
        "The device throttled itself: 2.0 to 3.9 s. Other processes took the machine: 1.0 to 2.9 s, 5.0 to 5.9 s."
    )
    assert disturbed_stretches(con, "another") == []


def test_where_cores_are_not_known_nothing_is_said_of_others() -> None:
    con = duckdb.connect()
    con.register("devices", pa.Table.from_pylist(samples(0, 45, THERMAL)))
    con.register("runs", pa.Table.from_pylist([{"run_id": "r", "environment": None}]))
    assert [one["kind"] for one in disturbed_stretches(con, "r")] == ["throttled"]
