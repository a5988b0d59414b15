"""From a plan to the flat form of a batch that custom kernels read: few numpy arrays, one copy to the device.

Everything an iteration needs travels as one array of 4-byte words, each section on a 16-byte border::

    | token ids | positions | slots | sample rows | query starts | kv lens | block starts | tails | draws ... | prefixes ... | blocks ... |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from engine.batch import AttentionBatch, Batch, Draws, Ragged, SharedRows
from engine.request import Request
from engine.scheduling.plan import Plan, Slice

if TYPE_CHECKING:
    from engine.gpu.attention.prefixes import PrefixGroups, PrefixPasses
    from engine.gpu.graphs import Graphs

_BORDER = 4  # words; kernels may read 16 bytes at once
_PER_ROW = (
    "token_ids",
    "positions",
    "slots",
    "sample_rows",
    "query_starts",
    "kv_lens",
    "block_starts",
    "tails",
    "temperatures",
    "seeds",
    "counters",
)


@dataclass(frozen=True)
class Layout:
    """Where each section of a batch lies, in words; ``memory`` is the device array, or None for a new one each time."""

    places: Mapping[str, tuple[int, int]]  # name -> start, length
    words: int
    memory: torch.Tensor | None = None

    @classmethod
    def of(cls, lengths: Mapping[str, int], memory: torch.Tensor | None = None) -> Layout:
        places, words = {}, 0
        for name, length in lengths.items():
            places[name] = (words, length)
            words += -(-length // _BORDER) * _BORDER
        return cls(places, words, memory)

    @classmethod
    def padded(
        cls, rows: int, blocks: int, memory: torch.Tensor | None = None, prefixes: Mapping[str, int] | None = None
    ) -> Layout:
        """A decode batch of up to ``rows`` rows with up to ``blocks`` blocks in all its tables, which come last.

        ``prefixes``: words of what they share, by section.
        """
        lengths = {**dict.fromkeys(_PER_ROW, rows), "query_starts": rows + 1, **(prefixes or {}), "blocks": blocks}
        return cls.of(lengths, memory)

    @cached_property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """Views of the sections in ``memory``: int32, temperatures float32."""
        assert self.memory is not None
        views = {name: self.memory[start : start + length] for name, (start, length) in self.places.items()}
        if "temperatures" in views:
            views["temperatures"] = views["temperatures"].view(torch.float32)
        return views


class BlockTables:
    """Block tables as arrays, converted when they are new or changed and only extended when they grew."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[list[int], np.ndarray, int]] = {}
        self._versions = 0

    def of(self, request: Request, count: int) -> np.ndarray:
        """The first ``count`` blocks [count] int32."""
        table = request.block_table
        copy, array, version = self._known.get(request.index, ([], _NOTHING, 0))
        if copy != table:
            grown = len(copy) < len(table) <= len(array) and table[: len(copy)] == copy
            if grown:
                array[len(copy) : len(table)] = table[len(copy) :]
            else:
                array = np.empty(2 * max(len(table), 16), np.int32)
                array[: len(table)] = table
                self._versions += 1
                version = self._versions
            self._known[request.index] = (table.copy(), array, version)
        return array[:count]

    def version(self, request: Request) -> int:
        """A number that no other table has; it stays the same while the request's table only grows."""
        return self._known[request.index][2]

    def forget(self, keep: Sequence[Request]) -> None:
        """Drop tables that are not these requests', once there are many."""
        if len(self._known) <= 2 * len(keep) + 64:
            return
        indices = {r.index for r in keep}
        self._known = {index: entry for index, entry in self._known.items() if index in indices}


class RaggedBuilder:
    """Builds batches for one engine; keeps the host's side of the block tables and the staging memory.

    ``graphs``: where set, decode batches are padded to the size of a recorded graph and laid into its memory. ``passes``: what finds
    the prefixes that single tokens read together; None: each reads its own. ``tail_tokens``: of each sequence's exact tail, to which new
    tokens go; 0: they go to the pool. ``tells_prefills``: the backend reads which sequences compute a part of their prompt.
    """

    def __init__(
        self,
        block_size: int,
        device: torch.device,
        passes: PrefixPasses | None = None,
        *,
        tail_tokens: int = 0,
        tells_prefills: bool = False,
    ) -> None:
        self.graphs: Graphs | None = None
        self._passes = passes
        self.draws = True  # on the device, by ``engine.gpu.kernels.sample``
        self._block_size = block_size
        self._tail_tokens = tail_tokens
        self._tells_prefills = tells_prefills
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
        sampled = [s for s in parts if s.samples]
        sample_rows = [
            row
            for end, s in zip(query_starts[1:].tolist(), parts, strict=True)
            if s.samples
            for row in range(end - 1 - s.drafted, end)
        ]
        draws = self.draws and not any(s.drafted for s in sampled)
        decode_only = len(singles) == len(parts) == len(sampled)
        groups = self._shared(singles, tables, kv_lens)
        graph_size = self.graphs.fit(num_tokens, groups) if self.graphs is not None and decode_only and parts else None
        tells_prefills = self._tells_prefills and not decode_only
        work = None if groups is None else groups.work(graph_size or len(singles))
        tails = np.array([s.request.tail or 0 for s in parts], np.int32) if self._tail_tokens else None
        arrays = {
            "token_ids": token_ids(parts),
            "positions": positions,
            "slots": blocks[block_starts[owner] + positions // size] * size + positions % size
            if tails is None
            else self._tail_slots(tails[owner], positions, kv_lens[owner]),
            "sample_rows": np.array(sample_rows, np.int32),
            "query_starts": query_starts,
            "kv_lens": kv_lens,
            "block_starts": block_starts,
            **({} if tails is None else {"tails": tails}),
            **({"prefills": np.array([s.is_prefill for s in parts], np.int32)} if tells_prefills else {}),
            **(draw_inputs(sampled) if draws else {}),
            **({} if work is None else work.arrays),
            "blocks": blocks,
        }
        layout = Layout.of({name: len(array) for name, array in arrays.items()})
        if graph_size is not None:
            assert self.graphs is not None
            layout = self.graphs.layout(graph_size, shares=work is not None)
        part = self._staging.send(arrays, layout)
        return Batch(
            token_ids=part["token_ids"],
            positions=part["positions"],
            sample_rows=part["sample_rows"][: len(sample_rows)],
            sampled=sampled,
            attention=AttentionBatch(
                slots=part["slots"],
                num_singles=len(singles),
                single_blocks=part["blocks"][:0].view(0, 0),
                single_kv_lens=[],
                single_tables=[],
                chunks=(),
                ragged=Ragged(
                    query_starts=part["query_starts"],
                    kv_lens=part["kv_lens"],
                    block_starts=part["block_starts"],
                    blocks=part["blocks"],
                    num_sequences=len(parts),
                    num_tokens=num_tokens,
                    max_query_len=int(lengths.max(initial=0)),
                    shared=None
                    if groups is None or work is None
                    else SharedRows.of(part, work.extent.items, work.extent.parts, groups.spared_tokens),
                    tails=None if tails is None else part["tails"],
                    prefills=part["prefills"] if tells_prefills else None,
                ),
            ),
            context_tokens=int(kv_lens.sum()),
            graph_size=graph_size,
            draws=Draws(
                part["temperatures"][: len(sampled)],
                part["seeds"][: len(sampled)],
                part["counters"][: len(sampled)],
                [row for row, s in enumerate(sampled) if not _temperature_only(s.request)],
            )
            if draws
            else None,
        )

    def _tail_slots(self, tails: np.ndarray, positions: np.ndarray, kv_lens: np.ndarray) -> np.ndarray:
        """Each row's place in the tails [tokens] int32; negative where a later row of the same sequence takes it."""
        places = tails * self._tail_tokens + positions % self._tail_tokens
        return np.where(positions < kv_lens - self._tail_tokens, np.int32(-1), places)

    def _shared(
        self, singles: Sequence[Slice], tables: Sequence[np.ndarray], kv_lens: np.ndarray
    ) -> PrefixGroups | None:
        """What the single tokens, which come first, have in common."""
        if self._passes is None or not singles:
            return None
        versions = [self._tables.version(s.request) for s in singles]
        return self._passes.of(versions, tables[: len(singles)], kv_lens[: len(singles)])


def token_ids(parts: Sequence[Slice]) -> np.ndarray:
    """The batch's token ids [tokens] int32."""
    ids: list[int] = []
    for part in parts:
        ids += part.request.known(part.context_len, part.context_len + part.tokens)
    return np.array(ids, np.int32)


def draw_inputs(sampled: Sequence[Slice]) -> dict[str, np.ndarray]:
    """What the sampling kernel reads of each part; a row that is not the kernel's to draw counts as greedy."""
    requests = [part.request for part in sampled]
    hot = [r.sampling.temperature if _temperature_only(r) and not r.sampling.greedy else 0.0 for r in requests]
    return {
        "temperatures": np.array(hot, np.float32).view(np.int32),
        "seeds": np.array(
            [r.sampling_state.device_seed if t and r.sampling_state else 0 for r, t in zip(requests, hot, strict=True)],
            np.int32,
        ),
        "counters": np.array([r.num_output_tokens + (r.in_flight is not None) for r in requests], np.int32),
    }


def _temperature_only(request: Request) -> bool:
    state = request.sampling_state
    return state is None or state.temperature_only  # none: a warm-up, drawn by nobody


class Staging:
    """Page-locked memory, twice, through which the host sends arrays in one copy while the device still reads the last ones."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers = [torch.empty(0, dtype=torch.int32)] * 2
        self._turn = 0

    def send(self, arrays: Mapping[str, np.ndarray], layout: Layout) -> Mapping[str, torch.Tensor]:
        """Arrays of 4-byte words -> views on the device. What a padded section has to spare is filled so that it does nothing."""
        start, _ = layout.places["blocks"]
        words = start + len(arrays["blocks"])  # the tables come last: what they leave of a padded layout is not sent
        host = self._host(words)
        flat = host.numpy()
        for name, (start, length) in layout.places.items():
            array = arrays.get(name, _NOTHING)
            flat[start : start + len(array)] = array
            if name != "blocks" and len(array) < length:
                flat[start + len(array) : start + length] = -1 if name == "slots" else 0
        if layout.memory is None:
            layout = replace(layout, memory=torch.empty(words, dtype=torch.int32, device=self._device))
        assert layout.memory is not None
        layout.memory[:words].copy_(host, non_blocking=True)
        return layout.tensors

    def _host(self, words: int) -> torch.Tensor:
        self._turn = 1 - self._turn
        if len(self._buffers[self._turn]) < words:
            pinned = self._device.type == "cuda"
            self._buffers[self._turn] = torch.empty(2 * words, dtype=torch.int32, pin_memory=pinned)
        return self._buffers[self._turn][:words]


_NOTHING = np.empty(0, np.int32)
