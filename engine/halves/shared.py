"""A KV cache in memory that two processes see, and the checksums of what is handed over.

    prefill half   | store 0: [stripes, blocks, bytes] | store 1 ... |    writes
                   '------------- one file ------------'
    decode half    the same bytes, mapped                                 reads

The file has no name: it is gone with the last process that has it open, however that ends.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch


class Store(NamedTuple):
    """Where one of a cache's stores lies in the file [bytes], and its shape [stripes, blocks, bytes]."""

    offset: int
    shape: tuple[int, int, int]


def nameless_file() -> int:
    """The descriptor of a file in memory that no folder lists.

    Raises:
        OSError: the system gives none.
    """
    if hasattr(os, "memfd_create"):
        return os.memfd_create("servescope-kv", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class SharedSpace:
    """Stands in for ``AddressSpace`` where a cache is made: its tensors lie in a file that another process can map."""

    def __init__(self, file: int) -> None:
        """``file``: a descriptor of an empty file; it stays the caller's."""
        self._file = file
        self._end = 0
        self.stores: list[Store] = []  # in the order in which they were asked for

    def zeros(self, shape: Sequence[int], place: int, dtype: torch.dtype) -> torch.Tensor:
        """A tensor of zeros, written to once. ``place``: the dimension that counts blocks; those before it count
        stripes.

        Raises:
            RuntimeError: there is no room.
        """
        stripes, blocks, width = math.prod(shape[:place]), shape[place], math.prod(shape[place + 1 :]) * dtype.itemsize
        store = Store(self._end, (stripes, blocks, width))
        nbytes = stripes * blocks * width
        self._end += -(-nbytes // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        try:
            os.ftruncate(self._file, self._end)
            os.posix_fallocate(self._file, store.offset, self._end - store.offset)  # else writing to it could kill
        except OSError as error:
            raise RuntimeError(str(error)) from error
        self.stores.append(store)
        return mapped(self._file, store).flatten().view(dtype).view(tuple(shape)).zero_()


def mapped(file: int, store: Store) -> torch.Tensor:
    """A store in the file, as bytes [stripes, blocks, bytes] uint8."""
    memory = mmap.mmap(file, math.prod(store.shape), offset=store.offset)
    return torch.frombuffer(memory, dtype=torch.uint8).view(store.shape)


def checksums(stores: Sequence[np.ndarray], blocks: Sequence[int]) -> list[int]:
    """CRC-32 of each block over all stores [stripes, blocks, bytes] uint8."""
    sums = []
    for block in blocks:
        total = 0
        for store in stores:
            total = zlib.crc32(np.ascontiguousarray(store[:, block]).data, total)
        sums.append(total)
    return sums
