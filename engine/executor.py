"""The device's side of an engine: from a plan to a batch, to logits, to tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch

from engine.attention import backend_class
from engine.batch import Batch, build_batch
from engine.kv.cache import KVCache
from engine.model.decoder import Decoder
from engine.sampling import sample
from engine.scheduler import Plan

if TYPE_CHECKING:
    from engine.graphs import Graphs

Progress = Callable[[str, float], None]


class Executor:
    """Decoder, attention and cache that belong together, and the form of batch they read.

    With the custom kernels (backend ``triton``) the decoder is the fused one and tokens are drawn on the device where the requests'
    settings allow; ``graphs`` (``engine.graphs``) then replays whole decode steps.
    """

    def __init__(self, decoder: Decoder, cache: KVCache, backend: str) -> None:
        shape = decoder.shape
        self.cache = cache
        self.device = decoder.device
        self.attention = backend_class(backend)(cache, shape.heads, shape.kv_heads, shape.head_dim)
        self.decoder = decoder
        self.graphs: Graphs | None = None
        self.build: Callable[[Plan], Batch] = partial(build_batch, block_size=cache.block_size, device=self.device)
        if self.attention.ragged:
            from engine.model.fused import FusedDecoder
            from engine.ragged import RaggedBuilder

            self.decoder = FusedDecoder(decoder)  # type: ignore[assignment]  # the same calls
            self.builder = RaggedBuilder(cache.block_size, self.device)
            self.build = self.builder.build

    def capture_graphs(self, max_num_seqs: int, max_model_len: int, progress: Progress = lambda *_: None) -> None:
        """Record decode steps of padded sizes; ``build`` pads to them from now on."""
        from engine.graphs import Graphs

        assert self.attention.ragged, "graphs need the custom kernels"
        self.graphs = Graphs(self, max_num_seqs, max_model_len)
        self.graphs.capture(progress)
        self.builder.graphs = self.graphs

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits ``[sampled rows, vocab]`` of the rows that reached the end of what is known."""
        if batch.graph_size is not None:
            assert self.graphs is not None
            return self.graphs.replay(batch)
        self.attention.begin(batch.attention)
        hidden = self.decoder.forward(batch.token_ids, batch.positions, self.attention)
        return self.decoder.logits(hidden.index_select(0, batch.sample_rows))

    def sample(self, batch: Batch, logits: torch.Tensor) -> torch.Tensor:
        """One token per sampled row [rows] int64, on the device."""
        if batch.draws is not None:
            from engine.kernels.sample import sample_tokens

            return sample_tokens(logits, batch.draws.temperatures, batch.draws.seeds, batch.draws.counters)
        return sample(logits.float(), [request.sampling_state for request in batch.sampled])
