"""The padded forms in which steps are recorded, and a batch's arrays laid out in one of them.

A form has room for single tokens and, behind it, for longer parts: chunks of prompts and verified guesses::

    form of 16 singles and 64 rows   | s0 s1 .. s4 -- -- -- | chunk a ........ | chunk b .... | -- -- -- |
                                       5 of 16               48 of 64 rows, 2 of 4 sequences

Padding does nothing: its rows store nowhere (slot -1), its sequences have no keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_PER_TOKEN = ("token_ids", "positions", "slots")
_PER_SEQUENCE = ("kv_lens", "block_starts", "tails", "prefills")
_FEWEST_ROWS = 8  # of longer parts
_ROWS_PER_SEQUENCE = 16  # of a step with prompts: more room for sequences would keep their keys from being cut
_SINGLES_APART = 4  # one form's places for single tokens are so many times the next smaller one's


@dataclass(frozen=True, slots=True)
class StepForm:
    """Room of one recorded step; also the extent of a batch that needs one."""

    singles: int
    rows: int = 0  # tokens of longer parts
    sequences: int = 0  # longer parts
    longest: int = 1  # new tokens of one sequence
    shares: bool = False  # single tokens read shared prefixes together
    mixes: bool = False  # single tokens lie, or may lie, among the longer parts

    @property
    def total_rows(self) -> int:
        return self.singles + self.rows

    @property
    def total_sequences(self) -> int:
        return self.singles + self.sequences

    def holds(self, needed: StepForm) -> bool:
        """Whether a batch of that extent fits."""
        if self.shares != needed.shares or self.longest < needed.longest:
            return False
        if self.mixes:
            return needed.mixes and self.rows >= needed.total_rows and self.sequences >= needed.total_sequences
        return self.singles >= needed.singles and self.rows >= needed.rows and self.sequences >= needed.sequences


def padded_sizes(most: int) -> list[int]:
    """Sizes up to ``most``: 1, 2, 4, 8, then steps of 8 to 64, of 16 to 256, of 64 beyond; ``most`` itself is always
    one."""
    sizes = [1, 2, 4, *range(8, 65, 8), *range(80, 257, 16), *range(320, most + 64, 64)]
    return sorted({min(size, most) for size in sizes})


def prompt_forms(max_num_seqs: int, most_rows: int) -> list[StepForm]:
    """Forms of steps with up to ``most_rows`` tokens of prompts, and single tokens beside them."""
    singles = [0]
    while singles[-1] < max_num_seqs:
        singles.append(min(max_num_seqs, max(4, singles[-1] * _SINGLES_APART)))
    return [
        StepForm(beside, rows, min(max_num_seqs, max(1, rows // 2), max(4, rows // _ROWS_PER_SEQUENCE)), rows)
        for rows in _row_sizes(most_rows)
        for beside in singles
    ]


def verify_forms(max_num_seqs: int, longest: int, most_rows: int) -> list[StepForm]:
    """Forms of steps in which every sequence brings one to ``longest`` tokens, its guesses among them."""
    most = min(max_num_seqs * longest, most_rows)
    sizes = sorted({min(2, most), min(4, most), *_row_sizes(most)}) if longest > 1 and most > 1 else []
    return [StepForm(0, rows, min(rows, max_num_seqs), longest, mixes=True) for rows in sizes]


def _row_sizes(most: int) -> list[int]:
    """8, 16, 32, 64, then two to an octave, up to ``most``, which is one itself."""
    sizes, size = [], _FEWEST_ROWS
    while size < most:
        sizes.append(size)
        if size >= 8 * _FEWEST_ROWS and size * 3 // 2 < most:
            sizes.append(size * 3 // 2)
        size *= 2
    return [*sizes, most] if most >= 2 else []


def padded(arrays: Mapping[str, np.ndarray], extent: StepForm, form: StepForm) -> dict[str, np.ndarray]:
    """A batch's sections moved to where ``form`` has them; what is behind a section's end is left to be filled."""
    if not form.rows:
        return dict(arrays)
    singles = 0 if form.mixes else extent.singles
    gap = form.singles - singles
    moved = dict(arrays)
    for name in _PER_TOKEN:
        moved[name] = _spread(arrays[name], singles, gap, -1 if name == "slots" else 0)
    for name in _PER_SEQUENCE:
        if name in arrays:
            moved[name] = _spread(arrays[name], singles, gap, 0)
    rows = arrays["sample_rows"]
    moved["sample_rows"] = np.where(rows < singles, rows, rows + np.int32(gap)).astype(np.int32)
    starts = np.empty(form.total_sequences + 1, np.int32)
    starts[: form.singles] = np.arange(form.singles)
    longer = arrays["query_starts"][singles:] + gap
    starts[form.singles : form.singles + len(longer)] = longer
    starts[form.singles + len(longer) :] = longer[-1]
    moved["query_starts"] = starts
    return moved


def _spread(array: np.ndarray, at: int, gap: int, fill: int) -> np.ndarray:
    """``gap`` times ``fill`` put before place ``at``."""
    return array if not gap else np.concatenate((array[:at], np.full(gap, fill, array.dtype), array[at:]))
