"""The CPU's side of an engine with native kernels."""

from __future__ import annotations

from engine.attention.base import AttentionBackend
from engine.executor import Executor
from engine.model.decoder import Decoder
from engine.native.decoder import NativeDecoder


class NativeExecutor(Executor):
    """The plain form of a batch through the decoder with native kernels. It is for one cache: the attention's."""

    def __init__(self, decoder: Decoder, attention: AttentionBackend, *, draws_on_device: bool = True) -> None:
        super().__init__(decoder, attention, draws_on_device=draws_on_device)
        self.decoder = NativeDecoder(decoder, attention)
