"""Memory that is mapped behind addresses as it is used, and given back: a cache's tensors over anonymous memory (after
vAttention, 2024).

    addresses of a stripe     | range 0            | range 1            | range 2            |
                              |####................|##..................|....................|
                               # mapped: a page is there        . reserved: an address and nothing else

A stripe is what lies together for one block after another, such as one layer's keys of one head; a range is the part of
each stripe that one request may fill. The operating system maps its own page when it is first written to. Larger pages
are written to as a whole when the first of their bytes is needed. ``madvise`` gives them back.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import time
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch

NO_RESERVE = 0x4000  # MAP_NORESERVE of Linux, which the mmap module does not name before Python 3.13
NO_HUGE_PAGES = 15  # MADV_NOHUGEPAGE
_LIBC = ctypes.CDLL(None)


def aligned(blocks: int, block_bytes: Sequence[int], page_bytes: int) -> int:
    """The fewest blocks, not fewer than ``blocks``, that end at a page in stripes of such blocks."""
    step = math.lcm(*(page_bytes // math.gcd(page_bytes, size) for size in block_bytes))
    return -(-blocks // step) * step


class AddressSpace:
    """Ranges of ``length`` blocks each, in as many tensors as a cache asks for."""

    def __init__(self, ranges: int, length: int, page_bytes: int) -> None:
        """
        Args:
            length: blocks, ``aligned`` to what the tensors will hold.
            page_bytes: a multiple of the system's own page.
        """
        self.ranges = ranges
        self.length = length
        self.page_bytes = page_bytes
        self.spent_ns = 0  # mapping and giving back
        self._maps: list[
            tuple[mmap.mmap, np.ndarray, int]
        ] = []  # memory, its bytes [stripes, ranges, bytes], a block's

    def zeros(self, shape: Sequence[int], place: int, dtype: torch.dtype) -> torch.Tensor:
        """A tensor of zeros with no memory behind it. ``place``: the dimension that counts blocks; those before it
        count stripes.

        Raises:
            MemoryError: the system does not give so many addresses.
        """
        stripes, block = math.prod(shape[:place]), math.prod(shape[place + 1 :]) * dtype.itemsize
        if shape[place] != self.ranges * self.length or self.length * block % self.page_bytes:
            raise ValueError(f"{shape[place]} blocks are not {self.ranges} ranges of {self.length} that end at a page")
        nbytes = stripes * shape[place] * block
        try:
            memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)
        except OSError as error:
            raise MemoryError(f"no {nbytes} addresses: {error}") from error
        with suppress(OSError):  # a system without them
            memory.madvise(NO_HUGE_PAGES)  # else it maps 2 MiB where 4 KiB are written to
        self._maps.append((memory, np.frombuffer(memory, np.uint8).reshape(stripes, self.ranges, -1), block))
        return torch.frombuffer(memory, dtype=torch.uint8).view(dtype).view(*shape)

    def bytes_of(self, blocks: int) -> int:
        """Memory behind so many blocks at the beginning of a range, whole pages in every stripe."""
        return sum(len(data) * self._end(blocks, block) for _, data, block in self._maps)

    def map(self, number: int, first: int, last: int) -> None:
        """Blocks ``first`` to ``last`` (not included) of a range are needed; those before have been."""
        if self.page_bytes == mmap.PAGESIZE or last <= first:
            return  # the system maps these as they are written to
        began = time.perf_counter_ns()
        for _, data, block in self._maps:
            data[:, number, self._end(first, block) : self._end(last, block) : mmap.PAGESIZE] = 0
        self.spent_ns += time.perf_counter_ns() - began

    def unmap(self, number: int, blocks: int) -> None:
        """Give back what is behind the first ``blocks`` blocks of a range; they read as zeros."""
        began = time.perf_counter_ns()
        for memory, data, block in self._maps:
            nbytes = self._end(blocks, block)
            for stripe in range(len(data)) if nbytes else ():
                start = (stripe * self.ranges + number) * self.length * block
                memory.madvise(mmap.MADV_DONTNEED, start, nbytes)
        self.spent_ns += time.perf_counter_ns() - began

    def clear(self) -> None:
        """Give back everything."""
        for memory, _, _ in self._maps:
            memory.madvise(mmap.MADV_DONTNEED)

    def resident_bytes(self) -> int | None:
        """Memory that is really behind these addresses, as the system counts it (``mincore``): pages that were written
        to, or read. None where it does not say."""
        total = 0
        for _, data, _ in self._maps:
            pages = np.empty(data.nbytes // mmap.PAGESIZE, np.uint8)
            if _LIBC.mincore(*(ctypes.c_void_p(x) for x in (data.ctypes.data, data.nbytes, pages.ctypes.data))):
                return None
            total += int(np.count_nonzero(pages & 1)) * mmap.PAGESIZE
        return total

    def _end(self, blocks: int, block_bytes: int) -> int:
        """Where the page ends that holds the last of so many blocks."""
        return -(-blocks * block_bytes // self.page_bytes) * self.page_bytes
