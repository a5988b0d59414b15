"""The comparison's own arithmetic: the same work for all, and the bound as it is defined."""

from __future__ import annotations

import json
import struct

import pytest

import scenarios
from benchmarks import cpu_peers, startup
from benchmarks.harness import ChildFailed, Report
from benchmarks.peers.work import AT_ONCE, KV_TOKENS, digest, ragged, ragged_spec


def test_all_sides_get_the_published_work():
    work = ragged()
    assert (len(work.requests), work.prompt_tokens, work.output_tokens) == (32, 4174, 2005)
    assert [(list(r.prompt_token_ids), r.max_tokens) for r in scenarios.build("ragged").requests] == list(work.requests)


def test_the_warm_batch_is_one_batch_of_short_answers():
    warm = ragged().warm
    assert len(warm.requests) == AT_ONCE
    assert {count for _, count in warm.requests} == {8}


def test_our_side_has_the_limits_the_others_have():
    engine = ragged_spec("bfloat16", 2).engine
    assert engine.kv_blocks * engine.block_size == KV_TOKENS
    assert engine.max_num_seqs == AT_ONCE
    assert engine.chunked_prefill.token_budget == 512
    assert engine.recording == "full"


def test_digests_tell_outputs_apart():
    a, b, c = digest([[1, 2], [12], [1, 2]])
    assert a == c
    assert a != b


@pytest.mark.parametrize(
    ("step_ms", "prefill", "tokens_per_s"), [(78.6, 653, 124), (30.3, 1767, 325)], ids=["float32", "bfloat16"]
)
def test_the_bound_is_full_decode_steps_and_full_chunks(step_ms: float, prefill: float, tokens_per_s: float):
    from benchmarks.peers import linear_bound

    times = {"decode_step_s": step_ms / 1e3, "prefill_tokens_per_s": prefill}
    assert linear_bound.tokens_per_s(times, 4174, 2005) == pytest.approx(tokens_per_s, rel=0.01)


def test_every_stated_goal_is_a_figure_of_the_report():
    report = Report("demo")
    bound = [{kind: {"decode_step_s": 0.05, "prefill_tokens_per_s": 1000} for kind in ("plain", "packed")}]
    cpu_peers.bounds(report, "float32", bound, [150.0], None)
    by_name = {figure.name: figure for figure in report.figures}
    assert by_name["float32 share of that bound, plain"].goal == 0.70
    assert by_name["float32 share of that bound, plain"].met
    assert by_name["float32 share of that bound, packed"].goal is None
    assert "125.3 decode steps of 16" in by_name["float32 bound, plain weights"].note
    assert cpu_peers.LEAST_RATIO == {
        "float32": {"static": 1.6, "continuous": 1.6, "openvino": 1.15, "vllm": 1.15, "llama.cpp": 1.15},
        "bfloat16": {"static": 2.2, "continuous": 2.5, "openvino": 1.15, "vllm": 1.15, "llama.cpp": 1.15},
    }


def test_a_side_that_cannot_run_a_number_format_is_left_out_by_name():
    report = Report("demo")

    def refuses(side: str) -> dict:
        raise ChildFailed("ended with 1:\nexpect kvcache type f32, current: bf16")

    sides = cpu_peers.able(report, "bfloat16", ["ours", "openvino"], refuses)
    assert sides == ["ours"]
    assert "expect kvcache type f32" in str(report.details)


def frame(table: str, n: int) -> bytes:
    header = json.dumps({"table": table, "n": n, "first": 0, "columns": []}).encode()
    return struct.pack("<I", len(header)) + header


def test_only_iterations_end_the_wait_for_the_first_iteration():
    assert startup.rows(frame("iteration", 3)) == 3
    assert startup.rows(frame("iteration", 0)) == 0
    assert startup.rows(frame("device", 5)) == 0


@pytest.mark.parametrize("message", [{"type": "error"}, {"type": "status", "state": "failed"}])
def test_a_run_that_failed_is_no_slow_start(message: dict[str, str]):
    with pytest.raises(RuntimeError):
        startup.refuse_failure(json.dumps(message))
    startup.refuse_failure(json.dumps({"type": "status", "state": "running"}))
