"""Where the sections of a batch lie in one array of words, and the one copy that brings them to the device.

Everything an iteration needs travels as one array of 4-byte words, each section on a 16-byte border::

    | token ids | positions | slots | sample rows | query starts | kv lens | block starts | tails | draws ... |
    | prefixes ... | blocks ... |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from engine.gpu.step_forms import StepForm

_NOTHING = np.empty(0, np.int32)
_BORDER = 4  # words; kernels may read 16 bytes at once
_PER_TOKEN = ("token_ids", "positions", "slots", "sample_rows")
_PER_SEQUENCE = ("query_starts", "kv_lens", "block_starts", "tails", "prefills", "temperatures", "seeds", "counters")


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
        cls, form: StepForm, blocks: int, memory: torch.Tensor | None = None, prefixes: Mapping[str, int] | None = None
    ) -> Layout:
        """A batch of up to a form's extent with up to ``blocks`` blocks in all its tables, which come last.

        ``prefixes``: words of what single tokens share, by section.
        """
        sequences = form.total_sequences
        lengths = {
            **dict.fromkeys(_PER_TOKEN, form.total_rows),
            **dict.fromkeys(_PER_SEQUENCE, sequences),
            "query_starts": sequences + 1,
            **(prefixes or {}),
            "blocks": blocks,
        }
        return cls.of(lengths, memory)

    @cached_property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """Views of the sections in ``memory``: int32, temperatures float32."""
        assert self.memory is not None
        views = {name: self.memory[start : start + length] for name, (start, length) in self.places.items()}
        if "temperatures" in views:
            views["temperatures"] = views["temperatures"].view(torch.float32)
        return views


class Staging:
    """Page-locked memory, twice, through which the host sends arrays in one copy while the device still reads the last
    ones."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers = [torch.empty(0, dtype=torch.int32)] * 2
        self._turn = 0

    def send(self, arrays: Mapping[str, np.ndarray], layout: Layout) -> Mapping[str, torch.Tensor]:
        """Arrays of 4-byte words -> views on the device. What a padded section has to spare is filled so that it does
        nothing."""
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
