"""Which CPU cores a half computes on: none is both halves' at once.

    cores    0 1 2 3 4 5 6 7        share 3: what the prefill half has of them while both have something to do
             p p p d d d d d
             d d d d d d d d        prefill has nothing to do, and lends its own

A half that is to have more takes what the other has let go of, which that does between two of its steps.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from engine.halves.one_pool import OTHER, Books

LOOK_S = 0.001  # between looks at whether the other half's step is over


class Cores:
    """One half's cores. ``count``: those it has now; 0 while they are lent."""

    def __init__(
        self,
        books: Books,
        total: int,
        *,
        lends: bool,
        place: Callable[[int], None] = lambda count: None,
        other_lives: Callable[[], bool] = lambda: True,
    ) -> None:
        """
        Args:
            total: cores of both halves.
            lends: whether a half with nothing to do lets go of its cores.
            place: makes this process compute on so many.
            other_lives: False: the other half will not let go of anything any more.
        """
        self._books = books
        self._total = total
        self._lends = lends
        self._place = place
        self._other_lives = other_lives
        self._mine, self._others = f"{books.half}_cores", f"{OTHER[books.half]}_cores"
        self.count = self._placed = books[self._mine]
        place(self.count)

    def claim(self) -> None:
        """This half is about to compute: have as many cores as it should, as far as the other has let go of them. One
        at least; where there is none, wait for the other's step. To be called while the books are locked."""
        books = self._books
        books[f"{books.half}_busy"] = 1
        while self._total <= books[self._others] and self._other_lives():
            with books.open_meanwhile():
                time.sleep(LOOK_S)
        self.count = books[self._mine] = max(1, min(self._due(), self._total - books[self._others]))
        if self.count != self._placed:
            self._place(self.count)
            self._placed = self.count

    def rest(self) -> None:
        """This half has nothing to compute."""
        books = self._books
        with books.locked():
            books[f"{books.half}_busy"] = 0
            if self._lends:
                self.count = books[self._mine] = 0

    def _due(self) -> int:
        books = self._books
        if self._lends and not books[f"{OTHER[books.half]}_busy"]:
            return self._total
        return books["share"] if books.half == "prefill" else self._total - books["share"]


def place_on(cores: Sequence[int]) -> None:
    """Make this process compute on these cores, with a thread for each."""
    torch.set_num_threads(len(cores))
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it ended meanwhile
            os.sched_setaffinity(int(thread.name), cores)
