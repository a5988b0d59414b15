"""Published workloads, drawn call by call as their authors draw them, so that figures can stand beside others'."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any


def ragged(seed: int, count: int | None) -> list[dict[str, Any]]:
    """The CPU peers' workload: 32 prompts of 32 to 256 random tokens, answers of 16 to 128, all at once.

    With seed 0: 4,174 tokens in, 2,005 out.
    """
    rng = random.Random(seed)
    requests = []
    for _ in range(count or 32):
        length = rng.randint(32, 256)
        ids = tuple(rng.randrange(10, 49_000) for _ in range(length))
        requests.append({"prompt_token_ids": ids, "max_tokens": rng.randint(16, 128)})
    return requests


def nano_bench(seed: int, count: int | None) -> list[dict[str, Any]]:
    """The common GPU workload: 256 prompts and answers of 100 to 1024 tokens each, temperature 0.6, all at once.

    All prompts are drawn before all lengths. With seed 0: 142,827 tokens in, 133,966 out.
    """
    rng = random.Random(seed)
    many = count or 256
    prompts = [tuple(rng.randint(0, 10_000) for _ in range(rng.randint(100, 1024))) for _ in range(many)]
    return [{"prompt_token_ids": ids, "max_tokens": rng.randint(100, 1024), "temperature": 0.6} for ids in prompts]


RECIPES: dict[str, Callable[[int, int | None], list[dict[str, Any]]]] = {"ragged": ragged, "nano-bench": nano_bench}
