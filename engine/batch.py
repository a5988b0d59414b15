"""From a plan to tensors: the flat, ragged batch one forward pass computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

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
class SharedRows:
    """Prefixes that single tokens of a batch share, for the same kernels (``engine.gpu.attention.prefixes`` plans them).

    A row's results lie together, those of the prefixes before those of its own keys, and are merged by their log-sum-exps.
    """

    covered: torch.Tensor  # [rows] int32, places of each row that prefixes cover: its own keys begin there
    part_starts: torch.Tensor  # [rows] int32, where each row's results begin
    shared_parts: torch.Tensor  # [rows] int32, how many of them are prefixes'
    members: torch.Tensor  # int32, rows: those that share a prefix lie together
    items: torch.Tensor  # [items * 5] int32, as ``shared_prefixes`` reads them
    num_items: int
    num_parts: int
    spared_tokens: int = 0  # keys per layer that are not read a second time

    @classmethod
    def of(cls, part: Mapping[str, torch.Tensor], num_items: int, num_parts: int, spared_tokens: int = 0) -> SharedRows:
        """From a batch's sections by name."""
        return cls(
            part["covered"],
            part["part_starts"],
            part["shared_parts"],
            part["members"],
            part["items"],
            num_items,
            num_parts,
            spared_tokens,
        )


@dataclass(frozen=True)
class Ragged:
    """The sequences of a batch as flat device tensors, for kernels that find their own way (``engine.gpu.ragged`` builds it).

    Sequence ``s`` owns the rows ``[query_starts[s], query_starts[s + 1])``; its block table is ``blocks[block_starts[s]:]``.
    """

    query_starts: torch.Tensor  # [num_sequences + 1] int32
    kv_lens: torch.Tensor  # [num_sequences] int32, keys visible to the last row
    block_starts: torch.Tensor  # [num_sequences] int32
    blocks: torch.Tensor  # [all tables] int32
    num_sequences: int
    num_tokens: int
    max_query_len: int
    shared: SharedRows | None = None  # of the single tokens, which come first
    tails: torch.Tensor | None = None  # [num_sequences] int32, each one's exact tail, with a codec that has a window
    prefills: torch.Tensor | None = None  # [num_sequences] int32, 1: part of a prompt; where the backend reads it

    @property
    def spared_tokens(self) -> int:
        return 0 if self.shared is None else self.shared.spared_tokens

    def positions(self) -> list[int]:
        """Each row's place in its sequence, worked out from the starts and lengths (for checks: it waits for the device)."""
        starts, kv_lens = self.query_starts.tolist(), self.kv_lens.tolist()
        lengths = [starts[s + 1] - starts[s] for s in range(self.num_sequences)]
        return [place for n, kv_len in zip(lengths, kv_lens, strict=False) for place in range(kv_len - n, kv_len)]


@dataclass(frozen=True)
class AttentionBatch:
    """What attention has to know of a batch. Rows of single tokens come first, shortest context first, then the chunks.

    flat batch   | d0 d1 d2 | chunk a ......... | chunk b .... |
                  ^ num_singles rows              rows by Chunk
    """

    # [tokens] int64: where each token's key and value go. Ragged: int32, of a codec with a window places in the tails; negative: nowhere
    slots: torch.Tensor
    num_singles: int
    single_blocks: torch.Tensor  # [num_singles, most blocks] int64, short tables padded with block 0
    single_kv_lens: list[int]  # keys each single token sees, rising
    single_tables: list[list[int]]  # the same block tables, each as long as it is
    chunks: tuple[Chunk, ...]
    single_tails: Sequence[int] = ()  # as Chunk.tail
    ragged: Ragged | None = None  # where the backend asks for this form, the three above are empty


@dataclass(frozen=True)
class Draws:
    """What drawing on the device needs, one entry per sampled part."""

    temperatures: torch.Tensor  # float32
    seeds: torch.Tensor  # int32
    counters: torch.Tensor  # int32, position in the request's output
    others: list[int]  # places of requests that ask for more than a temperature


@dataclass(frozen=True)
class Batch:
    """Inputs of one forward pass."""

    token_ids: torch.Tensor  # [tokens] int64
    positions: torch.Tensor  # [tokens] int64
    sample_rows: torch.Tensor  # rows whose logits are wanted
    sampled: list[Slice]  # whose rows they are: 1 + drafted rows each, in this order
    attention: AttentionBatch
    context_tokens: int  # keys read in one layer
    graph_size: int | None = None  # rows of the CUDA graph that this batch is padded to
    draws: Draws | None = None  # where tokens can be drawn on the device

    @property
    def shares_prefixes(self) -> bool:
        """Whether rows read prefixes together, in the form for custom kernels."""
        return self.attention.ragged is not None and self.attention.ragged.shared is not None


def build_batch(plan: Plan, block_size: int, device: torch.device) -> Batch:
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
        table = request.block_table
        slots += [table[p // block_size] * block_size + p % block_size for p in range(first, last)]
        context_tokens += last
        if part.samples:
            sample_rows += range(len(token_ids) - 1 - part.drafted, len(token_ids))
            sampled.append(part)

    kv_lens = [s.context_len + 1 for s in singles]
    width = -(-max(kv_lens, default=0) // block_size)
    tables = [s.request.block_table[:width] for s in singles]
    padded = [table + [0] * (width - len(table)) for table in tables]

    def tensor(values: list) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64).to(device, non_blocking=True)

    return Batch(
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
                    tensor(part.request.block_table[: -(-(part.context_len + part.tokens) // block_size)]),
                    part.is_prefill,
                    part.request.tail or 0,
                )
                for part, start in spans[len(singles) :]
            ),
            single_tails=[s.request.tail or 0 for s in singles],
        ),
        context_tokens=context_tokens,
    )
