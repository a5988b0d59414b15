"""How large a pool is, and why: what the memory could hold, and how much of it a workload takes."""

from __future__ import annotations

from typing import Any

import pytest

from engine.config import EngineConfig, RequestSpec
from engine.start.prepare import prepare
from engine.start.prepared import Prepared
from tests.engine.serving import make_spec


def prepared(requests: int, monkeypatch: pytest.MonkeyPatch, free: int = 64 << 20, **settings: Any) -> Prepared:
    """A workload of requests that hold 24 tokens each, on a machine with so many bytes free."""
    monkeypatch.setattr("engine.start.sizing.free_bytes", lambda device: free)
    common = {"model": "random:tiny", "device": "cpu", "threads": 1, "block_size": 8, "kv_memory_fraction": 0.5}
    config = EngineConfig.model_validate(common | settings)
    asked = [
        RequestSpec(request_id=str(n), prompt_token_ids=tuple(range(1, 18)), max_tokens=8) for n in range(requests)
    ]
    return prepare(make_spec(config, asked))


@pytest.mark.parametrize("codec", [{}, {"kv_quantization": {"codec": "kivi"}}], ids=["full", "kivi"])
def test_what_the_memory_could_hold_does_not_hang_on_the_workload(codec: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = (
        prepared(count, monkeypatch, block_size=32, **codec) if codec else prepared(count, monkeypatch)
        for count in (5, 50)
    )
    assert few.kv_capacity_tokens < many.kv_capacity_tokens < few.kv_could_hold_tokens == many.kv_could_hold_tokens
    assert few.pool.why == many.pool.why == "workload"
    assert few.pool.most.tails == many.pool.most.tails


def test_each_bound_is_named_when_it_is_the_one(monkeypatch: pytest.MonkeyPatch) -> None:
    scarce = prepared(50, monkeypatch, free=1 << 20)
    assert (scarce.pool.why, scarce.pool.taken) == ("memory", scarce.pool.most)
    given = prepared(50, monkeypatch, kv_blocks=100)
    assert (given.pool.why, given.num_blocks) == ("kv_blocks", 100)
    assert given.kv_could_hold_tokens > given.kv_capacity_tokens == 800
    beyond = prepared(50, monkeypatch, free=1 << 20, kv_blocks=scarce.num_blocks + 7)
    assert beyond.pool.most == beyond.pool.taken, "what was asked for could be held, whatever the share"
    narrow = prepared(500, monkeypatch, max_num_seqs=1)
    assert narrow.pool.why in ("workload", "at_once")
    assert narrow.num_blocks <= narrow.max_model_len // 8 + 1
