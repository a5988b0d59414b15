"""Swapping on a GPU: copies run in a stream of their own, every byte comes back, and tokens are those of a pool that holds all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.config import EngineConfig, Preemption, RequestSpec, Sampling
from engine.start.build import build_engine
from engine.start.prepare import prepare
from telemetry.clock import RunClock
from telemetry.recorder import Recorder
from tests.engine.drawn import random_llama
from tests.engine.serving import make_spec

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

WAYS = {
    "block, in turn": {"copies": "block", "asynchronous": False, "keep_copy": False},
    "group, beside": {"copies": "group", "asynchronous": True, "keep_copy": True},
    "group, beside, over a slow link": {"asynchronous": True, "link_mb_per_s": 5.0, "link_launch_us": 1.0},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    random_llama(directory, seed=11, vocab_size=200, initializer_range=0.4)
    return directory


def crowd() -> list[RequestSpec]:
    prompts = [tuple(range(8 + 7 * n, 40 + 9 * n)) for n in range(8)]
    return [RequestSpec(request_id=str(n), prompt_token_ids=p, max_tokens=60) for n, p in enumerate(prompts)]


def serve(model: Path, blocks: int, preemption: Preemption | None, overlap: str, folder: Path):
    config = EngineConfig(
        model=str(model), device="cuda", dtype="float32", attention_backend="gathered", block_size=4, kv_blocks=blocks,
        preemption=preemption, overlap=overlap, max_num_seqs=8, sampling=Sampling(ignore_eos=True), check_integrity=True,
    )  # fmt: skip
    prepared = prepare(make_spec(config, crowd()))
    with Recorder(folder, "off", clock := RunClock()) as recorder:
        engine = build_engine(prepared, recorder, clock)
        engine.run(prepared.requests)
    assert engine.scheduler.pool.num_used == 0
    return [r.output_token_ids for r in prepared.requests], engine.scheduler.preemption.describe()


@pytest.mark.parametrize("overlap", ["off", "on"])
@pytest.mark.parametrize("way", WAYS)
def test_swapped_bytes_come_back_and_tokens_stay(way: str, overlap: str, tiny: Path, tmp_path: Path) -> None:
    """``check_integrity`` compares every block that comes back with what left, by checksum."""
    roomy, _ = serve(tiny, 400, None, overlap, tmp_path / "roomy")
    asked = Preemption(priorities="random", priority_every=4, **WAYS[way])
    tight, said = serve(tiny, 70, asked, overlap, tmp_path / "tight")
    assert said["swaps_out"] > 5
    assert said["swap_fallbacks"] == 0
    assert tight == roomy
