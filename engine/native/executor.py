"""The CPU's side of an engine with native kernels."""

from __future__ import annotations

import torch

from engine.attention.base import AttentionBackend
from engine.batch import Batch
from engine.executor import Executor
from engine.model.decoder import Decoder
from engine.native.decoder import NativeDecoder


class NativeExecutor(Executor):
    """The plain form of a batch through the decoder with native kernels. It is for one cache: the attention's."""

    def __init__(self, decoder: Decoder, attention: AttentionBackend, *, draws_on_device: bool = True) -> None:
        super().__init__(decoder, attention)
        self.native = NativeDecoder(decoder, attention)

    def forward(self, batch: Batch) -> torch.Tensor:
        self.attention.begin(batch.attention)
        hidden = self.native.forward(batch.token_ids, batch.positions, self.attention)
        self.left = hidden.index_select(0, batch.sample_rows)
        return self.native.logits(self.left)
