"""A trace's file: plain text or gzip, told by its first bytes, and never more of a line than can be one."""

from __future__ import annotations

import gzip
import io
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from engine.config import ConfigError
from scenarios.traces.rows import bad

LONGEST_LINE = 4_000_000  # characters: a Mooncake row of a million tokens has 20 KB


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """The trace as text.

    Raises:
        ConfigError: no such file, no ordinary file, no text, or damaged compression.
    """
    try:
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError("path", str(path), "The trace is not an ordinary file.", "Give the path of a trace file.")
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            source = gzip.GzipFile(fileobj=raw) if packed else raw
            with io.TextIOWrapper(source, encoding="utf-8-sig", newline="") as text:  # type: ignore[arg-type]
                yield text
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise ConfigError("path", str(path), "The gzip file is damaged.", "Fetch it again.") from None
    except OSError as error:
        raise ConfigError(
            "path", str(path), f"The trace cannot be read: {error.strerror}.", "Give the path of a trace file."
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(
            "path", str(path), "The trace is not text.", "Unpack it first if it is compressed otherwise than by gzip."
        ) from None


def lines(path: Path, file: TextIO) -> Iterator[str]:
    """The file's lines. Raises ``ConfigError`` for one that is longer than any trace's."""
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise bad(path, number, f"{line[:60]}...", f"it is longer than {LONGEST_LINE:,} characters")
        yield line
