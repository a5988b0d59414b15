"""Blocks on disk: a file each, held against a checksum that stays in memory."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from pathlib import Path

import numpy as np


def checksum(content: np.ndarray) -> bytes:
    """128 bits over a block's bytes [bytes] uint8."""
    return hashlib.blake2b(content.data, digest_size=16).digest()


class DiskTier:
    """Writes and reads whole blocks in a folder of its own, which goes when the run does.

    The system keeps files in memory as long as it likes, so reading may be faster than the disk; ``bytes_per_s``
    emulates a link on top.
    """

    def __init__(self, folder: Path, num_blocks: int, bytes_per_s: float | None = None) -> None:
        """``bytes_per_s``: reading takes at least as long as at this rate; None: the disk as it is."""
        self.folder = folder
        self.num_blocks = num_blocks
        self.problem: str | None = None  # why nothing more is written
        self._bytes_per_s = bytes_per_s
        self._checksums: dict[int, bytes] = {}

    def __contains__(self, hash: int) -> bool:
        return hash in self._checksums

    def __len__(self) -> int:
        return len(self._checksums)

    def write(self, hash: int, content: np.ndarray) -> bool:
        """Keep a block's bytes [bytes] uint8. False where that is not possible: then nothing is written any more."""
        if self.problem is not None:
            return False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self._path(hash), "wb") as file:
                file.write(content.data)
        except OSError as error:
            self.problem = f"{error.strerror or error}: {self.folder}"
            with contextlib.suppress(OSError):
                self._path(hash).unlink(missing_ok=True)
            return False
        self._checksums[hash] = checksum(content)
        return True

    def read(self, hash: int, into: np.ndarray) -> bool:
        """Fill ``into`` [bytes] uint8 with a block's bytes. False where its file is gone or is not what was written."""
        began = time.monotonic()
        try:
            with open(self._path(hash), "rb") as file:
                whole = file.readinto(into.data) == into.nbytes and not file.read(1)
        except OSError:
            return False
        if self._bytes_per_s is not None:
            time.sleep(max(0.0, into.nbytes / self._bytes_per_s - (time.monotonic() - began)))
        return whole and checksum(into) == self._checksums[hash]

    def drop(self, hash: int) -> None:
        """Forget a block."""
        del self._checksums[hash]
        with contextlib.suppress(OSError):
            self._path(hash).unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget every block; no file stays, nor the folder."""
        self._checksums.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, hash: int) -> Path:
        return self.folder / f"{hash:016x}.kv"
