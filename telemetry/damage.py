"""Whether a run's spool still is what its writer left: told from sizes and ends, without reading a row."""

from __future__ import annotations

from pathlib import Path

from telemetry.folder import spool_path
from telemetry.framing import END_OF_STREAM
from telemetry.json_file import open_regular
from telemetry.rows import ROW_TYPES
from telemetry.status import LABEL_INCOMPLETE, Status, is_final, state


def spool_sizes(run_dir: Path) -> dict[str, int]:
    """Bytes of each row type's file; what a writer that has closed them states in ``status.json``."""
    sizes = {row: _size(spool_path(run_dir, row)) for row in ROW_TYPES}
    return {row: size for row, size in sizes.items() if size is not None}


def damage_of(run_dir: Path, status: Status) -> dict[str, str]:
    """Of a run that is over: row types whose file is not as its writer left it, and how it differs.

    An earlier version's writer stated no sizes; then the files of a run that ended well must end as closed ones do.
    """
    if not is_final(status):
        return {}
    stated = status.get("spool")
    if stated is not None:
        sizes = {row: _size(spool_path(run_dir, row)) for row in stated if row in ROW_TYPES}
        return {
            row: f"{row}.arrow is missing" if size is None else f"{row}.arrow has {size:,} of {stated[row]:,} bytes"
            for row, size in sizes.items()
            if size != stated[row]
        }
    if state(status) not in ("finished", "cancelled") or LABEL_INCOMPLETE in status.get("labels", ()):
        return {}
    files = {row: spool_path(run_dir, row) for row in ROW_TYPES}
    return {row: f"{row}.arrow is cut off" for row, path in files.items() if path.exists() and not _is_closed(path)}


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _is_closed(path: Path) -> bool:
    """Whether a spool file ends as its writer ends it."""
    try:
        with open_regular(path) as file:
            file.seek(max(0, path.stat().st_size - len(END_OF_STREAM)))
            return file.read(len(END_OF_STREAM)) == END_OF_STREAM
    except OSError:
        return False
