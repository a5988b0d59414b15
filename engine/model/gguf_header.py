"""The header of a GGUF file: its keys, and where its tensors lie.

Every count and length is held against the bytes that are there before anything is made of it: what a damaged file
claims costs neither time nor memory. ``gguf`` of llama.cpp believes them, so it is used for the number formats only.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config.errors import EngineError

KIND = "bad-gguf"
_MAGIC = 0x46554747  # "GGUF", little endian
_VERSIONS = (2, 3)
_HEADER_BYTES = 256 << 20  # the most that is read before the tensors; the largest vocabularies take 20 MB
_LONGEST_ARRAY = 1 << 22
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_ALIGNMENT = "general.alignment"


@dataclass(frozen=True)
class Stored:
    """A tensor in the file."""

    dims: tuple[int, ...]  # as PyTorch counts them: the fastest dimension last
    format: int  # number of a GGML quantisation type
    offset: int  # bytes from the beginning of the file


@dataclass(frozen=True)
class Header:
    """What stands before the data."""

    keys: dict[str, Any]
    tensors: dict[str, Stored]
    bytes: int  # of the whole file


def read_header(path: Path) -> Header:
    """
    Raises:
        EngineError: the file is no GGUF file of a version that can be read, or is damaged.
    """
    size = path.stat().st_size
    if size < 24:
        raise _unreadable(path, f"it has {size} bytes")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        cursor = _Cursor(path, content)
        magic, version = cursor.scalar("I"), cursor.scalar("I")
        if magic != _MAGIC:
            raise _unreadable(path, "it does not begin with GGUF")
        if version not in _VERSIONS:
            kind = "the byte order of other machines" if version & 0xFFFF == 0 else f"version {version}"
            raise _unreadable(path, f"it has {kind}, and versions {_VERSIONS[0]} and {_VERSIONS[1]} can be read")
        tensor_count = cursor.count(8 + 4 + 8 + 4 + 8, "tensors")
        key_count = cursor.count(8 + 4 + 1, "keys")
        keys: dict[str, Any] = {}
        for _ in range(key_count):
            name = cursor.text()
            if name in keys:
                raise _unreadable(path, f"key {name} is there twice")
            keys[name] = cursor.value(cursor.scalar("I"))
        tensors: dict[str, Stored] = {}
        for _ in range(tensor_count):
            name, stored = cursor.text(), cursor.tensor()
            if name in tensors:
                raise _unreadable(path, f"tensor {name} is there twice")
            tensors[name] = stored
        alignment = keys.get(_ALIGNMENT, 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
            raise EngineError(KIND, f"{path.name}: {_ALIGNMENT}", alignment, "It is no alignment.", "32 is usual.")
        start = cursor.at + -cursor.at % alignment
    placed = {name: Stored(t.dims, t.format, start + t.offset) for name, t in tensors.items()}
    return Header(keys, placed, size)


class _Cursor:
    """A place in the header that only moves over bytes that are there."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self._path, self._content = path, content
        self._end = min(len(content), _HEADER_BYTES)
        self.at = 0

    def _take(self, size: int) -> int:
        start, self.at = self.at, self.at + size
        if self.at > self._end:
            raise _unreadable(self._path, f"{size} bytes are said to stand at byte {start}, and the file ends before")
        return start

    def scalar(self, code: str) -> Any:
        return struct.unpack_from(f"<{code}", self._content, self._take(struct.calcsize(f"<{code}")))[0]

    def count(self, least_bytes: int, what: str) -> int:
        """A number of things that take at least so many bytes each."""
        number = self.scalar("Q")
        if number * least_bytes > self._end - self.at:
            raise _unreadable(self._path, f"it claims {number} {what}, more than fit into it")
        return number

    def text(self) -> str:
        size = self.scalar("Q")
        start = self._take(size)
        try:
            return self._content[start : start + size].decode("utf-8")
        except UnicodeDecodeError:
            raise _unreadable(self._path, f"the text at byte {start} is not UTF-8") from None

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise _unreadable(self._path, f"values of type {kind} are not known")
        inner = self.scalar("I")
        if inner not in _SCALARS and inner != _STRING:
            raise _unreadable(self._path, f"arrays of type {inner} are not known")
        least = 8 if inner == _STRING else struct.calcsize(_SCALARS[inner])
        number = self.count(least, "entries of an array")
        if number > _LONGEST_ARRAY:
            raise _unreadable(self._path, f"it claims an array of {number} entries; {_LONGEST_ARRAY} are the most")
        if inner == _STRING:
            return [self.text() for _ in range(number)]
        code = f"<{number}{_SCALARS[inner]}"
        return list(struct.unpack_from(code, self._content, self._take(struct.calcsize(code))))

    def tensor(self) -> Stored:
        rank = self.scalar("I")
        if rank > 4:
            raise _unreadable(self._path, f"a tensor of {rank} dimensions is claimed")
        dims = tuple(self.scalar("Q") for _ in range(rank))
        return Stored(dims[::-1], self.scalar("I"), self.scalar("Q"))


def stored_bytes(path: Path, name: str, tensor: Stored, file_bytes: int) -> int:
    """Bytes a tensor takes in the file.

    Raises:
        EngineError: its number format is not known or cannot hold such rows, or it does not lie inside the file.
    """
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    known = {int(kind): kind for kind in GGMLQuantizationType}
    if tensor.format not in known:
        raise unreadable_format(path, name, f"format {tensor.format}")
    block, block_bytes = GGML_QUANT_SIZES[known[tensor.format]]
    if not tensor.dims or 0 in tensor.dims or tensor.dims[-1] % block:
        raise _unreadable(
            path, f"tensor {name} is said to be {list(tensor.dims)}, which {known[tensor.format].name} cannot hold"
        )
    size = math.prod(tensor.dims) // block * block_bytes
    if tensor.offset + size > file_bytes:
        raise _unreadable(
            path, f"tensor {name} is said to end at byte {tensor.offset + size}, and the file has {file_bytes}"
        )
    return size


def unreadable_format(path: Path, name: str, kind: str) -> EngineError:
    message = f"Tensor {name} is stored as {kind}, which cannot be read."
    return EngineError(KIND, "model", str(path), message, "Use a Q4, Q5, Q6, Q8 or F16 file.")


def _unreadable(path: Path, reason: str) -> EngineError:
    message = f"This is not a readable GGUF file: {reason}."
    return EngineError(KIND, "model", str(path), message, "Download the file again.")
