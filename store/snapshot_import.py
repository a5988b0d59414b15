"""Taking a snapshot in: checked whole, then put in place (``store.snapshot`` has the format)."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import re
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from store.errors import StoreError
from store.notes import Notes
from store.parquet_spool import ROWS_PER_BATCH, rebuild_spool, refused
from store.quality_file import MOST_BYTES as MOST_QUALITY_BYTES
from store.quality_file import Quality
from store.snapshot import FORMAT, FORMAT_VERSION, NOT_OURS, SCHEMA_VERSION, read_rows
from telemetry.damage import spool_sizes
from telemetry.folder import NOTES, QUALITY, RUN_ID, SPEC, STATUS, TELEMETRY_FOLDER
from telemetry.json_file import Unreadable, plain, read_as, write_json
from telemetry.limits import MOST_SPEC_BYTES
from telemetry.rows import ROW_TYPES
from telemetry.status import FINAL_STATES, RunStatus

MOST_MEMBERS = 10_000
MOST_JSON_BYTES = MOST_SPEC_BYTES
MOST_BYTES = 8 << 30  # of everything in the file, unpacked
MOST_RATIO = 400  # a member that unpacks to more than so many times its size is a bomb

BESIDE = (QUALITY, NOTES)  # of a run: what may be added to it after its end, and differ from lab to lab
MEMBER = re.compile(
    rf"manifest\.json|experiment/[a-z0-9-]{{1,40}}\.json|runs/{RUN_ID.pattern}/(spec|status|notes|quality)\.json"
    rf"|runs/{RUN_ID.pattern}/{TELEMETRY_FOLDER}/({'|'.join(ROW_TYPES)})\.parquet"
)
UNREADABLE: tuple[type[Exception], ...] = (
    pa.ArrowException,
    KeyError,
    TypeError,
    AttributeError,
    ValueError,
    OverflowError,
    RuntimeError,
    zlib.error,
    struct.error,
    lzma.LZMAError,
)

Check = Callable[[bytes], str]
"""Says which run a spec.json (or which experiment an experiment.json) belongs to; raises ValueError where it is none."""


@dataclass(frozen=True)
class Imported:
    """What an import brought: runs that are new, runs that were there already, the experiment if there is one.

    ``taken`` and ``kept``: what stands beside the rows of runs that were there already, as (run or experiment, file). Taken is what was
    missing here; kept as it was here is what the snapshot has with other content.
    """

    runs: tuple[str, ...]
    known: tuple[str, ...]
    experiment_id: str | None
    taken: tuple[tuple[str, str], ...] = ()
    kept: tuple[tuple[str, str], ...] = ()

    @property
    def changed(self) -> tuple[str, ...]:
        """Runs of which something is new."""
        taken = (owner for owner, _ in self.taken if owner != self.experiment_id)
        return tuple(dict.fromkeys([*self.runs, *taken]))


def import_snapshot(
    file: Path, runs_dir: Path, experiments_dir: Path, staging: Path, check_spec: Check, check_experiment: Check
) -> Imported:
    """Check a snapshot whole, then put its runs in place. ``staging``: a folder on the same file system.

    A run that is here already gets what it lacks beside its rows (measured quality, notes); nothing that is here is replaced.

    Raises:
        StoreError: it is no snapshot, truncated, altered, too large, from a newer version, names paths of its own, or
            holds a run that is here already with other content. Nothing has changed then.
    """
    try:
        with zipfile.ZipFile(file) as archive, tempfile.TemporaryDirectory(dir=staging, prefix=".import-") as folder:
            manifest = _checked_manifest(archive)
            _check_sizes(archive, manifest, shutil.disk_usage(staging).free)
            for name in manifest["members"]:
                _unpack(archive, name, manifest["members"][name], Path(folder))
            return _put_in_place(Path(folder), manifest, runs_dir, experiments_dir, check_spec, check_experiment)
    except (zipfile.BadZipFile, EOFError, zipfile.LargeZipFile, NotImplementedError) as error:
        raise refused(
            f"it is no whole zip file ({error})", "Fetch it again; only a .servescope file can be imported."
        ) from error
    except UNREADABLE as error:
        raise refused(f"something in it cannot be read ({type(error).__name__})", "Fetch it again.") from error


def _checked_manifest(archive: zipfile.ZipFile) -> dict[str, Any]:
    """The manifest, once the archive's list of names agrees with it."""
    infos = archive.infolist()
    names = [info.filename for info in infos]
    if len(infos) > MOST_MEMBERS:
        raise refused(f"it has {len(infos)} members", "A snapshot has far fewer.")
    strange = next((name for name in names if not MEMBER.fullmatch(name)), None)
    if strange is not None:
        raise refused(f"it names a path that no snapshot has: {strange[:80]!r}", "Do not trust this file.")
    if len(set(names)) != len(names):
        raise refused("a name occurs twice in it", "Do not trust this file.")
    if "manifest.json" not in names:
        raise refused("it has no manifest", "Is it a snapshot of ServeScope?")
    info = archive.getinfo("manifest.json")
    if info.file_size > MOST_JSON_BYTES or info.compress_type != zipfile.ZIP_STORED:
        raise refused("its manifest is too large", "Do not trust this file.")
    text = archive.read(info)
    if hashlib.sha256(text).hexdigest().encode() != archive.comment:
        raise refused("its manifest was altered", "Fetch it again.")
    try:
        manifest = json.loads(text)
    except ValueError as error:
        raise refused("its manifest is no JSON", "Fetch it again.") from error
    if manifest["format"] != FORMAT:
        raise refused("it is no snapshot of ServeScope", "Is it the right file?")
    if manifest["format_version"] > FORMAT_VERSION or manifest["schema_version"] > SCHEMA_VERSION:
        raise StoreError("newer", "The snapshot was written by a newer ServeScope.", "Import it with that version.")
    if set(names) != {"manifest.json", *manifest["members"]}:
        raise refused("its members are not those of its manifest", "Fetch it again.")
    return manifest


def _check_sizes(archive: zipfile.ZipFile, manifest: Mapping[str, Any], free: int) -> None:
    """Refuse what would unpack to more than it may, before anything is unpacked."""
    total = 0
    for info in archive.infolist():
        stated = manifest["members"].get(info.filename, {"bytes": info.file_size})["bytes"]
        if info.file_size != stated:
            raise refused(f"{info.filename} has another size than its manifest says", "Fetch it again.")
        if info.file_size > MOST_RATIO * max(1, info.compress_size):
            raise refused(f"{info.filename} would unpack to {info.file_size:,} bytes", "Do not trust this file.")
        if info.filename.endswith(".json") and info.file_size > MOST_JSON_BYTES:
            raise refused(f"{info.filename} is too large", "Do not trust this file.")
        total += info.file_size
    if total > MOST_BYTES:
        raise refused(f"it would unpack to {total:,} bytes", "Do not trust this file.")
    if 3 * total > free:
        raise StoreError("space", f"The snapshot needs {3 * total:,} bytes of disk, {free:,} are free.", "Make room.")


def _unpack(archive: zipfile.ZipFile, name: str, stated: Mapping[str, Any], folder: Path) -> None:
    """One member into the folder, its bytes counted and hashed on the way."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, left = hashlib.sha256(), int(stated["bytes"])
    with archive.open(name) as source, path.open("wb") as target:
        while chunk := source.read(1 << 20):
            left -= len(chunk)
            if left < 0:
                raise refused(f"{name} is larger than it says", "Do not trust this file.")
            digest.update(chunk)
            target.write(chunk)
    if left or digest.hexdigest() != stated["sha256"]:
        raise refused(f"{name} was altered", "Fetch it again.")


def _put_in_place(
    folder: Path,
    manifest: Mapping[str, Any],
    runs_dir: Path,
    experiments_dir: Path,
    check_spec: Check,
    check_experiment: Check,
) -> Imported:
    run_ids = [str(run_id) for run_id in manifest["runs"]]
    unpacked = sorted(path.name for path in (folder / "runs").iterdir()) if (folder / "runs").is_dir() else []
    if unpacked != sorted(run_ids) or not run_ids:
        raise refused("its runs are not those of its manifest", "Fetch it again.")
    for run_id in run_ids:
        _check_run(folder / "runs" / run_id, check_spec)
        _rebuild(folder / "runs" / run_id)
    known = [run_id for run_id in run_ids if (runs_dir / run_id).exists()]
    for run_id in known:
        if not _same_run(folder / "runs" / run_id, runs_dir / run_id):
            raise refused(f"run {run_id} is here already with other content", "Delete that run first.")
    experiment_id = manifest["experiment_id"]
    if (experiment_id is not None) != (folder / "experiment").is_dir():
        raise refused("its experiment is not that of its manifest", "Fetch it again.")
    if experiment_id is not None:
        _check_experiment(folder / "experiment" / "experiment.json", str(experiment_id), check_experiment)
    fresh = [run_id for run_id in run_ids if run_id not in known]
    places = {run_id: (folder / "runs" / run_id, runs_dir / run_id) for run_id in known}  # in the file, here
    beside = [(run_id, name) for run_id in known for name in BESIDE]
    if experiment_id is not None and (experiments_dir / str(experiment_id)).exists():
        places[str(experiment_id)] = (folder / "experiment", experiments_dir / str(experiment_id))
        beside += [(str(experiment_id), NOTES), (str(experiment_id), "experiment.json")]
    there = [(owner, name) for owner, name in beside if (places[owner][0] / name).exists()]
    taken = [(owner, name) for owner, name in there if not (places[owner][1] / name).exists()]
    kept = [(owner, name) for owner, name in there if _differ(*(place / name for place in places[owner]))]
    moved: list[Path] = []
    try:
        for run_id in fresh:
            (folder / "runs" / run_id).rename(runs_dir / run_id)
            moved.append(runs_dir / run_id)
        for owner, name in taken:
            source, target = (place / name for place in places[owner])
            source.rename(target)
            moved.append(target)
        if experiment_id is not None and not (experiments_dir / experiment_id).exists():
            (folder / "experiment").rename(experiments_dir / experiment_id)
    except OSError:
        for path in moved:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        raise
    return Imported(tuple(fresh), tuple(known), experiment_id, tuple(taken), tuple(kept))


def _differ(one: Path, other: Path) -> bool:
    """Whether both files are there, with other content."""
    try:
        return one.read_bytes() != other.read_bytes()
    except FileNotFoundError:
        return False


def _check_experiment(path: Path, experiment_id: str, check: Check) -> None:
    try:
        named = check(path.read_bytes())
        if (path.parent / NOTES).exists():
            read_as(Notes, path.parent / NOTES)
    except (OSError, ValueError) as error:
        raise refused(f"its experiment cannot be read ({error})", "Fetch it again.") from error
    if named != experiment_id or not RUN_ID.fullmatch(experiment_id):
        raise refused("its experiment is not that of its manifest", "Do not trust this file.")


def _check_run(run_dir: Path, check_spec: Check) -> None:
    """Every file beside the rows through its model. Raises StoreError naming the file, the place in it and what is wrong there."""
    try:
        named = check_spec((run_dir / SPEC).read_bytes())
        status = read_as(RunStatus, run_dir / STATUS)
        if (run_dir / NOTES).exists():
            read_as(Notes, run_dir / NOTES)
        if (run_dir / QUALITY).exists():
            read_as(Quality, run_dir / QUALITY, MOST_QUALITY_BYTES)
    except (OSError, ValueError) as error:
        reason = str(error) if isinstance(error, Unreadable) else f"{SPEC} cannot be read"
        raise refused(f"of run {run_dir.name}, {reason}", "Do not trust this file.") from error
    if named != run_dir.name:
        raise refused(f"the spec in {run_dir.name} is that of {named!r}", "Do not trust this file.")
    if status.state not in FINAL_STATES or status.model_fields_set & set(NOT_OURS):
        raise refused(f"the status of {run_dir.name} is not that of a run that is over", "Do not trust this file.")


def _rebuild(run_dir: Path) -> None:
    """The run's rows as a spool, and a status that states how large its files are here."""
    rebuild_spool(run_dir)
    status = plain(read_as(RunStatus, run_dir / STATUS))
    write_json(run_dir / STATUS, status | {"spool": spool_sizes(run_dir)})


def _same_run(one: Path, other: Path) -> bool:
    """Whether two runs hold the same spec and rows."""
    if (one / "spec.json").read_bytes() != (other / "spec.json").read_bytes():
        return False
    for row in ROW_TYPES:
        mine, theirs = read_rows(one, row), read_rows(other, row)
        if (mine is None) != (theirs is None):
            return False
        if mine is not None and theirs is not None and _rows_digest(mine) != _rows_digest(theirs):
            return False
    return True


def _rows_digest(table: pa.Table) -> str:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="none", row_group_size=ROWS_PER_BATCH, store_schema=False)
    return hashlib.sha256(sink.getbuffer()).hexdigest()
