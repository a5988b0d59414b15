"""The envelope of an Arrow IPC stream message, read by hand.

A spool is read while it is being written, so the reader must tell a message that is not all there yet from one that is
damaged, before Arrow is asked to decode it. One message in the file::

    ff ff ff ff | int32 metadata length | Message flatbuffer, padded to 8 | body
                                          `- header type, body length, custom metadata (our sequence and checksum)

Layout: Arrow columnar format specification, "Encapsulated message format" and ``Message.fbs``; flatbuffers are
little-endian tables of offsets. A metadata length of 0 ends the stream.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

CONTINUATION = b"\xff\xff\xff\xff"
END_OF_STREAM = CONTINUATION + b"\x00\x00\x00\x00"
MAX_METADATA_BYTES = 1 << 20
MAX_BODY_BYTES = 1 << 28  # the recorder hands over a few MiB at a time
SCHEMA, DICTIONARY_BATCH, RECORD_BATCH = 1, 2, 3

CHECKSUM_KEY = "crc32"
SEQUENCE_KEY = "sequence"
_CHECKSUM_PREFIX = b"crc32:"
CHECKSUM_BLANK = "crc32:00000000"
_BLANK_BYTES = CHECKSUM_BLANK.encode()


class FrameError(ValueError):
    """The bytes at this place are not a whole, sane message."""


@dataclass(frozen=True)
class Frame:
    """Where one message lies and what its envelope says."""

    metadata_start: int
    body_start: int
    end: int  # first byte after the body
    header_type: int
    custom: dict[str, str]


def read_frame(data: bytes, start: int) -> Frame | None:
    """The message that begins at ``start``; None while some of it is missing.

    Raises:
        FrameError: the bytes cannot begin a message, whatever follows.
    """
    if len(data) - start < 8:
        if not CONTINUATION.startswith(data[start : start + 4]):
            raise FrameError("no message begins here")
        return None
    if data[start : start + 4] != CONTINUATION:
        raise FrameError("no message begins here")
    (length,) = struct.unpack_from("<i", data, start + 4)
    if length < 8 or length > MAX_METADATA_BYTES or length % 8:
        raise FrameError(f"metadata length {length} is impossible")
    metadata_start = start + 8
    body_start = metadata_start + length
    if body_start > len(data):
        return None
    try:
        header_type, body_length, custom = _message(data[metadata_start:body_start])
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise FrameError("the message's metadata is unreadable") from error
    if not 0 <= body_length <= MAX_BODY_BYTES:
        raise FrameError(f"body length {body_length} is impossible")
    end = body_start + body_length
    if end > len(data):
        return None
    return Frame(metadata_start, body_start, end, header_type, custom)


def seal(message: bytes, preceding: bytes = b"") -> bytes:
    """The message with its blank checksum filled in.

    The checksum is CRC-32 over ``preceding`` and the message with the blank still blank.
    """
    at = message.index(_BLANK_BYTES) + len(_CHECKSUM_PREFIX)
    checksum = f"{zlib.crc32(message, zlib.crc32(preceding)):08x}".encode()
    return message[:at] + checksum + message[at + 8 :]


def intact(message: bytes, custom: dict[str, str], preceding: bytes = b"") -> bool:
    """Whether a sealed message still is what was written."""
    stored = custom.get(CHECKSUM_KEY, "").encode()
    if len(stored) != len(_BLANK_BYTES) or not stored.startswith(_CHECKSUM_PREFIX):
        return False
    at = message.find(stored)
    if at < 0:
        return False
    blank = message[:at] + _BLANK_BYTES + message[at + len(stored) :]
    return f"crc32:{zlib.crc32(blank, zlib.crc32(preceding)):08x}".encode() == stored


def _message(metadata: bytes) -> tuple[int, int, dict[str, str]]:
    """``(header_type, bodyLength, custom_metadata)`` of a Message flatbuffer (fields 1, 3 and 4 of its table)."""
    table = _u32(metadata, 0)
    header_at, body_at, custom_at = (_field(metadata, table, i) for i in (1, 3, 4))
    header_type = metadata[header_at] if header_at else 0
    body_length = struct.unpack_from("<q", metadata, body_at)[0] if body_at else 0
    custom = {}
    if custom_at:
        vector = custom_at + _u32(metadata, custom_at)
        count = _u32(metadata, vector)
        if count > 64:
            raise struct.error("too many metadata entries")
        for k in range(count):
            entry = vector + 4 + 4 * k
            pair = entry + _u32(metadata, entry)
            custom[_string(metadata, pair, 0)] = _string(metadata, pair, 1)
    return header_type, body_length, custom


def _field(data: bytes, table: int, index: int) -> int:
    """Where a table's field lies; 0 if it is left at its default."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if vtable < 0:
        raise struct.error("vtable outside the message")
    (size,) = struct.unpack_from("<H", data, vtable)
    slot = 4 + 2 * index
    offset = struct.unpack_from("<H", data, vtable + slot)[0] if slot < size else 0
    return table + offset if offset else 0


def _string(data: bytes, table: int, index: int) -> str:
    at = _field(data, table, index)
    if not at:
        return ""
    at += _u32(data, at)
    length = _u32(data, at)
    if at + 4 + length > len(data):
        raise struct.error("string outside the message")
    return data[at + 4 : at + 4 + length].decode("utf-8")


def _u32(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", data, at)[0])
