"""The one way text takes to a terminal: escape sequences in it are shown, never obeyed.

Titles, notes, labels, model names and errors may come from a file that somebody sent. A terminal would take an escape
character in them for a command: clear the screen, rename the window, write to the clipboard. ``guard_terminal`` puts
``PrintableStream`` in front of both standard streams, so every ``print``, log line and traceback passes it;
``app.commands.rich_console`` does the same for rich, whose own colours it leaves alone.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO

UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but line feed and tab, what turns the direction of text round, and halves of surrogate pairs."""


def printable(text: str) -> str:
    """The text with every such character written out: ``\\x1b``, ``\\u202e``."""
    return UNPRINTABLE.sub(lambda match: f"\\x{ord(match[0]):02x}" if match[0] < "\x80" else _json_escape(match), text)


def printable_json(text: str) -> str:
    """A JSON document with such characters as JSON writes them; it says the same."""
    return UNPRINTABLE.sub(_json_escape, text)


def _json_escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


class PrintableStream:
    """A text stream that writes what is printable, whatever its encoding lacks written out too; all else is the
    stream's.
    """

    def __init__(self, raw: TextIO) -> None:
        self.raw = raw

    def write(self, text: str) -> int:
        shown, encoding = printable(text), self.raw.encoding or "utf-8"
        self.raw.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


def guard_terminal() -> None:
    """From here on nothing reaches standard output and error but through ``PrintableStream``; harmless the second
    time.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, PrintableStream):
            setattr(sys, name, PrintableStream(stream))


def unguarded(stream: Any) -> TextIO:
    """The stream itself, for those who draw with escapes of their own and pass texts through ``printable``."""
    return stream.raw if isinstance(stream, PrintableStream) else stream
