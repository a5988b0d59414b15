"""The work all sides do: the ragged workload, as token ids and output lengths."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import scenarios
from engine.config import EMBEDDED_MODEL, RunSpec

AT_ONCE = 16  # requests in the batch
MAX_BATCH_TOKENS = 512  # tokens one forward pass may compute
KV_TOKENS = 16_384  # places in the KV cache
BLOCK_TOKENS = (
    32  # each side uses the block size that serves it well; ours copies longer runs of memory with 32 than with 16
)
WARM_TOKENS = 8  # output tokens of each request of the unmeasured first batch


@dataclass(frozen=True)
class Work:
    """``requests``: prompt token ids and the exact number of output tokens, in the order of submission."""

    requests: tuple[tuple[list[int], int], ...]

    @property
    def prompt_tokens(self) -> int:
        return sum(len(ids) for ids, _ in self.requests)

    @property
    def output_tokens(self) -> int:
        return sum(count for _, count in self.requests)

    @property
    def warm(self) -> Work:
        """One batch of the same prompts with short outputs."""
        return Work(tuple((ids, WARM_TOKENS) for ids, _ in self.requests[:AT_ONCE]))


def ragged_spec(dtype: str, threads: int, requests: int | None = None) -> RunSpec:
    """The workload as a run of ours, under the limits that all sides share."""
    overrides = {
        "device": "cpu",
        "dtype": dtype,
        "threads": str(threads),
        "max_num_seqs": str(AT_ONCE),
        "chunked_prefill.token_budget": str(MAX_BATCH_TOKENS),
        "block_size": str(BLOCK_TOKENS),
        "kv_blocks": str(KV_TOKENS // BLOCK_TOKENS),
        "keep_text": "off",
    }
    if requests is not None:
        overrides["workload.requests"] = str(requests)
    return scenarios.build("ragged", overrides)


def ragged(requests: int | None = None) -> Work:
    """The same requests as plain numbers, for the other sides."""
    spec = ragged_spec("float32", 1, requests)
    return Work(tuple((list(r.prompt_token_ids or ()), r.max_tokens) for r in spec.requests))


def digest(outputs: Sequence[Sequence[int]]) -> list[str]:
    """A short hash of each request's output token ids, in the order of submission."""
    return [hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()[:16] for ids in outputs]


def model_folder() -> Path:
    """The embedded model's weights in float32, as all sides read them."""
    from engine.model.load import model_directory, resolve

    return Path(model_directory(resolve(EMBEDDED_MODEL)))


if __name__ == "__main__":  # for what exports the weights: where they lie
    print(model_folder())
