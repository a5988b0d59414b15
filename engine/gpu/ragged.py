"""From a plan to the flat form of a batch that custom kernels read: few numpy arrays, one copy to the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from engine.block_table import blocks_for, slots_at, whole_blocks
from engine.gpu.batch import Draws, GpuBatch, Ragged, SharedRows
from engine.gpu.layout import Layout, Staging
from engine.gpu.step_forms import StepForm, padded
from engine.gpu.tables import BlockTables
from engine.request import Request
from engine.scheduling.plan import Plan, Slice

if TYPE_CHECKING:
    from engine.gpu.attention.prefixes import PrefixGroups, PrefixPasses, PrefixWork


@dataclass
class Flat:
    """A plan's slices side by side: single tokens first, shortest context first, then the rest. Arrays are int32."""

    parts: list[Slice]
    num_singles: int
    lengths: np.ndarray  # [parts], new tokens
    kv_lens: np.ndarray  # [parts], keys visible to the last of them
    query_starts: np.ndarray  # [parts + 1]
    tables: list[np.ndarray]  # of each part
    block_starts: np.ndarray  # [parts], where each table begins in ``blocks``
    blocks: np.ndarray
    owner: np.ndarray  # [tokens], the part a row belongs to
    positions: np.ndarray  # [tokens]

    @property
    def num_tokens(self) -> int:
        return len(self.positions)

    @cached_property
    def extent(self) -> StepForm:
        longest = int(self.lengths.max(initial=1))
        return StepForm(
            self.num_singles, self.num_tokens - self.num_singles, len(self.parts) - self.num_singles, longest
        )

    @cached_property
    def decode_only(self) -> bool:
        """Single tokens, each of which is followed by one that is sampled."""
        return self.num_singles == len(self.parts) and all(s.samples for s in self.parts)

    def needs(self, groups: PrefixGroups | None) -> StepForm:
        """What a recorded form must have room for; ``groups``: prefixes that single tokens share."""
        extent = replace(self.extent, shares=groups is not None)
        if self.decode_only:
            return extent
        # Which rows are sampled is not known to decode steps: they are for steps in which all are.
        longer = extent if extent.rows else replace(extent, rows=1, sequences=1)
        return replace(longer, mixes=not any(s.is_prefill for s in self.parts))


class RecordedSteps(Protocol):
    """Steps that were recorded in some padded forms (``engine.gpu.graphs``)."""

    def fit(self, needed: StepForm, groups: PrefixGroups | None = None) -> StepForm | None:
        """The smallest recorded form for a batch of this extent whose single tokens share ``groups``; None where there
        is none."""
        ...

    def layout(self, form: StepForm) -> Layout:
        """Where a batch of this form lies in the recording's memory."""
        ...


class RaggedBuilder:
    """Builds batches for one engine; keeps the host's side of the block tables and the staging memory.

    ``graphs``: where set, batches that a recorded form holds are padded to it and laid into the recording's memory.
    ``passes``: what finds the prefixes that single tokens read together; None: each reads its own. ``tail_tokens``: of
    each sequence's exact tail, to which new tokens go; 0: they go to the pool. ``tells_prefills``: the backend reads
    which sequences compute a part of their prompt. ``draws``: tokens are drawn on the device
    (``engine.gpu.kernels.sample``) where the requests' settings allow.
    """

    def __init__(
        self,
        block_size: int,
        device: torch.device,
        passes: PrefixPasses | None = None,
        *,
        tail_tokens: int = 0,
        tells_prefills: bool = False,
        draws: bool = True,
    ) -> None:
        self.graphs: RecordedSteps | None = None
        self._passes = passes
        self._draws = draws
        self._block_size = block_size
        self._tail_tokens = tail_tokens
        self._tells_prefills = tells_prefills
        self._tables = BlockTables()
        self._staging = Staging(device)

    def build(self, plan: Plan) -> GpuBatch:
        """Lay the plan out. Raises nothing; the plan's blocks are already allocated."""
        flat = self._flatten(plan)
        sampled = [s for s in flat.parts if s.samples]
        rows = _sample_rows(flat)
        draws = self._draws and not any(s.drafted for s in sampled)
        decode_only = flat.decode_only
        groups = self._shared(flat)
        form = None if self.graphs is None or not flat.parts else self.graphs.fit(flat.needs(groups), groups)
        work = None if groups is None else groups.work(form.singles if form else flat.num_singles)
        arrays = self._arrays(flat, rows, prefills=self._tells_prefills and not decode_only)
        if form is not None:
            arrays = padded(arrays, flat.extent, form)
        if draws:
            arrays |= draw_inputs(sampled)
        if work is not None:
            arrays |= work.arrays
        arrays["blocks"] = flat.blocks  # the last section: it may be as long as it likes
        layout = Layout.of({name: len(array) for name, array in arrays.items()})
        if form is not None:
            assert self.graphs is not None
            layout = self.graphs.layout(form)
        part = self._staging.send(arrays, layout)
        count = len(sampled)
        return GpuBatch(
            token_ids=part["token_ids"],
            positions=part["positions"],
            sample_rows=part["sample_rows"][: len(rows)],
            sampled=sampled,
            attention=self._ragged(flat, part, form or flat.extent, groups, work),
            context_tokens=int(flat.kv_lens.sum()),
            graph_size=form.total_rows if form else None,
            form=form,
            draws=Draws(
                part["temperatures"][:count],
                part["seeds"][:count],
                part["counters"][:count],
                [row for row, s in enumerate(sampled) if not _temperature_only(s.request)],
            )
            if draws
            else None,
        )

    def _flatten(self, plan: Plan) -> Flat:
        singles = sorted((s for s in plan.slices if s.tokens == 1), key=lambda s: s.context_len)
        parts = singles + [s for s in plan.slices if s.tokens > 1]
        lengths = np.array([s.tokens for s in parts], np.int32)
        contexts = np.array([s.context_len for s in parts], np.int32)
        query_starts = np.zeros(len(parts) + 1, np.int32)
        np.cumsum(lengths, out=query_starts[1:])
        kv_lens = contexts + lengths
        counts = blocks_for(kv_lens, self._block_size)
        block_starts = np.zeros(len(parts), np.int32)
        np.cumsum(counts[:-1], out=block_starts[1:])
        self._tables.forget([s.request for s in parts])
        tables = [self._tables.of(s.request, n) for s, n in zip(parts, counts.tolist(), strict=True)]
        owner = np.repeat(np.arange(len(parts), dtype=np.int32), lengths)
        positions = np.arange(len(owner), dtype=np.int32) + (contexts - query_starts[:-1])[owner]
        blocks = np.concatenate(tables) if tables else np.empty(0, np.int32)
        return Flat(parts, len(singles), lengths, kv_lens, query_starts, tables, block_starts, blocks, owner, positions)

    def _arrays(self, flat: Flat, sample_rows: list[int], *, prefills: bool) -> dict[str, np.ndarray]:
        """What attention and the decoder read, by section. ``prefills``: tell which sequences compute a part of their
        prompt."""
        tails = np.array([s.request.tail or 0 for s in flat.parts], np.int32) if self._tail_tokens else None
        arrays = {
            "token_ids": token_ids(flat.parts),
            "positions": flat.positions,
            "slots": self._slots(flat) if tails is None else self._tail_slots(flat, tails),
            "sample_rows": np.array(sample_rows, np.int32),
            "query_starts": flat.query_starts,
            "kv_lens": flat.kv_lens,
            "block_starts": flat.block_starts,
        }
        if tails is not None:
            arrays["tails"] = tails
        if prefills:
            arrays["prefills"] = np.array([s.is_prefill for s in flat.parts], np.int32)
        return arrays

    def _ragged(
        self,
        flat: Flat,
        part: Mapping[str, torch.Tensor],
        form: StepForm,
        groups: PrefixGroups | None,
        work: PrefixWork | None,
    ) -> Ragged:
        """``form``: the extent with its padding; behind the batch's last sequence it is left out."""
        shared = None
        if groups is not None and work is not None:
            shared = SharedRows.of(part, work.extent.items, work.extent.parts, groups.spared_tokens)
        return Ragged(
            slots=part["slots"],
            num_singles=form.singles,
            query_starts=part["query_starts"],
            kv_lens=part["kv_lens"],
            block_starts=part["block_starts"],
            blocks=part["blocks"],
            num_sequences=len(flat.parts) if form.mixes or not form.rows else form.singles + flat.extent.sequences,
            num_tokens=form.total_rows,
            max_query_len=form.longest,
            shared=shared,
            tails=part["tails"] if self._tail_tokens else None,
            prefills=part.get("prefills"),
        )

    def _slots(self, flat: Flat) -> np.ndarray:
        """Each row's place in the pool [tokens] int32."""
        size, positions = self._block_size, flat.positions
        blocks = flat.blocks[flat.block_starts[flat.owner] + whole_blocks(positions, size)]
        return slots_at(blocks, positions, size)

    def _tail_slots(self, flat: Flat, tails: np.ndarray) -> np.ndarray:
        """Each row's place in the tails [tokens] int32; negative where a later row of the same sequence takes it."""
        places = tails[flat.owner] * self._tail_tokens + flat.positions % self._tail_tokens
        return np.where(flat.positions < flat.kv_lens[flat.owner] - self._tail_tokens, np.int32(-1), places)

    def _shared(self, flat: Flat) -> PrefixGroups | None:
        """What the single tokens, which come first, have in common."""
        count = flat.num_singles
        if self._passes is None or not count:
            return None
        versions = [self._tables.version(s.request) for s in flat.parts[:count]]
        return self._passes.of(versions, flat.tables[:count], flat.kv_lens[:count])


def _sample_rows(flat: Flat) -> list[int]:
    """Rows whose logits are wanted: the last one of each part that samples, and its guesses before."""
    return [
        row
        for end, s in zip(flat.query_starts[1:].tolist(), flat.parts, strict=True)
        if s.samples
        for row in range(end - 1 - s.drafted, end)
    ]


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
