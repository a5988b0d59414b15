"""The folder of converted models: each is written beside its place, hashed, and moved in whole.

A model is there completely or not at all. Two processes that want the same one take turns on a lock; what a killed
process left behind is swept away by the next. ``manifest.json`` holds every file's size and SHA-256: sizes are checked
at every start, hashes when asked for.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from engine.config.errors import EngineError
from engine.config.models import LAYOUT, MANIFEST, is_converted, models_dir, sha256


def ensure(name: str, fill: Callable[[Path], dict[str, Any]]) -> Path:
    """The directory of the converted model ``name``, made now where it is missing or damaged.

    Args:
        name: directory name, unique for the source's content.
        fill: given an empty directory, writes the files and returns what the manifest should say about their origin.

    Raises:
        EngineError: no room on the disk, or the folder cannot be written. Nothing half-written stays.
    """
    place = models_dir() / name
    if is_converted(place):
        return place
    partial = place.with_name(f".{name}.partial")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.with_name(f".{name}.lock")):
            if is_converted(place):  # another process has just made it
                return place
            for leftover in (partial, place):
                shutil.rmtree(leftover, ignore_errors=True)
            partial.mkdir()
            try:
                origin = fill(partial)
                _write_manifest(partial, origin)
                partial.rename(place)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
    except OSError as error:
        raise _cannot_write(place.parent, error) from error
    return place


def _write_manifest(directory: Path, origin: dict[str, Any]) -> None:
    files = {
        path.relative_to(directory).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    text = json.dumps({"layout": LAYOUT, "origin": origin, "files": files}, indent=1)
    (directory / MANIFEST).write_text(text)


def require_room(folder: Path, needed: int) -> None:
    """Raise where the disk under ``folder`` has fewer than ``needed`` bytes left."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise _disk_full(folder, f"Converting this model takes {needed / 1e6:.0f} MB; {free / 1e6:.0f} MB are free.")


def _disk_full(folder: Path, message: str) -> EngineError:
    return EngineError(
        "disk-full",
        "SERVESCOPE_CACHE",
        str(folder),
        message,
        "Free some space, or set SERVESCOPE_CACHE to a folder with more.",
    )


def _cannot_write(folder: Path, error: OSError) -> EngineError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _disk_full(folder, "The disk filled up while a model was being converted; nothing of it was kept.")
    return EngineError(
        "cache-unusable",
        "SERVESCOPE_CACHE",
        str(folder),
        f"The folder for converted models cannot be used: {error.strerror or error}.",
        "Make it writable, or set SERVESCOPE_CACHE to another folder.",
    )
