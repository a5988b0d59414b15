"""The verdict on what limits the engine, for batches built so that the answer is known."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from store.in_flight import Step
from store.limits import Limit, Outside, Work, what_limits, work_query
from store.stretches import stretches, stretches_in_words

PEAKS = {"flops_per_s": 1e12, "bytes_per_s": 1e11}  # 1 GFLOP takes 1 ms, 100 MB take 1 ms


def window(steps: int = 100, **columns: float) -> dict[str, np.ndarray]:
    """``steps`` equal iterations of 10 ms, 9 of them in the forward pass, unless said otherwise."""
    values = {
        "duration_ms": 10.0,
        "forward_ms": 9.0,
        "flops": 0.0,
        "bytes": 0.0,
        "waiting": 0,
        "preempted": 0,
        "blocked": 0,
        "launched": 0,
    }
    return {name: np.full(steps, value, float) for name, value in (values | columns).items()}


def judged(columns: dict[str, np.ndarray], **more: Any) -> Limit:
    """The verdict on a second with these iterations."""
    return what_limits(Work.of(columns, PEAKS), 1000.0, peaks=PEAKS, **more)


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        (window(flops=1e9, bytes=800e6), "memory_bandwidth"),  # bound: 8 ms of 10 by memory, 1 by arithmetic
        (window(flops=8e9, bytes=100e6), "compute"),
        (window(flops=1e9, bytes=100e6), "host_overhead"),  # the batch needs 1 ms; the step takes 10
        (window(flops=8e9, bytes=100e6, forward_ms=3.0), "host_overhead"),  # 7 of 10 ms outside the model
        (window(flops=8e9, waiting=3, blocked=1), "kv_capacity"),
        (window(flops=8e9, preempted=1), "kv_capacity"),
        (window(flops=8e9, waiting=3, blocked=0), "compute"),  # they wait for another reason than blocks
        (window(flops=8e9, waiting=0, blocked=1), "compute"),  # the pool is full but nobody waits
        (window(steps=10, flops=8e9), "no_work"),  # 0.1 s of work in a second
        (window(steps=0), "no_work"),
    ],
)
def test_the_verdict(columns: dict[str, np.ndarray], kind: str) -> None:
    limit = judged(columns)
    assert limit.kind == kind
    assert limit.sentence.endswith(".")
    json.dumps(limit.as_dict(), allow_nan=False)


def test_the_figures_behind_it() -> None:
    figures = judged(window(flops=1e9, bytes=800e6)).figures
    assert figures["busy_share"] == 1.0
    assert figures["compute_ms"] == pytest.approx(1.0)
    assert figures["memory_ms"] == pytest.approx(8.0)
    assert figures["bound_ms"] == pytest.approx(8.0)
    assert figures["overhead_share"] == pytest.approx(0.2)
    assert figures["iteration_ms"] == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("columns", "largest", "told"),
    [
        (window(flops=1e9, bytes=200e6), ("memory_stall_share", 0.7), "70 % goes to waiting for memory longer than"),
        (window(flops=2e9, bytes=100e6), ("arithmetic_stall_share", 0.7), "70 % goes to arithmetic below its peak"),
        (
            window(flops=1e9, bytes=200e6, launched=1),
            ("launch_share", 0.7),
            "70 % goes to kernels that are launched one",
        ),
    ],
)
def test_overhead_is_split_by_what_it_is_spent_on(
    columns: dict[str, np.ndarray], largest: tuple[str, float], told: str
) -> None:
    limit = judged(columns)
    parts = ("outside_forward_share", "launch_share", "memory_stall_share", "arithmetic_stall_share")
    shares = {name: limit.figures.get(name) or 0.0 for name in parts}
    assert max(shares.items(), key=lambda one: one[1]) == (largest[0], pytest.approx(largest[1]))
    assert sum(shares.values()) == pytest.approx(limit.figures["overhead_share"] or 0.0)
    assert f"{told}" in limit.sentence
    assert limit.sentence.endswith("10 % passes outside the model.")


def test_a_mix_is_bound_step_by_step_not_on_average() -> None:
    prefill, decode = window(10, flops=9e9, bytes=100e6), window(90, flops=1e8, bytes=900e6)
    mixed = {name: np.concatenate([prefill[name], decode[name]]) for name in prefill}
    limit = judged(mixed)
    assert limit.kind == "memory_bandwidth"
    assert limit.figures["bound_ms"] == pytest.approx(9.0)
    assert limit.figures["memory_bound_share"] == pytest.approx(0.9)


def test_without_peaks_it_does_not_pretend() -> None:
    limit = what_limits(Work.of(window(flops=8e9), None), 1000.0)
    assert "not known" in limit.sentence
    assert "overhead_share" not in limit.figures


def test_a_step_in_flight_is_work_and_says_what_it_computes() -> None:
    prompt = Step(iteration=7, start_ns=0, prefill_tokens=5120, decode_requests=7, flops=9e12, bytes=1e9)
    limit = judged(window(steps=0), step=prompt, running_ms=1000.0)
    assert (limit.kind, limit.figures["busy_share"], limit.figures["in_flight_ms"]) == ("compute", 1.0, 1000.0)
    assert "5,120 prompt tokens and a token for 7 requests for 1.0 s" in limit.sentence
    reading = prompt.model_copy(update={"prefill_tokens": 0, "flops": 1e9, "bytes": 1e12})
    assert judged(window(steps=0), step=reading, running_ms=1000.0).kind == "memory_bandwidth"


def test_a_short_step_in_flight_leaves_the_verdict_to_those_that_ended() -> None:
    step = Step(iteration=99, start_ns=0, decode_requests=4)
    assert judged(window(99, flops=8e9), step=step, running_ms=10.0).kind == "compute"
    assert judged(window(10, flops=8e9), step=step, running_ms=10.0).kind == "no_work"


@pytest.mark.parametrize(
    ("others", "threads", "kind"),
    [
        (70.0, 1, "other_processes"),  # of two cores, the engine wants one and gets 0.6
        (60.0, 1, "other_processes"),
        (45.0, 1, "host_overhead"),  # the other core is theirs: nothing is taken from the engine
        (45.0, 2, "other_processes"),
        (15.0, 2, "host_overhead"),  # a page that looks on does not count as outside load
    ],
)
def test_load_from_outside_is_a_limit_of_its_own(others: float, threads: int, kind: str) -> None:
    machine = {"cpu": {"cores": 2}, "threads": threads}
    host = others + 30.0
    outside = Outside.of(host, 2 * 30.0, machine)  # the engine's process has 30 % of the machine
    limit = judged(window(flops=1e9, bytes=100e6), outside=outside)
    assert limit.kind == kind
    assert limit.figures["others_share"] == pytest.approx(others / 100)
    assert (f"{others:.0f} % of the machine" in limit.sentence) == (kind == "other_processes")


def test_without_a_count_of_the_load_nothing_is_said_of_it() -> None:
    for host, own, machine in (
        (None, 50.0, {"cpu": {"cores": 2}}),
        (90.0, None, {"cpu": {"cores": 2}}),
        (90.0, 5.0, {}),
    ):
        assert Outside.of(host, own, machine) is None


@pytest.mark.parametrize("gpu", [True, False])
def test_rows_in_the_database_are_summed_as_those_in_memory(gpu: bool) -> None:
    drawn = np.random.default_rng(3)
    columns = window(50) | {
        "flops": drawn.uniform(0, 9e9, 50),
        "bytes": drawn.uniform(0, 9e8, 50),
        "launched": np.arange(50) % 2,
    }
    rows = [
        {
            "run_id": "r",
            "start_ns": n * 10_000_000,
            "end_ns": (n + 1) * 10_000_000,
            "forward_ns": 9_000_000,
            "flops": columns["flops"][n],
            "bytes": columns["bytes"][n],
            "graph_size": None if columns["launched"][n] else 8,
            "waiting": 0,
            "preempted": 0,
            "admission_stop": "none_waiting",
        }
        for n in range(50)
    ]
    con = duckdb.connect()
    con.register("iterations", pa.Table.from_pylist(rows))
    summed = work_query("r", PEAKS, gpu=gpu).rows(con)[0]
    expected = Work.of(columns if gpu else columns | {"launched": np.zeros(50)}, PEAKS)
    assert {name: summed[name] for name in asdict(expected)} == pytest.approx(asdict(expected))
    assert (expected.launch_ms or 0) > 0 or not gpu


def test_a_run_that_is_over_says_when_what_limited_it() -> None:
    """Six seconds of arithmetic, six of memory traffic, six of nothing before one more step."""
    step = {
        "run_id": "r",
        "graph_size": None,
        "forward_ns": 8_000_000,
        "waiting": 0,
        "preempted": 0,
        "admission_stop": "none_waiting",
    }
    starts = [*range(1200), 1800]
    rows = [
        step
        | {"start_ns": n * 10_000_000, "end_ns": (n + 1) * 10_000_000}
        | ({"flops": 8e9, "bytes": 1e8} if n < 600 else {"flops": 1e9, "bytes": 8e8})
        for n in starts
    ]
    iterations = pa.Table.from_pylist(rows)
    con = duckdb.connect()
    con.register("iterations", iterations)
    con.execute("CREATE TABLE devices (run_id VARCHAR, time_ns BIGINT, host_cpu_percent FLOAT, cpu_percent FLOAT)")
    parts = stretches(con, "r", PEAKS, {}, 0.0, 18.01)
    assert parts == [(0.0, 6.0, "compute"), (6.0, 12.0, "memory_bandwidth"), (12.0, 18.01, "no_work")]
    said = stretches_in_words(parts)
    assert said == "0.0 to 6.0 s: compute; 6.0 to 12.0 s: memory bandwidth; 12.0 to 18.0 s: too little work."
    con.execute("INSERT INTO devices SELECT 'r', n * 100_000_000, 95, 110 FROM range(60) AS t(n)")
    machine = {"cpu": {"cores": 2}, "threads": 2}
    assert stretches(con, "r", PEAKS, machine, 0.0, 18.01)[0] == (0.0, 6.0, "other_processes"), "load of that time"
