"""What is known of a run once its model is loaded and its workload checked, before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from engine.config import ChunkedPrefill, RunSpec
from engine.config.errors import EngineError
from engine.kv.cache import KVCache
from engine.kv.codecs import Codec
from engine.kv.quantized import Fixed
from engine.model.load import LoadedModel
from engine.request import Request
from engine.scheduling.policies.base import Limits
from engine.start.layouts import Layout
from engine.start.sizing import PoolSize, block_bytes

DEFAULT_TOKEN_BUDGET = {"cpu": 64, "cuda": 512}


@dataclass(frozen=True)
class Prepared:
    """A model loaded and a workload checked against it; ``engine.start.build`` makes an engine of it."""

    spec: RunSpec
    model: LoadedModel
    device: torch.device
    pool: PoolSize
    max_model_len: int
    requests: list[Request]  # those that were refused included
    backend: str  # of attention
    notices: tuple[str, ...] = ()  # labels: what this device could not do as asked
    guesser: Any = None  # weights that guess for the model, where speculation needs some (``Proposer.load``)
    codec: Codec | None = None  # of the KV cache; None: full precision
    fixed: Fixed = field(default_factory=Fixed)  # what was found on text at start
    backend_why: str | None = None  # what the kernels that this device has do not serve; None: ``backend`` is these
    layout: Layout = None  # type: ignore[assignment]  # of the pool's memory
    cache: KVCache | None = None  # that another process has, too; None: to be allocated

    @property
    def num_blocks(self) -> int:
        return self.pool.taken.blocks

    def unfit(self, request: Request) -> EngineError | None:
        """Why a request can never have all its keys and values in the pool; None where it can."""
        return self.layout.unfit(request, self.num_blocks)

    @property
    def tails(self) -> int | None:
        """Sequences that may keep an exact window at once; None: the codec has none."""
        return self.pool.taken.tails

    @property
    def servable(self) -> list[Request]:
        """Requests that were not refused."""
        return [r for r in self.requests if r.refusal is None]

    @property
    def most_at_once(self) -> int:
        """Requests that may run at once: no more than there are, where that is known ahead."""
        places = self.spec.engine.max_num_seqs
        return places if self.spec.served else min(places, len(self.servable))

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt that can come."""
        if self.spec.served:
            return self.max_model_len - 1
        return max(request.most_prompt_tokens for request in self.servable)

    @property
    def kv_capacity_tokens(self) -> int:
        return (self.num_blocks + self.layout.far_blocks) * self.spec.engine.block_size

    @property
    def kv_could_hold_tokens(self) -> int:
        """Of the pool's share of the memory, whatever the workload."""
        return (self.pool.most.blocks + self.layout.far_blocks) * self.spec.engine.block_size

    @property
    def overlaps(self) -> bool:
        """Whether the next step is prepared while the device runs the last one."""
        config = self.spec.engine
        wanted = self.device.type == "cuda" if config.overlap == "auto" else config.overlap == "on"
        asked = config.speculation
        rests = asked is not None and asked.control == "smart" and asked.inject_bug == "none"
        return wanted and (asked is None or rests)

    @property
    def kv_bytes_per_token(self) -> float:
        """Of a packed token, all layers."""
        size = self.spec.engine.block_size
        return block_bytes(self.model, size, self.codec) / size

    @property
    def most_new_tokens(self) -> int:
        """Of one step, whichever requests it serves."""
        config, limits = self.spec.engine, self.limits
        most = limits.token_budget
        if config.chunked_prefill is None:
            most = max(most, limits.max_num_batched_tokens)
        if self.spec.served:
            return most
        return min(most, sum(r.most_prompt_tokens for r in self.servable) + config.max_num_seqs)

    @property
    def limits(self) -> Limits:
        config = self.spec.engine
        chunked = config.chunked_prefill or ChunkedPrefill()
        budget = chunked.token_budget or DEFAULT_TOKEN_BUDGET[self.device.type]
        return Limits(budget, chunked.chunk_size, config.max_num_batched_tokens)
