"""A batch in the flat form that custom kernels read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from engine.batch import Batch, BatchRows
from engine.gpu.step_forms import StepForm


@dataclass(frozen=True)
class SharedRows:
    """Prefixes that single tokens of a batch share, for the same kernels (``engine.gpu.attention.prefixes`` plans
    them).

    A row's results lie together, those of the prefixes before those of its own keys, and are merged by their
    log-sum-exps.
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
class Ragged(BatchRows):
    """The sequences of a batch as flat device tensors, for kernels that find their own way (``engine.gpu.ragged``
    builds it).

    Sequence ``s`` owns the rows ``[query_starts[s], query_starts[s + 1])``; its block table is
    ``blocks[block_starts[s]:]``. ``slots`` are int32, of a codec with a window places in the tails; negative: nowhere.
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

    def places(self) -> list[int]:
        """Waits for the device."""
        starts, kv_lens = self.query_starts.tolist(), self.kv_lens.tolist()
        places: list[int] = []
        for start, end, kv_len in zip(starts, starts[1:], kv_lens[: self.num_sequences], strict=False):
            places += range(kv_len - (end - start), kv_len) if kv_len else [0] * (end - start)  # no keys: padding
        return places


@dataclass(frozen=True)
class Draws:
    """What drawing on the device needs, one entry per sampled part."""

    temperatures: torch.Tensor  # float32
    seeds: torch.Tensor  # int32
    counters: torch.Tensor  # int32, position in the request's output
    others: list[int]  # places of requests that ask for more than a temperature


@dataclass(frozen=True)
class GpuBatch(Batch):
    """Inputs of one forward pass by custom kernels."""

    attention: Ragged
    form: StepForm | None = None  # the recorded step that it is padded to; None: it is computed as it is
    draws: Draws | None = None  # where tokens can be drawn on the device
