"""Before the clock starts: a few batches, so that the first iterations do not pay for choosing kernels and growing
buffers."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from engine.attention.groups import GroupRule
from engine.backends import make_attention, make_executor
from engine.block_table import blocks_for
from engine.config import EngineConfig, RequestSpec, RunSpec
from engine.model.device import resolve_device, resolve_dtype
from engine.model.load import LoadedModel
from engine.request import Request
from engine.scheduling.plan import Plan, Slice
from engine.start.attention import exact_prefill, group_rule
from engine.start.build import make_cache
from engine.start.peaks import measure_peaks
from engine.start.prepare import prepare
from engine.start.prepared import Prepared
from telemetry.recorder import Recorder

MOST_ROWS = 32  # more rows cost more to try than it saves


def rehearse() -> None:
    """Pay what a process pays once, before it is given a run: late imports and the libraries' first calls, on a tiny
    model."""
    for needed in ("jinja2.sandbox", "jinja2.ext"):  # by a chat template
        importlib.import_module(needed)
    config = EngineConfig(model="random:tiny", device="cpu", dtype="auto", max_num_seqs=2, kv_blocks=64)
    request = RequestSpec(request_id="0", prompt_token_ids=(1, 2, 3), max_tokens=4)
    warm_up(prepare(RunSpec(run_id="rehearsal", scenario="none", engine=config, requests=(request,))))
    device = resolve_device("cpu")
    measure_peaks(device, resolve_dtype("auto", device), budget_s=0.0)
    with tempfile.TemporaryDirectory(prefix="servescope-") as folder:
        Recorder(Path(folder)).close()


@torch.inference_mode()
def warm_up(prepared: Prepared) -> None:
    """Compute one chunk, one mixed, one decode and with speculation two verify batches on a throw-away cache.

    With custom kernels also a batch for each form that they are compiled in, and a draw: nothing is compiled while a
    run is measured.
    """
    config, shape, model = prepared.spec.engine, prepared.model.shape, prepared.model
    size = config.block_size
    length = min(prepared.limits.token_budget, prepared.max_model_len - 1, 256)
    requests = []
    for index in range(min(config.max_num_seqs, 16)):
        request = Request(index, RequestSpec(request_id=str(index), prompt="-"), [0] * length, config.sampling, 1)
        blocks = blocks_for(length, size)
        request.block_table = list(range(index * blocks, (index + 1) * blocks))
        request.tail = index
        requests.append(request)
    cache = make_cache(prepared, len(requests) * blocks_for(length, size), len(requests))
    rule = None if group_rule(config) is None else GroupRule()  # two rows with a block in common are enough here
    attention = make_attention(
        prepared.backend,
        cache,
        shape.heads,
        shape.kv_heads,
        shape.head_dim,
        exact_prefill=exact_prefill(config),
        rule=rule,
    )
    executor = make_executor(prepared.backend, model.decoder, attention, draws_on_device=config.speculation is None)
    decodes = [Slice(r, 1, length - 1, False) for r in requests]
    batches = [
        [Slice(requests[0], length, 0, True)],
        [*decodes[1:], Slice(requests[0], max(1, length // 2), 0, True)],
        decodes,
    ]
    if config.speculation is not None:
        rows = min(config.speculation.k + 1, length)
        verifies = [Slice(r, rows, length - rows, False) for r in requests]
        batches += [verifies[:1], verifies]
    if length > size:
        batches += [shared_decodes(requests[0], n, length) for n in executor.prefix_rows(config.max_num_seqs)]
    if executor.kernels:
        most = prepared.most_new_tokens
        lengths = executor.chunk_lengths(min(most, prepared.max_model_len - 1))
        batches += forms(lengths, most, config.max_num_seqs, requests[0], size)
    for slices in batches:
        executor.rehearse(executor.build(Plan(slices)))
    if config.speculation is not None and prepared.device.type == "cpu":
        touch_rows(prepared, config.speculation.k)


def touch_rows(prepared: Prepared, k: int) -> None:
    """Every number of rows that guesses of any length may make of a batch, up to ``MOST_ROWS``.

    oneDNN prepares a product anew for each number of rows, which takes about as long as some layers; when requests have
    guesses of their own lengths most iterations of a short run would bring a number that was not seen before.
    """
    places = prepared.spec.engine.max_num_seqs
    for rows in range(1, min(MOST_ROWS, places * (k + 1)) + 1):
        prepared.model.decoder.touch(rows)
    guessing = prepared.guesser.decoder if isinstance(prepared.guesser, LoadedModel) else prepared.guesser
    if guessing is not None:
        for rows in range(1, min(MOST_ROWS, places) + 1):
            guessing.touch(rows)


def forms(lengths: Sequence[int], most: int, max_num_seqs: int, like: Request, block_size: int) -> list[list[Slice]]:
    """Batches of few and of many sequences, whose keys are cut into segments and are not: of single tokens, and of as
    many tokens as each tile is for. All of them lie in one block, as what they hold is of no interest."""
    batches = []
    for tokens in (1, *lengths):
        for count in sorted({1, max(1, min(max_num_seqs, most // tokens))}):
            slices = []
            for index in range(count):
                request = Request(index, like.spec, [0] * tokens, like.sampling, 1)
                request.block_table = [like.block_table[0]] * blocks_for(tokens, block_size)
                slices.append(Slice(request, tokens, 0, tokens > 1))
            batches.append(slices)
    return batches


def shared_decodes(like: Request, count: int, length: int) -> list[Slice]:
    """Decodes that hold the very same blocks; what they write there is of no interest."""
    slices = []
    for index in range(count):
        request = Request(index, like.spec, like.token_ids, like.sampling, 1)
        request.block_table = like.block_table
        slices.append(Slice(request, 1, length - 1, False))
    return slices
