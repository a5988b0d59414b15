"""The device's side of an engine: from a plan to a batch, to logits, to tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch

from engine.attention.base import AttentionBackend
from engine.batch import Batch, build_batch
from engine.model.decoder import Decoder
from engine.sampling import sample
from engine.scheduling.plan import Plan
from engine.speculation.verify import verify

if TYPE_CHECKING:
    from engine.gpu.graphs import Graphs

Progress = Callable[[str, float], None]


class Executor:
    """Decoder, attention and cache that belong together, and the form of batch they read.

    With the custom kernels (backend ``triton``) the decoder is the fused one and tokens are drawn on the device where the requests'
    settings allow; ``graphs`` (``engine.gpu.graphs``) then replays whole decode steps.
    """

    def __init__(self, decoder: Decoder, attention: AttentionBackend) -> None:
        self.cache = attention.cache
        self.device = decoder.device
        self.dtype = decoder.dtype
        self.attention = attention
        self.decoder = decoder
        self.graphs: Graphs | None = None
        self.left = torch.empty(
            0
        )  # [sampled rows, hidden] of the last batch, after the last layer; valid until the next one
        self.build: Callable[[Plan], Batch] = partial(build_batch, block_size=self.cache.block_size, device=self.device)
        if self.attention.ragged:
            from engine.gpu.fused import FusedDecoder
            from engine.gpu.ragged import RaggedBuilder

            self.decoder = FusedDecoder(decoder)  # type: ignore[assignment]  # the same calls
            self.builder = RaggedBuilder(
                self.cache.block_size,
                self.device,
                attention.passes,
                tail_tokens=attention.tail_tokens,
                tells_prefills=attention.exact_prefill,
            )
            self.build = self.builder.build

    @property
    def draws_on_device(self) -> bool:
        """Whether tokens are drawn by the sampling kernel; speculation draws from the host's streams throughout."""
        return self.attention.ragged and self.builder.draws

    @draws_on_device.setter
    def draws_on_device(self, wanted: bool) -> None:
        if self.attention.ragged:
            self.builder.draws = wanted

    def capture_graphs(self, max_num_seqs: int, max_model_len: int, progress: Progress = lambda *_: None) -> None:
        """Record decode steps of padded sizes; ``build`` pads to them from now on."""
        from engine.gpu.graphs import Graphs

        assert self.attention.ragged, "graphs need the custom kernels"
        self.graphs = Graphs(self, max_num_seqs, max_model_len)
        self.graphs.capture(progress)
        self.builder.graphs = self.graphs

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits ``[sampled rows, vocab]`` of the rows that reached the end of what is known."""
        if batch.graph_size is not None:
            assert self.graphs is not None
            assert batch.attention.ragged is not None
            self.left, logits = self.graphs.replay(batch)
            self.attention.spared_tokens = batch.attention.ragged.spared_tokens
            return logits
        self.attention.begin(batch.attention)
        hidden = self.decoder.forward(batch.token_ids, batch.positions, self.attention)
        self.left = hidden.index_select(0, batch.sample_rows)
        return self.decoder.logits(self.left)

    def tokens(self, batch: Batch, logits: torch.Tensor) -> list[list[int]]:
        """What each sampled part receives: one token, or with guesses what ``verify`` makes of them. ``BROKEN`` ends what has no numbers."""
        if batch.draws is None:
            return verify(logits.float(), batch.sampled)
        return [[token] for token in self.sample(batch, logits).tolist()]

    def fill_in(self, batch: Batch, previous: torch.Tensor) -> None:
        """Put tokens that were still on their way into a batch: id ``-1 - row`` is row ``row`` of ``previous`` [rows] int64."""
        ids = batch.token_ids
        found = previous.index_select(0, (-1 - ids).clamp_(0, len(previous) - 1)).clamp_(min=0)  # one may be BROKEN
        ids.copy_(torch.where(ids < 0, found.to(ids.dtype), ids))

    def sample(self, batch: Batch, logits: torch.Tensor) -> torch.Tensor:
        """One token per part [parts] int64, still on the device, ``BROKEN`` where there are no numbers; only for batches without guesses.

        By the sampling kernel where the batch brings what it needs; requests that ask for more than a temperature by ``sample``.
        """
        draws = batch.draws
        if draws is None:
            return sample(logits.float(), [part.request.sampling_state for part in batch.sampled])
        from engine.gpu.kernels.sample import sample_tokens

        tokens = sample_tokens(logits, draws.temperatures, draws.seeds, draws.counters)
        if draws.others:
            rows = torch.tensor(draws.others, device=logits.device)
            states = [batch.sampled[row].request.sampling_state for row in draws.others]
            tokens[rows] = sample(logits[rows].float(), states)
        return tokens
