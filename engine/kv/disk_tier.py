"""Blocks on disk: a file each, held against a checksum that stays in memory."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.kv.disk_link import DiskLink
from engine.kv.tier_codecs import TierCodec


def checksum(content: np.ndarray) -> bytes:
    """128 bits over a block's bytes [bytes] uint8."""
    return hashlib.blake2b(content.data, digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class File:
    """What is known of a file that was written."""

    nbytes: int
    parts: tuple[tuple[int, int, bytes], ...]  # of each level: first byte, bytes, checksum


class DiskTier:
    """Writes and reads whole blocks in a folder of its own, which goes when the run does.

    The system keeps files in memory as long as it likes, so reading may be faster than the disk; a link may be emulated
    on top.
    """

    def __init__(self, folder: Path, budget: int, link: DiskLink | None = None, codec: TierCodec | None = None) -> None:
        """
        Args:
            budget: bytes that all files may have together.
            link: reading takes at least as long as over it; None: the disk as it is.
            codec: what makes blocks smaller on the way; None: bytes as they are.
        """
        self.folder = folder
        self.budget = budget
        self.used = 0  # bytes
        self.reserved = 0  # bytes of what is being written
        self._lock = threading.Lock()  # of the files and their bytes
        self._largest = 0  # bytes of a block so far
        self.problem: str | None = None  # why nothing more is written
        self._link = link
        self._arrives = 0.0  # when the link has brought what was asked for, s on its clock
        self.came: Callable[[int, int, float, float], None] = lambda level, nbytes, seconds, decode_s: None
        self._codec = codec
        self.encode_ns = self.decode_ns = 0  # of the codec, so far
        self._files: dict[int, File] = {}

    def __contains__(self, hash: int) -> bool:
        return hash in self._files

    def __len__(self) -> int:
        return len(self._files)

    def bytes_of(self, hash: int) -> int:
        """Bytes of a block's file."""
        return self._files[hash].nbytes

    def sizes(self, hash: int) -> list[int]:
        """Bytes of a block at each level, finest first."""
        return [nbytes for _, nbytes, _ in self._files[hash].parts]

    def encode(self, content: np.ndarray) -> np.ndarray:
        """A block's bytes [bytes] uint8 as they are to be written."""
        if self._codec is None:
            return content
        began = time.monotonic_ns()
        stream = self._codec.encode(content)
        self.encode_ns += time.monotonic_ns() - began
        return stream

    def expected(self, content: int) -> int:
        """Bytes that a block of so many will take, as far as can be said before it is encoded."""
        return content if self._codec is None else min(content, self._largest or content)

    def write(self, hash: int, stream: np.ndarray) -> bool:
        """Keep what ``encode`` returned. False where that is not possible: then nothing is written any more.

        May be called in a thread beside the one that drops blocks.
        """
        if self.problem is not None:
            return False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self._path(hash), "wb") as file:
                file.write(stream.data)
        except OSError as error:
            self.problem = f"{error.strerror or error}: {self.folder}"
            with contextlib.suppress(OSError):
                self._path(hash).unlink(missing_ok=True)
            return False
        cut = [(0, stream.nbytes)] if self._codec is None else self._codec.parts(stream)
        parts = tuple((first, nbytes, checksum(stream[first : first + nbytes])) for first, nbytes in cut)
        with self._lock:
            self._files[hash] = File(stream.nbytes, parts)
            self.used += stream.nbytes
        self._largest = max(self._largest, stream.nbytes)
        return True

    def ask(self) -> None:
        """Blocks will be read one after another: the link begins to bring them, and goes on while one is decoded."""
        self._arrives = time.monotonic() if self._link is None else self._link.now()

    def read(self, hash: int, into: np.ndarray, stop: threading.Event | None = None, level: int = 0) -> bool:
        """Fill ``into`` [bytes] uint8 with a block's bytes. False where its file is gone or is not what was written.

        Args:
            stop: set: the emulated link is not waited for any more.
            level: of the codec, 0 the finest; no other bytes come over the link.
        """
        known = self._files.get(hash)
        if known is None:
            return False
        first, nbytes, expected = known.parts[level]
        stream, began = into if self._codec is None else np.empty(nbytes, np.uint8), time.monotonic()
        try:
            with open(self._path(hash), "rb") as file:
                whole = os.fstat(file.fileno()).st_size == known.nbytes
                file.seek(first)
                whole = file.readinto(stream.data) == nbytes and whole
        except OSError:
            return False
        if self._link is not None:
            asked, self._arrives = self._arrives, self._link.arrival(self._arrives, nbytes)
            (stop or threading.Event()).wait(max(0.0, self._arrives - self._link.now()))
            took = self._arrives - asked
        else:
            took = time.monotonic() - began
        if not whole or checksum(stream) != expected:
            return False
        decoding = time.monotonic_ns()
        if self._codec is not None:
            self._codec.decode(stream, into, level)
            self.decode_ns += time.monotonic_ns() - decoding
        self.came(level, nbytes, took, (time.monotonic_ns() - decoding) / 1e9)
        return True

    def drop(self, hash: int) -> None:
        """Forget a block that was written."""
        with self._lock:
            self.used -= self._files.pop(hash).nbytes
        with contextlib.suppress(OSError):
            self._path(hash).unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget every block; no file stays, nor the folder."""
        self._files.clear()
        self.used = self.reserved = 0
        shutil.rmtree(self.folder, ignore_errors=True)

    def describe(self) -> dict[str, Any] | None:
        """What the codec did over the run; None without one, and where it encoded nothing."""
        about = None if self._codec is None else self._codec.describe()
        if not about or not about["blocks"]:
            return None
        return {**about, "encode_ns": self.encode_ns, "decode_ns": self.decode_ns}

    def _path(self, hash: int) -> Path:
        return self.folder / f"{hash:016x}.kv"
