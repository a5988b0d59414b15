"""What runs and requests cost in energy, from a counter whose pace is known."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest

from store.energy import energy_over_time_query, request_energy_query, run_energy

WATT, STEPS = 10.0, 8


def a_run(readings: list[tuple[int, float | None]], device: str = "cuda:0") -> duckdb.DuckDBPyConnection:
    """Eight steps of 80 ms, one in 100 ms, of two requests: three quarters of their tokens are the first one's."""
    con = duckdb.connect()
    samples = [{"run_id": "r", "device": device, "time_ns": ns, "energy": energy} for ns, energy in readings]
    devices = pa.schema(
        [("run_id", pa.string()), ("device", pa.string()), ("time_ns", pa.int64()), ("energy", pa.float64())]
    )
    con.register("devices", pa.Table.from_pylist(samples, schema=devices))
    steps = [
        {"run_id": "r", "iteration": n, "start_ns": n * 10**8 + 5 * 10**7, "end_ns": n * 10**8 + 13 * 10**7}
        for n in range(STEPS)
    ]
    con.register("iterations", pa.Table.from_pylist([step | {"emitted_tokens": 2} for step in steps]))
    slices = [
        {"run_id": "r", "iteration": n, "request": request, "tokens": tokens}
        for n in range(STEPS)
        for request, tokens in ((0, 3), (1, 1))
    ]
    con.register("slices", pa.Table.from_pylist(slices))
    con.register(
        "requests", pa.Table.from_pylist([{"run_id": "r", "request": n, "group": name} for n, name in enumerate("ab")])
    )
    return con


def steady(every_ms: int, until_ms: int) -> list[tuple[int, float | None]]:
    return [(ms * 10**6, 500.0 + WATT * ms / 1e3) for ms in range(0, until_ms + 1, every_ms)]


@pytest.mark.parametrize("every_ms", [10, 100, 450])  # finer and coarser than a step
def test_a_steady_counter_gives_each_its_share(every_ms: int) -> None:
    con = a_run(steady(every_ms, 900))
    told = run_energy(con, "r")
    assert told["energy_j"] == pytest.approx(WATT * 0.78)  # from 50 to 830 ms
    assert told["energy_per_token_j"] == pytest.approx(WATT * 0.78 / 16)
    rows = request_energy_query("r").rows(con)
    assert [(row["request"], row["group"], row["tokens"]) for row in rows] == [(0, "a", 24), (1, "b", 8)]
    assert [row["joules"] for row in rows] == pytest.approx([WATT * 0.64 * 3 / 4, WATT * 0.64 / 4])
    assert request_energy_query("r", 1).rows(con) == [rows[1]]
    assert energy_over_time_query("r").rows(con)[-1]["joules"] == pytest.approx(
        WATT * (900 // every_ms * every_ms) / 1e3
    )


def test_a_counter_that_falls_adds_nothing_there() -> None:
    readings = steady(100, 900)
    fallen = [(ns, energy if energy is None or ns < 5 * 10**8 else energy - 504.0) for ns, energy in readings]
    assert run_energy(a_run(fallen), "r")["energy_j"] == pytest.approx(WATT * 0.68)  # 400 to 500 ms are not known


def test_without_a_counter_nothing_is_told() -> None:
    con = a_run([(0, None), (10**8, None)])
    assert run_energy(con, "r") == {}
    assert request_energy_query("r").rows(con) == []
    assert energy_over_time_query("r").rows(con) == []
    assert run_energy(a_run(steady(100, 900)), "another") == {}
