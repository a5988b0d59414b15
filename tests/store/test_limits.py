"""The verdict on what limits the engine, for batches built so that the answer is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from store.limits import what_limits

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
    }
    return {name: np.full(steps, value, float) for name, value in (values | columns).items()}


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
    limit = what_limits(columns, PEAKS, window_s=1.0)
    assert limit.kind == kind
    assert limit.sentence.endswith(".")
    json.dumps(limit.as_dict(), allow_nan=False)


def test_the_figures_behind_it() -> None:
    figures = what_limits(window(flops=1e9, bytes=800e6), PEAKS, window_s=1.0).figures
    assert figures["busy_share"] == 1.0
    assert figures["compute_ms"] == pytest.approx(1.0)
    assert figures["memory_ms"] == pytest.approx(8.0)
    assert figures["bound_ms"] == pytest.approx(8.0)
    assert figures["overhead_share"] == pytest.approx(0.2)
    assert figures["iteration_ms"] == pytest.approx(10.0)


def test_a_mix_is_bound_step_by_step_not_on_average() -> None:
    prefill, decode = window(10, flops=9e9, bytes=100e6), window(90, flops=1e8, bytes=900e6)
    mixed = {name: np.concatenate([prefill[name], decode[name]]) for name in prefill}
    limit = what_limits(mixed, PEAKS, window_s=1.0)
    assert limit.kind == "memory_bandwidth"
    assert limit.figures["bound_ms"] == pytest.approx(9.0)
    assert limit.figures["memory_bound_share"] == pytest.approx(0.9)


def test_without_peaks_it_does_not_pretend() -> None:
    limit = what_limits(window(flops=8e9), None, window_s=1.0)
    assert "not known" in limit.sentence
    assert "overhead_share" not in limit.figures
