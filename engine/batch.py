"""From a plan to tensors: the flat batch one forward pass computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.block_table import blocks_for, table_slots
from engine.scheduling.plan import Plan, Slice


@dataclass(frozen=True)
class Chunk:
    """Several consecutive tokens of one sequence: rows ``[start, start + length)`` of the flat batch."""

    start: int
    length: int
    kv_len: int  # keys visible to the last of them, itself included
    blocks: torch.Tensor  # [ceil(kv_len / block_size)] int64
    is_prefill: bool = False
    tail: int = 0  # where the sequence's exact tokens are, with a codec that keeps some


@dataclass(frozen=True)
class BatchRows:
    """What attention has to know of a batch, whatever form it reads. Rows of single tokens come first, then the
    chunks."""

    slots: torch.Tensor  # [tokens], where each token's key and value go
    num_singles: int

    def places(self) -> list[int]:
        """Each row's place in its sequence, worked out from what attention is told (for checks)."""
        raise NotImplementedError


@dataclass(frozen=True)
class AttentionBatch(BatchRows):
    """The form that PyTorch's own operations need: single tokens by their block tables, shortest context first, chunks
    one by one.

    flat batch   | d0 d1 d2 | chunk a ......... | chunk b .... |
                  ^ num_singles rows              rows by Chunk

    ``slots`` are int64.
    """

    single_blocks: torch.Tensor  # [num_singles, most blocks] int64, short tables padded with their last
    single_kv_lens: list[int]  # keys each single token sees, rising
    single_tables: list[list[int]]  # the same block tables, each as long as it is
    chunks: tuple[Chunk, ...]
    single_tails: Sequence[int] = ()  # as Chunk.tail

    def places(self) -> list[int]:
        chunks = [place for chunk in self.chunks for place in range(chunk.kv_len - chunk.length, chunk.kv_len)]
        return [kv_len - 1 for kv_len in self.single_kv_lens] + chunks


@dataclass(frozen=True)
class Batch:
    """Inputs of one forward pass."""

    token_ids: torch.Tensor  # [tokens] int64
    positions: torch.Tensor  # [tokens] int64
    sample_rows: torch.Tensor  # rows whose logits are wanted
    sampled: list[Slice]  # whose rows they are: 1 + drafted rows each, in this order
    attention: BatchRows
    context_tokens: int  # keys read in one layer
    padded_tokens: int = 0  # rows of padding that are computed after them, for nothing
    spans: Sequence[tuple[Slice, int]] = ()  # all slices and their first rows, where scores of prompts are wanted
    graph_size: int | None = (
        None  # rows of the recorded step that this batch is padded to; None: it is computed as it is
    )


@dataclass(frozen=True)
class PlainBatch(Batch):
    """Inputs of one forward pass by PyTorch's own operations."""

    attention: AttentionBatch


def build_batch(plan: Plan, block_size: int, device: torch.device) -> PlainBatch:
    """Lay the plan's slices out as one flat batch. Raises nothing; the plan's blocks are already allocated."""
    singles = sorted((s for s in plan.slices if s.tokens == 1), key=lambda s: s.context_len)
    chunks = [s for s in plan.slices if s.tokens > 1]
    token_ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    sample_rows: list[int] = []
    sampled: list[Slice] = []
    spans: list[tuple[Slice, int]] = []
    context_tokens = 0
    for part in singles + chunks:
        request, first, last = part.request, part.context_len, part.context_len + part.tokens
        spans.append((part, len(token_ids)))
        token_ids += request.known(first, last)
        positions += range(first, last)
        slots += table_slots(request.block_table, first, last, block_size)
        context_tokens += last
        if part.samples:
            sample_rows += range(len(token_ids) - 1 - part.drafted, len(token_ids))
            sampled.append(part)

    kv_lens = [s.context_len + 1 for s in singles]
    width = blocks_for(max(kv_lens, default=0), block_size)
    tables = [s.request.block_table[:width] for s in singles]
    padded = [table + table[-1:] * (width - len(table)) for table in tables]

    def tensor(values: list) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64).to(device, non_blocking=True)

    return PlainBatch(
        token_ids=tensor(token_ids),
        positions=tensor(positions),
        sample_rows=tensor(sample_rows),
        sampled=sampled,
        attention=AttentionBatch(
            slots=tensor(slots),
            num_singles=len(singles),
            single_blocks=tensor(padded).view(len(singles), width),
            single_kv_lens=kv_lens,
            single_tables=tables,
            chunks=tuple(
                Chunk(
                    start,
                    part.tokens,
                    part.context_len + part.tokens,
                    tensor(part.request.block_table[: blocks_for(part.context_len + part.tokens, block_size)]),
                    part.is_prefill,
                    part.request.tail or 0,
                )
                for part, start in spans[len(singles) :]
            ),
            single_tails=[s.request.tail or 0 for s in singles],
        ),
        context_tokens=context_tokens,
        padded_tokens=plan.padded_tokens,
        spans=spans if any(part.request.scores is not None for part in plan.slices) else (),
    )
