"""Snapshots: runs in one ``.servescope`` file, and back.

The file is a zip whose members are stored in a fixed order with a fixed date::

    manifest.json                           format, schema, versions, what is in here with size and SHA-256
    experiment/*.json                       the experiment's plan and specs, if the runs belong to one
    runs/<run_id>/spec.json, status.json, notes.json, quality.json
    runs/<run_id>/telemetry/<row>.parquet   every row, in the order of the spool

Rows are read from the spool and written back as a spool, so an imported run is a run like any other: the same rows, hence
the same figures, and exporting it again gives the same bytes. A file that comes from elsewhere is checked whole before
anything of it is put in place: names (a fixed pattern, nothing else), sizes against the manifest and against limits before a
byte is unpacked, hashes, schema version, row types and states.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from store.errors import StoreError
from store.notes import Notes
from store.parquet_spool import ROWS_PER_BATCH, plain_schema
from store.quality_file import MOST_BYTES as MOST_QUALITY_BYTES
from store.quality_file import Quality
from telemetry.arrow import of_today
from telemetry.damage import damage_of
from telemetry.folder import NOTES, QUALITY, SPEC, STATUS, TELEMETRY_FOLDER
from telemetry.json_file import MOST_BYTES, Unreadable, parse_as, read_as, read_bounded
from telemetry.limits import MOST_SPEC_BYTES
from telemetry.machine import package_version
from telemetry.process import IDENTITY_KEYS
from telemetry.rows import ROW_TYPES, columns
from telemetry.run_facts import SpecHead
from telemetry.spool import SpoolCorrupt, SpoolReader, spool_path
from telemetry.status import LABEL_UNREADABLE, is_final, read_status, state

FORMAT = "servescope-snapshot"
FORMAT_VERSION = 1
SCHEMA_VERSION = 1  # of the rows; raise it when a column changes its meaning
SUFFIX = ".servescope"
DATE = (1980, 1, 1, 0, 0, 0)

NOT_OURS = (*IDENTITY_KEYS, "supervisor", "spool")
"""Of ``status.json``: who served it and how large its files are here, which means nothing elsewhere."""


def export_snapshot(path: Path, run_dirs: Sequence[Path], experiment_dir: Path | None = None) -> int:
    """Write the runs (and the experiment they belong to) to ``path``; returns its size in bytes.

    The manifest names the traces that requests were drawn from with their licences, as the runs' specs do.

    Raises:
        StoreError: a run is not over, or its rows are damaged.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        whole = Path(folder) / "snapshot"
        members: dict[str, dict[str, Any]] = {}
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as archive:
            if experiment_dir is not None:
                for file in sorted(experiment_dir.glob("*.json")):
                    if file.name != NOTES or _is_readable(file):
                        members[f"experiment/{file.name}"] = _add(archive, f"experiment/{file.name}", file.read_bytes())
            for run_dir in sorted(run_dirs):
                for name, data in _run_members(run_dir, Path(folder)):
                    members[name] = _add(archive, name, data)
            manifest = {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "schema_version": SCHEMA_VERSION,
                "runs": [run_dir.name for run_dir in sorted(run_dirs)],
                "experiment_id": experiment_dir.name if experiment_dir is not None else None,
                "columns": {row: list(columns(kind)) for row, kind in ROW_TYPES.items()},
                "written_by": {name: package_version(name) for name in ("servescope", "pyarrow")},
                "licences": licences_of(run_dirs),
                "members": members,
            }
            text = json_bytes(manifest)
            _add(archive, "manifest.json", text)
            archive.comment = hashlib.sha256(text).hexdigest().encode()
        whole.replace(path)
    return path.stat().st_size


def _is_readable(notes: Path) -> bool:
    """Whether notes can be handed on: those that cannot be read here could not be read anywhere."""
    try:
        read_as(Notes, notes)
    except (FileNotFoundError, Unreadable):
        return False
    return True


def licences_of(run_dirs: Sequence[Path]) -> dict[str, str]:
    """The recorded traces that the runs' requests come from, and their licences. Raises StoreError."""
    licences: dict[str, str] = {}
    for run_dir in run_dirs:
        with _refused_if_unreadable(run_dir):
            licences |= read_as(SpecHead, run_dir / SPEC, MOST_SPEC_BYTES).licences
    return dict(sorted(licences.items()))


def _run_members(run_dir: Path, folder: Path) -> list[tuple[str, bytes]]:
    status = read_status(run_dir)
    if not is_final(status):
        raise StoreError("missing", f"Run {run_dir.name} is not over ({state(status)}).", "Wait for its end.")
    if LABEL_UNREADABLE in status.get("labels", ()):
        raise StoreError("corrupt", f"Run {run_dir.name}: {status['error']['message']}", "It cannot be exported.")
    damage = damage_of(run_dir, status)
    if damage:
        raise StoreError("corrupt", f"Run {run_dir.name}: {'; '.join(damage.values())}.", "It cannot be exported.")
    kept = {key: value for key, value in status.items() if key not in NOT_OURS}
    with _refused_if_unreadable(run_dir):
        members = [(SPEC, read_bounded(run_dir / SPEC, MOST_SPEC_BYTES)), (STATUS, json_bytes(kept))]
    for name, kind, most in ((NOTES, Notes, MOST_BYTES), (QUALITY, Quality, MOST_QUALITY_BYTES)):
        with contextlib.suppress(FileNotFoundError, Unreadable):  # what cannot be read here is not handed on
            data = read_bounded(run_dir / name, most)
            parse_as(kind, data, run_dir / name)
            members.append((name, data))
    for row in ROW_TYPES:
        table = read_rows(run_dir, row)
        if table is not None:
            file = folder / "rows.parquet"
            pq.write_table(table, file, compression="zstd", row_group_size=ROWS_PER_BATCH, store_schema=False)
            members.append((f"{TELEMETRY_FOLDER}/{row}.parquet", file.read_bytes()))
    return [(f"runs/{run_dir.name}/{name}", data) for name, data in members]


@contextlib.contextmanager
def _refused_if_unreadable(run_dir: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, Unreadable) as error:
        raise StoreError("corrupt", f"Run {run_dir.name}: {error}.", "It cannot be exported.") from error


def read_rows(run_dir: Path, row: str) -> pa.Table | None:
    """Every row of a type from the spool, text in place of dictionaries, one chunk; None without a file.

    Raises:
        StoreError: the spool is damaged.
    """
    reader = SpoolReader(spool_path(run_dir, row))
    try:
        batches = [of_today(item.batch, row) for item in reader.read()]
    except (SpoolCorrupt, OSError, pa.ArrowException, KeyError) as error:
        reason = error.reason if isinstance(error, SpoolCorrupt) else str(error)
        raise StoreError(
            "corrupt", f"Run {run_dir.name}: {reason} in {row}.arrow.", "It cannot be exported."
        ) from error
    if not batches:
        return None
    return pa.Table.from_batches(batches).cast(plain_schema(row)).combine_chunks()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> dict[str, Any]:
    archive.writestr(zipfile.ZipInfo(name, DATE), data)
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def json_bytes(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
