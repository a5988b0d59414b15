"""Whole runs: the common workload beside ``transformers``, host work hidden or not, and what recording costs."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu_parts.bench import Bench, Server, common_workload, telling_weights
from benchmarks.harness import ChildFailed, in_child, interleave, paired_ratio, summarise
from engine.config import ChunkedPrefill, EngineConfig, RequestSpec, Sampling
from engine.model.shape import RANDOM

GOAL_TOKENS_PER_S = {"H200": 25_000, "H100": 18_000}  # Qwen3-0.6B shape; other devices have none
GOAL_OVER_PEER = 4.0
GOAL_RECORDING_COST = 0.01
PEER_REQUESTS = 32  # of the common workload: the peer's attention grows with the square of the batch
SHAPE = "qwen3-0.6b"
LEAST_VARIED = 0.5
BUDGET = 4096
KV_TOKENS = 280_000  # holds every request of the common workload to its end


def common(bench: Bench) -> None:
    """Output tokens/s on the common workload."""
    requests = common_workload(RANDOM["tiny" if bench.dry else SHAPE].vocab, bench.dry)
    server = Server(engine_config(bench), requests)
    server.serve(short(requests, 8))
    served = server.serve(requests)
    bench.report.figure(
        "common workload",
        served.tokens_per_s,
        "output tokens/s",
        goal=next((goal for name, goal in GOAL_TOKENS_PER_S.items() if name in bench.device_name), None),
        note=f"{len(requests)} requests, {served.output_tokens:,} output tokens, {served.iterations:,} iterations, "
        f"{served.seconds:.1f} s; random weights of the {SHAPE} shape, temperature 0.6",
    )


def beside_transformers(bench: Bench) -> None:
    """Output tokens/s on the first requests of the common workload, and those of ``transformers`` continuous batching."""
    part = common_workload(RANDOM["tiny" if bench.dry else SHAPE].vocab, bench.dry)[:PEER_REQUESTS]
    server = Server(engine_config(bench), part)
    server.serve(short(part, 8))
    ours = server.serve(part)
    del server
    bench.free()
    if bench.dry:
        return
    try:
        theirs = in_child("benchmarks.gpu_parts.peer", str(PEER_REQUESTS), timeout_s=150)
    except (ChildFailed, OSError) as error:
        bench.report.table("transformers did not run", ["reason"], [(str(error)[-300:],)])
        return
    bench.report.figure(
        "over transformers continuous batching",
        ours.tokens_per_s / theirs["tokens_per_s"],
        "x",
        goal=GOAL_OVER_PEER,
        note=f"the first {PEER_REQUESTS} requests of the workload on both sides: {ours.tokens_per_s:,.0f} and "
        f"{theirs['tokens_per_s']:,.0f} output tokens/s; theirs: {theirs['resolved']}",
    )


def recording(bench: Bench) -> None:
    """Throughput with every row recorded over throughput without, at batch 256, interleaved."""
    count, prompt, output = (2, 3, 3) if bench.dry else (256, 64, 256)
    requests = [_request(i, prompt, output) for i in range(count)]
    server = Server(engine_config(bench), requests)
    server.serve(short(requests, 4))
    by_recording = interleave(
        {mode: lambda mode=mode: server.serve(requests, recording=mode).tokens_per_s for mode in ("full", "off")},
        1 if bench.dry else 3,
    )
    ratio = paired_ratio(by_recording["full"], by_recording["off"])
    bench.report.figure(
        "recording at batch 256",
        1.0 - ratio.median,
        "of throughput",
        better="lower",
        goal=None if bench.dry else GOAL_RECORDING_COST,
        spread=(1.0 - ratio.high, 1.0 - ratio.low),
        note=f"{summarise(by_recording['full']).median:,.0f} with, {summarise(by_recording['off']).median:,.0f} output tokens/s without",
    )


def smallest_steps(bench: Bench) -> None:
    """SmolLM2-135M: wall time of a decode step at batch 1 and 64, CUDA graphs and the overlapped loop on and off."""
    rows: list[tuple[Any, ...]] = []
    batches, output = ((1, 2), 3) if bench.dry else ((1, 64), 256)
    requests = [_request(i, 8, output) for i in range(batches[-1])]
    for graphs in ("off", "on"):
        server = Server(
            bench.config("smollm2-135m", max_num_seqs=batches[-1], max_model_len=512, cuda_graphs=graphs == "on"),
            requests,
        )
        server.serve(short(requests, 4))
        for overlap in ("off", "on"):
            for batch in batches:
                served = server.serve(requests[:batch], overlap=overlap)
                step_ms = served.seconds / served.iterations * 1e3
                rows.append((batch, graphs, overlap, step_ms, served.tokens_per_s))
                name = f"SmolLM2-135M step, batch {batch}, graphs {graphs}, overlap {overlap}"
                bench.report.figure(name, step_ms, "ms", better="lower")
        del server
        bench.free()
    bench.report.table(
        "SmolLM2-135M decode steps", ["batch", "graphs", "overlap", "ms per step", "output tokens/s"], rows
    )


def same_tokens(bench: Bench) -> None:
    """Greedy tokens in float32: kernels, graphs and overlap against the plain loop with the reference backend, on the same device.

    Equal tokens prove something only where they vary: the weights are drawn so large that they do, and that is checked.
    """
    count, prompt, output = (2, 4, 6) if bench.dry else (12, 90, 48)
    requests = [_request(i, prompt + 3 * i, output) for i in range(count)]
    config = bench.config("smollm2-135m", dtype="float32", max_num_seqs=8, max_model_len=1024, kv_blocks=256)
    outputs = {}
    for backend in ("reference", "triton"):
        overlap = "off" if backend == "reference" else "on"
        with telling_weights(bench.shape("smollm2-135m")):
            server = Server(config.model_copy(update={"attention_backend": backend, "overlap": overlap}), requests)
        outputs[backend] = server.serve(requests).outputs
        del server
        bench.free()
    pairs = list(zip(outputs["reference"], outputs["triton"], strict=True))
    equal = sum(ours == theirs for theirs, ours in pairs)
    bench.report.figure(
        "requests with the reference's tokens in float32", equal / count, "of all", goal=1.0, note=f"{equal} of {count}"
    )
    varied = min(len(set(tokens)) / len(tokens) for tokens in outputs["reference"])
    bench.report.figure(
        "different tokens in the least varied of these answers",
        varied,
        "of all",
        goal=LEAST_VARIED,
        note="random weights",
    )
    if varied < LEAST_VARIED:
        raise RuntimeError("these weights make answers that repeat themselves: that they are equal proves little")


def engine_config(bench: Bench) -> EngineConfig:
    """As the common workload is served."""
    return bench.config(
        SHAPE,
        max_num_seqs=4 if bench.dry else 256,
        max_model_len=64 if bench.dry else 2048,
        kv_blocks=(64 if bench.dry else KV_TOKENS) // 16,
        chunked_prefill=ChunkedPrefill(token_budget=16 if bench.dry else BUDGET),
        sampling=Sampling(temperature=0.6, ignore_eos=True),
    )


def _request(index: int, prompt: int, output: int) -> RequestSpec:
    ids = tuple((index * 131 + at * 17) % 400 + 10 for at in range(prompt))
    return RequestSpec(request_id=str(index), prompt_token_ids=ids, max_tokens=output)


def short(requests: list[RequestSpec], output: int) -> list[RequestSpec]:
    return [r.model_copy(update={"max_tokens": min(r.max_tokens, output)}) for r in requests]
