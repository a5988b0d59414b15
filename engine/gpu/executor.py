"""The device's side of an engine with custom kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from engine.batch import Batch
from engine.executor import DECODES_ONLY, Executor, LongerSteps
from engine.gpu.attention import TritonAttention
from engine.gpu.batch import GpuBatch
from engine.gpu.fused import FusedDecoder
from engine.gpu.graphs import Graphs
from engine.gpu.kernels import sample as drawing
from engine.gpu.ragged import RaggedBuilder
from engine.model.decoder import Decoder
from engine.phases import Progress, silent
from engine.sampling import sample
from engine.scheduling.plan import Plan


class GpuExecutor(Executor):
    """The fused decoder over the flat form of a batch; tokens are drawn on the device where the requests' settings
    allow.

    ``graphs`` (``engine.gpu.graphs``), once recorded, replays whole decode steps.
    """

    kernels = True
    attention: TritonAttention

    def __init__(self, decoder: Decoder, attention: TritonAttention, *, draws_on_device: bool = True) -> None:
        super().__init__(decoder, attention)
        self.fused = FusedDecoder(decoder)
        self.graphs: Graphs | None = None
        self.builder = RaggedBuilder(
            self.cache.block_size,
            self.device,
            attention.passes,
            tail_tokens=attention.tail_tokens,
            tells_prefills=attention.exact_prefill,
            draws=draws_on_device,
        )

    def build(self, plan: Plan) -> GpuBatch:
        return self.builder.build(plan)

    def forward(self, batch: Batch) -> torch.Tensor:
        assert isinstance(batch, GpuBatch)
        if batch.form is not None:
            assert self.graphs is not None
            hidden, logits = self.graphs.replay(batch.form)
            if logits is not None:
                self.left = hidden[: len(batch.sampled)]
                return logits[: len(batch.sampled)]
            self.left = hidden.index_select(0, batch.sample_rows)
            return self.fused.logits(self.left)
        self.attention.begin(batch.attention)
        hidden = self.fused.forward(batch.token_ids, batch.positions, self.attention)
        self.left = hidden.index_select(0, batch.sample_rows)
        return self.fused.logits(self.left)

    def tokens(self, batch: Batch, logits: torch.Tensor) -> list[list[int]]:
        assert isinstance(batch, GpuBatch)
        if batch.draws is None:
            return super().tokens(batch, logits)
        return [[token] for token in self.sample(batch, logits).tolist()]

    def sample(self, batch: Batch, logits: torch.Tensor) -> torch.Tensor:
        """By the sampling kernel where the batch brings what it needs; requests that ask for more than a temperature by
        ``sample``."""
        assert isinstance(batch, GpuBatch)
        draws = batch.draws
        if draws is None:
            return super().sample(batch, logits)
        tokens = drawing.sample_tokens(logits, draws.temperatures, draws.seeds, draws.counters)
        if draws.others:
            rows = torch.tensor(draws.others, device=logits.device)
            states = [batch.sampled[row].request.sampling_state for row in draws.others]
            tokens[rows] = sample(logits[rows].float(), states)
        return self.scored(batch, logits, tokens)

    def spared_tokens(self, batch: Batch) -> int:
        assert isinstance(batch, GpuBatch)
        return batch.attention.spared_tokens

    def capture_graphs(
        self,
        max_num_seqs: int,
        max_model_len: int,
        progress: Progress = silent,
        *,
        longer: LongerSteps = DECODES_ONLY,
        sizes: Sequence[int] | None = None,
    ) -> None:
        """``sizes``: numbers of single tokens to record; None: those that ``padded_sizes`` names."""
        self.graphs = Graphs(self.fused, self.attention, max_num_seqs, max_model_len, sizes, longer)
        self.graphs.capture(progress)
        self.builder.graphs = self.graphs

    @property
    def graph_bytes(self) -> int:
        return 0 if self.graphs is None else self.graphs.nbytes

    def rehearse(self, batch: Batch) -> None:
        """Also draws, where that is a kernel's."""
        assert isinstance(batch, GpuBatch)
        logits = self.forward(batch)
        if batch.draws is not None:
            self.tokens(batch, logits)

    def chunk_lengths(self, most: int) -> Sequence[int]:
        return self.attention.tile_lengths(most)

    def prefix_rows(self, most: int) -> Sequence[int]:
        return () if self.attention.passes is None else self.attention.passes.tile_changes(most)
