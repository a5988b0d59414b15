"""JSON files that are read while they are written, and that nobody trusts: replaced whole, read through a model.

Whatever is on disk may have been cut by a crash, edited by hand or made by somebody hostile. A file is a regular one of bounded
size that a pydantic model accepts, or it is ``Unreadable`` with the reason; nothing else ever comes of reading it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

MOST_BYTES = 16 << 20
BLOCK_BYTES = 512  # what st_blocks counts in
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

Count = Annotated[int, Field(ge=0, le=2**53)]
"""A number of things that every reader can hold: JavaScript and float64 included."""
Nanoseconds = Annotated[int, Field(ge=0, lt=2**63)]
"""A time, since 1970 or since a run's start; as an instant it lies before the year 2263."""

M = TypeVar("M")


class Unreadable(ValueError):
    """A file that does not hold what it should. ``reason``: the place in it and what is wrong there."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"{path.name} cannot be read: {reason}")


def read_as(kind: type[M] | TypeAdapter[M], path: Path, most_bytes: int = MOST_BYTES) -> M:
    """The file's content as a model (or whatever a ``TypeAdapter`` makes).

    Raises:
        FileNotFoundError: there is no such file.
        Unreadable: it is no regular file, too large, no JSON or not what the model takes.
    """
    return parse_as(kind, read_bounded(path, most_bytes), path)


def parse_as(kind: type[M] | TypeAdapter[M], data: bytes, path: Path) -> M:
    """The same of bytes in hand; ``path`` is what the error names. Raises ``Unreadable``."""
    adapter = kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)
    try:
        return adapter.validate_json(data)
    except ValidationError as error:
        raise Unreadable(path, first_fault(error)) from error


def read_bounded(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """The bytes of a regular file. Neither a pipe nor a device nor a huge file holds the reader up.

    Raises:
        FileNotFoundError: there is no such file.
        Unreadable: it is no regular file, larger than ``most_bytes``, or the system refuses to read it.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > most_bytes:
                raise Unreadable(path, f"it has {size:,} bytes, more than the {most_bytes:,} it may have")
            return file.read(most_bytes)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(error.errno, error.strerror, str(path)) from error
    except OSError as error:
        raise Unreadable(path, error.strerror or str(error)) from error


def open_regular(path: Path) -> BinaryIO:
    """A file for reading, if it is a regular one: a pipe would hold the reader up, a device would never end. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return os.fdopen(handle, "rb")


def write_json(path: Path, value: Any, *, mode: int = 0o600, durable: bool = True) -> None:
    """Replace a JSON file so that a reader sees the old content or the new, never a part.

    ``durable``: on disk before it takes the old one's place, so that a power cut leaves no empty file behind.

    Where the disk is full, a file that is there already is written over in the blocks it has: cancelling or settling a run must be
    possible just then.

    Raises OSError; the file is as it was then.
    """
    data = json_bytes(value)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        _write_over(path, data, error)
        return
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(handle, mode)
            if durable:
                os.fsync(handle)
        Path(temporary).replace(path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        _write_over(path, data, error)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def json_bytes(value: Any) -> bytes:
    """The value as compact JSON in UTF-8. What UTF-8 cannot hold (half a surrogate pair) becomes a question mark."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def plain(checked: Any) -> Any:
    """A checked value as JSON has it: of a model the keys that were given."""
    return checked.model_dump(mode="json", exclude_unset=True) if isinstance(checked, BaseModel) else checked


def first_fault(error: ValidationError) -> str:
    """What is wrong first: the place, the words of the check, and the value where it is short."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part)[:80] for part in first["loc"][:6])
    value = first.get("input")
    shown = f" ({value!r:.80})" if isinstance(value, int | float | str) and first["type"] != "json_invalid" else ""
    return f"{place}: {first['msg']}{shown}" if place else f"{first['msg']}"


def _write_over(path: Path, data: bytes, error: OSError) -> None:
    """Put ``data`` into the blocks that the file has already; raises ``error`` where it does not fit or is another trouble."""
    if error.errno not in NO_SPACE:
        raise error
    with contextlib.suppress(OSError), path.open("r+b", buffering=0) as file:
        about = os.fstat(file.fileno())
        if len(data) <= max(about.st_size, about.st_blocks * BLOCK_BYTES):
            padded = data + b" " * (about.st_size - len(data))  # spaces after a JSON value mean nothing
            if os.pwrite(file.fileno(), padded, 0) == len(padded):
                os.fsync(file.fileno())
                return
    raise error
