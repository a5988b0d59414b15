"""The spool: one append-only Arrow IPC stream per row type, readable while it grows.

Every record batch carries its ``sequence`` (0, 1, 2, ...) and a CRC-32 over the whole message in its custom metadata;
the first batch's checksum also covers the schema and dictionaries before it. Any Arrow reader can open the file; ours
adds what a truth on disk needs: tailing by offset, a torn tail (the writer was killed) told apart from damage, and
resuming after a given batch.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from telemetry import framing
from telemetry.folder import spool_path as spool_path
from telemetry.framing import END_OF_STREAM, MAX_BODY_BYTES, MAX_METADATA_BYTES, RECORD_BATCH, FrameError
from telemetry.json_file import open_regular

READ_BYTES = 4 << 20
MOST_AT_ONCE = MAX_BODY_BYTES + 2 * MAX_METADATA_BYTES  # the largest message, and the schema before it


class SpoolCorrupt(Exception):
    """A spool file is damaged before its end: bytes that were written whole have changed."""

    def __init__(self, path: Path, offset: int, sequence: int, reason: str) -> None:
        self.path, self.offset, self.sequence, self.reason = path, offset, sequence, reason
        super().__init__(f"{path}: damaged at byte {offset}, batch {sequence}: {reason}")


class SpoolWriter:
    """Appends record batches to a new file. A failed write leaves the file as it was before."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        """Raises FileExistsError if there is a file already: a spool has one writer in its life."""
        self.path = path
        self.sequence = 0  # of the next batch
        self._schema = schema
        self._offset = 0
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._start_stream()

    def write(self, batch: pa.RecordBatch) -> int:
        """Append one batch; returns its sequence. Raises OSError with nothing of it left in the file."""
        self._stream.write_batch(
            batch,
            custom_metadata={
                framing.SEQUENCE_KEY: str(self.sequence),
                framing.CHECKSUM_KEY: framing.CHECKSUM_BLANK,
            },
        )
        with self._sink.getbuffer() as written:
            data = bytes(written[: self._sink.tell()])
        self._sink.seek(0)
        if self.sequence == 0:
            at = self._last_message(data)
            data = data[:at] + framing.seal(data[at:], data[:at])
        else:
            data = framing.seal(data)
        try:
            self._append(data)
        except OSError:
            if self.sequence == 0:
                self._start_stream()
            raise
        self.sequence += 1
        return self.sequence - 1

    def close(self) -> None:
        """End the stream and force it to disk. Raises OSError; the file is closed all the same."""
        if self._fd < 0:
            return
        try:
            if self.sequence:
                self._append(END_OF_STREAM)
            os.fsync(self._fd)
        finally:
            os.close(self._fd)
            self._fd = -1

    def _start_stream(self) -> None:
        # schema and dictionaries reach the file together with the first batch, so a reader never meets them alone
        self._sink = io.BytesIO()
        self._stream = pa.ipc.new_stream(self._sink, self._schema)

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._offset)
                os.lseek(self._fd, self._offset, os.SEEK_SET)
            raise
        self._offset += len(data)

    @staticmethod
    def _last_message(data: bytes) -> int:
        at = 0
        while True:
            frame = framing.read_frame(data, at)
            assert frame is not None
            if frame.end == len(data):
                return at
            at = frame.end


@dataclass(frozen=True)
class SpoolBatch:
    """One batch read back, and where the reader stands after it."""

    sequence: int
    batch: pa.RecordBatch
    offset: int  # of the byte after it: resume here


class SpoolReader:
    """Reads the complete batches of one file, as often as asked, from where it stopped.

    ``after`` and ``offset`` resume behind a batch read before (its ``sequence`` and ``offset``).
    """

    def __init__(self, path: Path, *, after: int = -1, offset: int = 0) -> None:
        self.path = path
        self.offset = offset
        self.next_sequence = after + 1
        self.ended = False  # the writer closed the stream
        self._prefix = b""  # schema and dictionaries, needed to decode any batch

    def read(self) -> Iterator[SpoolBatch]:
        """Every batch that is complete by now. Raises SpoolCorrupt at the first that is damaged."""
        if not self.path.exists():
            return
        with open_regular(self.path) as file:
            if self.offset and not self._prefix and not self._load_prefix(file.read(READ_BYTES)):
                raise SpoolCorrupt(self.path, 0, self.next_sequence, "the schema is missing or unreadable")
            while not self.ended:
                file.seek(self.offset)
                want, data = READ_BYTES, b""
                decoded = False
                while True:
                    more = file.read(want)
                    data += more
                    for item in self._decode(data):
                        decoded = True
                        yield item
                    if decoded or self.ended or not more or len(data) > MOST_AT_ONCE:
                        break
                    want *= 2  # one message larger than a read
                if not decoded:
                    return

    def finish(self) -> int:
        """For a file whose writer is gone and whose batches were all read: bytes of a torn tail, 0 if none.

        Raises:
            SpoolCorrupt: what follows is no torn tail: whole messages, or the stream's end, come after it.
        """
        if self.ended or not self.path.exists():
            return 0
        with open_regular(self.path) as file:
            file.seek(self.offset)
            tail = file.read(MOST_AT_ONCE + 1)
        if len(tail) > MOST_AT_ONCE:
            raise self._corrupt(self.offset, "what follows is longer than any message")
        if _has_message(tail, 1) or tail.endswith(END_OF_STREAM):
            raise self._corrupt(self.offset, "a message's length is wrong")
        return len(tail)

    def _decode(self, data: bytes) -> Iterator[SpoolBatch]:
        """Batches in ``data``, which begins at ``self.offset``."""
        at, base = 0, self.offset
        while True:
            if data[at : at + 8] == END_OF_STREAM:
                self.ended = True
                return
            if not self._prefix and not self._load_prefix(data):
                return
            if self.next_sequence == 0 and at == 0:
                at = len(self._prefix)
            try:
                frame = framing.read_frame(data, at)
            except FrameError as error:
                if not data[at:].strip(b"\x00"):  # a power cut can leave zeros behind the last write
                    return
                raise self._corrupt(base + at, str(error)) from error
            if frame is None:
                return
            message = data[at : frame.end]
            yield self._batch(message, frame, base + at)
            at = frame.end

    def _batch(self, message: bytes, frame: framing.Frame, offset: int) -> SpoolBatch:
        if frame.header_type != RECORD_BATCH:
            raise self._corrupt(offset, "a message of another kind stands where a record batch was expected")
        preceding = self._prefix if self.next_sequence == 0 else b""
        if not framing.intact(message, frame.custom, preceding):
            raise self._corrupt(offset, "the checksum does not match")
        if frame.custom.get(framing.SEQUENCE_KEY) != str(self.next_sequence):
            raise self._corrupt(offset, f"its number is {frame.custom.get(framing.SEQUENCE_KEY)}")
        with pa.ipc.open_stream(pa.py_buffer(self._prefix + message)) as stream:
            batch = stream.read_next_batch()
        end = offset + len(message)
        item = SpoolBatch(self.next_sequence, batch, end)
        self.next_sequence += 1
        self.offset = end
        return item

    def _load_prefix(self, data: bytes) -> bool:
        """Find the schema and dictionaries at the file's start; False while they are not all there."""
        at = 0
        while True:
            try:
                frame = framing.read_frame(data, at)
            except FrameError as error:
                if not data.strip(b"\x00"):
                    return False
                raise self._corrupt(at, str(error)) from error
            if frame is None:
                return False
            if frame.header_type == RECORD_BATCH:
                self._prefix = data[:at]
                return True
            at = frame.end

    def _corrupt(self, offset: int, reason: str) -> SpoolCorrupt:
        return SpoolCorrupt(self.path, offset, self.next_sequence, reason)


def _has_message(data: bytes, start: int) -> bool:
    """Whether a whole, undamaged record batch begins anywhere from ``start`` on."""
    at = data.find(framing.CONTINUATION, start)
    while at >= 0:
        with contextlib.suppress(FrameError):
            frame = framing.read_frame(data, at)
            if frame is not None and framing.intact(data[at : frame.end], frame.custom):
                return True
        at = data.find(framing.CONTINUATION, at + 1)
    return False
