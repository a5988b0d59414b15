"""The device's side of an engine: from a plan to a batch, to logits, to tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from engine.attention.base import AttentionBackend
from engine.batch import Batch, build_batch
from engine.likelihood import read_output, read_prompts, wanted
from engine.model.decoder import Decoder
from engine.phases import Progress, silent
from engine.sampling import sample
from engine.scheduling.plan import Plan
from engine.speculation.verify import verify


class ForwardPass(Protocol):
    """What an executor asks of a decoder; see ``engine.model.decoder.Decoder``."""

    def forward(self, token_ids: torch.Tensor, positions: torch.Tensor, attention: Any) -> torch.Tensor: ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True)
class LongerSteps:
    """Which steps are recorded beside those of single tokens: up to how many tokens they may have in all."""

    prompt_rows: int = 0  # with parts of prompts
    verify_rows: int = 0  # with guesses
    longest: int = 1  # new tokens of one sequence with guesses


DECODES_ONLY = LongerSteps()


class _BesidePadding:
    """Attention of a batch whose last rows are padding: these are projected like all others, attend to nothing and
    store nothing."""

    def __init__(self, attention: AttentionBackend, rows: int) -> None:
        self._attention = attention
        self._rows = rows  # before the padding

    def forward(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        attended = self._attention.forward(layer, *(x[: self._rows] for x in (q, k, v)))
        return F.pad(attended, (0, 0, 0, len(q) - self._rows))


class Executor:
    """Decoder, attention and cache that belong together, and the form of batch they read.

    This one computes with PyTorch's own operations on any device. ``engine.gpu.executor`` is the one with custom
    kernels; ``engine.backends`` says which attention backend comes with which.
    """

    kernels = False  # custom ones, which are compiled for the forms of a batch

    def __init__(self, decoder: Decoder, attention: AttentionBackend, *, draws_on_device: bool = True) -> None:
        """``draws_on_device``: tokens may be drawn by a kernel; speculation draws from the host's streams
        throughout."""
        self.cache = attention.cache
        self.device = decoder.device
        self.dtype = decoder.dtype
        self.attention = attention
        self.decoder: ForwardPass = decoder
        # [sampled rows, hidden] of the last batch, after the last layer; valid until the next one
        self.left = torch.empty(0)

    def build(self, plan: Plan) -> Batch:
        """Lay the plan out for the device; its blocks are allocated."""
        return build_batch(plan, block_size=self.cache.block_size, device=self.device)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits ``[sampled rows, vocab]`` of the rows that reached the end of what is known."""
        self.attention.begin(batch.attention)
        if batch.padded_tokens:
            ids, positions = (F.pad(x, (0, batch.padded_tokens)) for x in (batch.token_ids, batch.positions))
            hidden = self.decoder.forward(ids, positions, _BesidePadding(self.attention, len(batch.token_ids)))
        else:
            hidden = self.decoder.forward(batch.token_ids, batch.positions, self.attention)
        if batch.spans:
            read_prompts(hidden, batch.spans, self.decoder)
        self.left = hidden.index_select(0, batch.sample_rows)
        return self.decoder.logits(self.left)

    def tokens(self, batch: Batch, logits: torch.Tensor) -> list[list[int]]:
        """What each sampled part receives: one token, or with guesses what ``verify`` makes of them. ``BROKEN`` ends
        what has no numbers."""
        tokens = verify(logits.float(), batch.sampled)
        if wanted(batch.sampled):
            read_output(logits, batch.sampled, tokens)
        return tokens

    def sample(self, batch: Batch, logits: torch.Tensor) -> torch.Tensor:
        """One token per part [parts] int64, still on the device, ``BROKEN`` where there are no numbers; only for
        batches without guesses."""
        tokens = sample(logits.float(), [part.request.sampling_state for part in batch.sampled])
        return self.scored(batch, logits, tokens)

    def scored(self, batch: Batch, logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The tokens of ``sample``, with their scores noted where somebody wants them; that waits for the device."""
        if wanted(batch.sampled):
            read_output(logits, batch.sampled, [[token] for token in tokens.tolist()])
        return tokens

    def fill_in(self, batch: Batch, previous: torch.Tensor) -> None:
        """Put tokens that were still on their way into a batch: id ``-1 - row`` is row ``row`` of ``previous`` [rows]
        int64."""
        ids = batch.token_ids
        sampled = previous.index_select(0, (-1 - ids).clamp_(0, len(previous) - 1)).clamp_(min=0)  # one may be BROKEN
        ids.copy_(torch.where(ids < 0, sampled.to(ids.dtype), ids))

    def spared_tokens(self, batch: Batch) -> int:
        """Keys per layer that the batch's forward pass did not read again, because rows that share them read them
        once."""
        return self.attention.spared_tokens

    def padding(self, batch: Batch) -> tuple[int, int]:
        """Rows and, in one layer, keys that the batch's forward pass computed and read for nothing."""
        return batch.padded_tokens + self.attention.padded_tokens, self.attention.padded_keys

    def capture_graphs(
        self, max_num_seqs: int, max_model_len: int, progress: Progress = silent, *, longer: LongerSteps = DECODES_ONLY
    ) -> None:
        """Record steps of padded sizes, where steps can be recorded; ``build`` pads to them from now on."""

    @property
    def graph_bytes(self) -> int:
        """Memory that recorded steps hold."""
        return 0

    def rehearse(self, batch: Batch) -> None:
        """Compute a made-up batch for nothing, so that no later one pays for what is done once."""
        self.forward(batch)

    def chunk_lengths(self, most: int) -> Sequence[int]:
        """The fewest new tokens of a sequence, of 2 to ``most``, for which kernels are compiled anew."""
        return ()

    def prefix_rows(self, most: int) -> Sequence[int]:
        """The fewest rows that share a prefix, of up to ``most``, for which kernels are compiled anew."""
        return ()
