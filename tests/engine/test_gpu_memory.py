"""A GPU without room is told before anything is allocated: how much is missing, and what would fit."""

from __future__ import annotations

import pytest
import torch

from engine.config.errors import EngineError
from engine.failures import describe
from engine.model.memory import RESERVE_BYTES, check_pool_fits, check_weights_fit, used_by_others
from engine.model.shape import RANDOM

GPU = torch.device("cuda:0")
GIB = 2**30


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch):
    """Stands for a GPU's memory: ``memory(free, total, ours)`` in bytes."""

    def set_to(free: int, total: int = 80 * GIB, ours: int = 0) -> None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, total))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: ours)

    return set_to


def test_a_model_too_large_says_what_is_missing_and_what_fits(memory):
    memory(free=4 * GIB, total=4 * GIB)
    check_weights_fit(RANDOM["qwen3-0.6b"], torch.bfloat16, GPU)
    with pytest.raises(
        EngineError, match=r"11\.\d\d GiB are missing\. The largest shape that fits is random:qwen3-0\.6b"
    ):
        check_weights_fit(RANDOM["llama-3.1-8b"], torch.bfloat16, GPU)


def test_a_pool_too_large_names_the_largest_that_fits(memory):
    block = 1 << 20
    memory(free=RESERVE_BYTES + 100 * block, total=2 * GIB)
    check_pool_fits(100, block, GPU)
    with pytest.raises(EngineError) as caught:
        check_pool_fits(101, block, GPU)
    assert caught.value.field == "kv_blocks"
    assert caught.value.mend == "Set kv_blocks to 100 or less."


def test_memory_in_other_hands_is_named(memory):
    memory(free=10 * GIB, total=80 * GIB, ours=5 * GIB)
    assert "65.0 GiB" in used_by_others(GPU)
    memory(free=74 * GIB, total=80 * GIB, ours=5 * GIB)
    assert used_by_others(GPU) == ""


def test_a_lost_device_is_a_failure_with_a_reason():
    error = describe(RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later"))
    assert error["kind"] == "device-lost"
    assert error["message"].endswith("unspecified launch failure")
    assert "kept" in error["mend"]
    assert describe(RuntimeError("Triton Error [CUDA]: an illegal memory access"))["kind"] == "device-lost"
