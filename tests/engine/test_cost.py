"""The modelled least cost of a batch, against the formulas written out for a small case."""

from __future__ import annotations

import torch

from engine.config import RequestSpec, Sampling
from engine.cost import CostModel
from engine.request import Request
from engine.scheduling.plan import Plan, Slice
from engine.start.peaks import measure_peaks


def make_slice(tokens: int, context: int) -> Slice:
    request = Request(0, RequestSpec(request_id="r", prompt="-"), [0] * (tokens + context), Sampling(), 1)
    return Slice(request, tokens, context, tokens > 1)


def test_prefill_and_decode_follow_the_theoretical_peak_formulas():
    # 2 layers, 4 heads of size 8: one (query, key) pair costs 4 * 2 * 4 * 8 FLOP
    cost = CostModel(
        body_parameters=1000, head_parameters=500, weight_bytes=3000, kv_bytes_per_token=64, pair_flops=256
    )
    flops, moved = cost.of(Plan([make_slice(5, 10)]), sampled_rows=1)
    assert flops == 2 * 1000 * 5 + 2 * 500 + 256 * (5 * 10 + 5 * 6 / 2)
    assert moved == 3000 + 64 * (15 + 5)
    flops, moved = cost.of(Plan([make_slice(1, 99), make_slice(1, 49)]), sampled_rows=2)
    assert flops == 2 * 1000 * 2 + 2 * 500 * 2 + 256 * (100 + 50)
    assert moved == 3000 + 64 * (150 + 2)


def test_chunks_of_a_prompt_cost_the_arithmetic_of_the_whole():
    cost = CostModel(1000, 0, 3000, 64, 256)
    whole, _ = cost.of(Plan([make_slice(30, 0)]), 0)
    parts = [cost.of(Plan([make_slice(10, done)]), 0) for done in (0, 10, 20)]
    assert sum(flops for flops, _ in parts) == whole
    # extra bytes: the weights twice more, and earlier keys read again
    assert sum(moved for _, moved in parts) == 3 * 3000 + 64 * (10 + 20 + 30 + 30)


def test_measured_peaks_are_rates_of_real_work():
    peaks = measure_peaks(torch.device("cpu"), torch.float32, budget_s=0.01)
    assert peaks["flops_per_s"] > 1e8
    assert peaks["bytes_per_s"] > 1e7
    assert peaks["seconds"] < 60
