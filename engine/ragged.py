"""From a plan to the flat form of a batch that custom kernels read: few numpy arrays, one copy to the device.

Everything an iteration needs travels as one int32 array, each section on a 16-byte border::

    | token ids | positions | slots | sample rows | query starts | kv lens | block starts | blocks ... |
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from engine.batch import AttentionBatch, Batch, Ragged
from engine.request import Request
from engine.scheduler import Plan, Slice

_BORDER = 4  # int32 words; kernels may read 16 bytes at once


class BlockTables:
    """Block tables as arrays, each converted once and then only extended."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[list[int], int, np.ndarray]] = {}

    def of(self, request: Request, count: int) -> np.ndarray:
        """The first ``count`` blocks [count] int32. A table may grow at its end; any other change needs a new list."""
        table = request.block_table
        source, filled, array = self._known.get(request.index, (None, 0, None))
        if source is not table or array is None or filled > len(table):
            filled, array = 0, np.empty(2 * max(len(table), 16), np.int32)
        if filled < len(table):
            if len(table) > len(array):
                array = np.concatenate((array, np.empty(len(table), np.int32)))
            array[filled : len(table)] = table[filled:]
            self._known[request.index] = (table, len(table), array)
        return array[:count]

    def forget(self, keep: Sequence[Request]) -> None:
        """Drop tables that are not these requests', once there are many."""
        if len(self._known) <= 2 * len(keep) + 64:
            return
        indices = {r.index for r in keep}
        self._known = {index: entry for index, entry in self._known.items() if index in indices}


class RaggedBuilder:
    """Builds batches for one engine; keeps the host's side of the block tables and the staging memory."""

    def __init__(self, block_size: int, device: torch.device) -> None:
        self._block_size = block_size
        self._device = device
        self._tables = BlockTables()
        self._staging = Staging(device)

    def build(self, plan: Plan) -> Batch:
        """Lay the plan out as ``engine.batch.build_batch`` does: single tokens first, shortest context first, then the rest."""
        size = self._block_size
        singles = sorted((s for s in plan.slices if s.tokens == 1), key=lambda s: s.context_len)
        parts = singles + [s for s in plan.slices if s.tokens > 1]
        lengths = np.array([s.tokens for s in parts], np.int32)
        contexts = np.array([s.context_len for s in parts], np.int32)
        query_starts = np.zeros(len(parts) + 1, np.int32)
        np.cumsum(lengths, out=query_starts[1:])
        num_tokens = int(query_starts[-1])
        kv_lens = contexts + lengths
        counts = -(-kv_lens // size)
        block_starts = np.zeros(len(parts), np.int32)
        np.cumsum(counts[:-1], out=block_starts[1:])
        self._tables.forget([s.request for s in parts])
        tables = [self._tables.of(s.request, n) for s, n in zip(parts, counts.tolist(), strict=True)]
        blocks = np.concatenate(tables) if tables else np.empty(0, np.int32)
        owner = np.repeat(np.arange(len(parts), dtype=np.int32), lengths)
        positions = np.arange(num_tokens, dtype=np.int32) + (contexts - query_starts[:-1])[owner]
        slots = blocks[block_starts[owner] + positions // size] * size + positions % size
        sampling = [(row, s) for row, s in zip((query_starts[1:] - 1).tolist(), parts, strict=True) if s.samples]
        on_device = self._staging.send(
            {
                "token_ids": token_ids(parts, num_tokens),
                "positions": positions,
                "slots": slots,
                "sample_rows": np.array([row for row, _ in sampling], np.int32),
                "query_starts": query_starts,
                "kv_lens": kv_lens,
                "block_starts": block_starts,
                "blocks": blocks,
            }
        )
        return Batch(
            token_ids=on_device["token_ids"],
            positions=on_device["positions"],
            sample_rows=on_device["sample_rows"],
            sampled=[s.request for _, s in sampling],
            attention=AttentionBatch(
                slots=on_device["slots"],
                num_singles=len(singles),
                single_blocks=on_device["blocks"][:0].view(0, 0),
                single_kv_lens=[],
                chunks=(),
                ragged=Ragged(
                    query_starts=on_device["query_starts"],
                    kv_lens=on_device["kv_lens"],
                    block_starts=on_device["block_starts"],
                    blocks=on_device["blocks"],
                    num_sequences=len(parts),
                    num_tokens=num_tokens,
                    max_query_len=int(lengths.max(initial=0)),
                ),
            ),
            context_tokens=int(kv_lens.sum()),
        )


def token_ids(parts: Sequence[Slice], count: int) -> np.ndarray:
    """The batch's token ids [count] int32."""
    ids: list[int] = []
    for part in parts:
        known = part.request.token_ids
        if part.tokens == 1:
            ids.append(known[part.context_len])
        else:
            ids += known[part.context_len : part.context_len + part.tokens]
    return np.array(ids, np.int32)


class Staging:
    """Page-locked memory, twice, through which the host sends arrays in one copy while the device still reads the last ones."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers = [torch.empty(0, dtype=torch.int32)] * 2
        self._turn = 0

    def send(self, arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        """Arrays of 4-byte numbers -> int32 tensors on the device, all in one allocation."""
        places: dict[str, tuple[int, int]] = {}
        words = 0
        for name, array in arrays.items():
            places[name] = (words, len(array))
            words += -(-len(array) // _BORDER) * _BORDER
        host = self._host(words)
        flat = host.numpy()
        for name, array in arrays.items():
            start, count = places[name]
            flat[start : start + count] = array
        device = torch.empty(words, dtype=torch.int32, device=self._device)
        device.copy_(host, non_blocking=True)
        return {name: device[start : start + count] for name, (start, count) in places.items()}

    def _host(self, words: int) -> torch.Tensor:
        self._turn = 1 - self._turn
        if len(self._buffers[self._turn]) < words:
            pinned = self._device.type == "cuda"
            self._buffers[self._turn] = torch.empty(2 * words, dtype=torch.int32, pin_memory=pinned)
        return self._buffers[self._turn][:words]
