"""CUDA graphs: decode steps recorded once per padded size, then replayed without Python in between.

A graph reads fixed memory, so a batch is padded to the next size that was recorded and copied into that memory::

    5 rows, graph of 8   | r0 r1 r2 r3 r4 | -- -- -- |   padding: slot -1 (stores nothing), 0 keys (attends to nothing)

Where rows that share a prefix read it together, every size is recorded twice, with the passes over prefixes and
without; the work of these passes is a table, padded too. Prefixes for which that has no room are a step without a
graph.

On a device without graphs the recorded work is simply done again: the padding is the same, and so are the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from engine.block_table import blocks_for
from engine.gpu.attention import TritonAttention
from engine.gpu.batch import GpuBatch, Ragged, SharedRows
from engine.gpu.fused import FusedDecoder
from engine.gpu.layout import Layout
from engine.phases import Progress, silent

if TYPE_CHECKING:
    from engine.gpu.attention.prefixes import PrefixGroups

Outputs = tuple[torch.Tensor, torch.Tensor]  # [rows, hidden] after the last layer, [rows, vocab]


def padded_sizes(most: int) -> list[int]:
    """Sizes up to ``most``: 1, 2, 4, 8, then steps of 8 to 64, of 16 to 256, of 64 beyond; ``most`` itself is always
    one."""
    sizes = [1, 2, 4, *range(8, 65, 8), *range(80, 257, 16), *range(320, most + 64, 64)]
    return sorted({min(size, most) for size in sizes})


class Graphs:
    """Recorded decode steps of one decoder over one attention backend's cache."""

    def __init__(
        self,
        decoder: FusedDecoder,
        attention: TritonAttention,
        max_num_seqs: int,
        max_model_len: int,
        sizes: Sequence[int] | None = None,
    ) -> None:
        self._decoder = decoder
        self._attention = attention
        self._device = attention.cache.device
        self._sizes = sorted(sizes or padded_sizes(max_num_seqs))
        self._blocks_per_sequence = blocks_for(max_model_len, attention.cache.block_size)
        self._passes = attention.passes
        self._kinds = [(size, False) for size in self._sizes]  # size, whether rows share prefixes
        if self._passes is not None:
            self._kinds += [(size, True) for size in self._sizes if size >= self._passes.rule.min_rows]
        self._kinds.sort()
        words = max(self._layout(*kind, None).words for kind in self._kinds)
        self._memory = torch.zeros(words, dtype=torch.int32, device=self._device)
        self._layouts = {kind: self._layout(*kind, self._memory) for kind in self._kinds}
        self._replays: dict[tuple[int, bool], Callable[[], Outputs]] = {}
        self.nbytes = 0  # memory the recordings hold

    @property
    def sizes(self) -> list[int]:
        return self._sizes

    def fit(self, rows: int, groups: PrefixGroups | None = None) -> int | None:
        """The smallest recorded size for this many rows; ``groups``: what they share, None where it has no room for
        it."""
        shares = groups is not None
        size = next((size for size in self._sizes if size >= rows and (size, shares) in self._replays), None)
        return size if size is None or groups is None or groups.fits(size) else None

    def layout(self, size: int, *, shares: bool = False) -> Layout:
        """Where a batch padded to ``size`` lies in the graphs' memory."""
        return self._layouts[size, shares]

    def _layout(self, size: int, shares: bool, memory: torch.Tensor | None) -> Layout:
        prefixes = self._passes.words(size) if shares and self._passes is not None else None
        return Layout.padded(size, size * self._blocks_per_sequence, memory, prefixes)

    def replay(self, batch: GpuBatch) -> Outputs:
        """The residual stream after the last layer and the logits of the batch's rows; valid until the next replay."""
        assert batch.graph_size is not None
        hidden, logits = self._replays[batch.graph_size, batch.attention.shared is not None]()
        return hidden[: len(batch.sampled)], logits[: len(batch.sampled)]

    @torch.inference_mode()
    def capture(self, progress: Progress = silent) -> None:
        """Record every size, the largest first: the smaller ones then find their memory in the same pool."""
        gpu = self._device.type == "cuda"
        before = torch.cuda.mem_get_info(self._device)[0] if gpu else 0
        pool = torch.cuda.graph_pool_handle() if gpu else None
        for number, kind in enumerate(reversed(self._kinds)):
            progress("recording CUDA graphs", number / len(self._kinds))
            step = self._step(*kind)
            self._replays[kind] = _record(step, pool) if gpu else step
        if gpu:
            self.nbytes = max(0, before - torch.cuda.mem_get_info(self._device)[0])

    def _step(self, size: int, shares: bool) -> Callable[[], Outputs]:
        """The work of one decode step on the fixed memory."""
        decoder, backend = self._decoder, self._attention
        part = dict(self.layout(size, shares=shares).tensors)
        part["slots"].fill_(-1)
        attention = Ragged(
            slots=part["slots"],
            num_singles=size,
            query_starts=part["query_starts"],
            kv_lens=part["kv_lens"],
            block_starts=part["block_starts"],
            blocks=part["blocks"],
            num_sequences=size,
            num_tokens=size,
            max_query_len=1,
            shared=self._shared(size, part) if shares else None,
            tails=part["tails"],
        )

        def step() -> Outputs:
            backend.begin(attention)
            hidden = decoder.forward(part["token_ids"], part["positions"], backend)
            return hidden, decoder.logits(hidden)

        return step

    def _shared(self, size: int, part: Mapping[str, torch.Tensor]) -> SharedRows:
        assert self._passes is not None
        most = self._passes.most(size)
        for name in self._passes.words(size):  # what another size left there is no work
            part[name].zero_()
        return SharedRows.of(part, most.items, most.parts)


def _record(step: Callable[[], Outputs], pool: Any) -> Callable[[], Outputs]:
    """Record ``step`` as a CUDA graph, after a run outside it that loads and compiles whatever it needs."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        out = step()

    def replay() -> Outputs:
        graph.replay()
        return out

    return replay
