"""Measuring what codecs cost in quality: a process of its own, its progress and its result in a folder.

    FOLDER/quality-spec.json  what is measured     FOLDER/quality.progress  a JSON line per step
    FOLDER/quality.json       the result: one file, there completely or not at all

The folder is a run's, so that the result is kept, restored and deleted with it, or one of its own under HOME/quality.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from app.errors import LabError
from app.rights import Right, needs
from app.runs.process import SOURCE_ROOT, worker_environment
from engine.config import EngineConfig, KVQuantization
from store.quality_file import MOST_BYTES, Quality
from telemetry.json_file import Unreadable, parse_as, plain, read_as, read_bounded
from telemetry.process import identity_of, is_alive
from telemetry.status import Fault, Identity, Share, Words

STANDARD: Mapping[str, KVQuantization] = {
    "int8": KVQuantization(codec="int8"),
    "fp8": KVQuantization(codec="fp8"),
    "int4": KVQuantization(codec="int4"),
    "kivi 4-bit": KVQuantization(codec="kivi", key_bits=4, value_bits=4),
    "kivi 2-bit": KVQuantization(codec="kivi"),
}
"""Measured side by side unless others are asked for."""

SPEC, PROGRESS, RESULT, PID = "quality-spec.json", "quality.progress", "quality.json", "quality-pid.json"


@dataclass(frozen=True)
class QualityProgress:
    """How far a measurement is."""

    phase: str
    share: float  # of the whole
    error: dict[str, Any] | None = None


class _Said(BaseModel):
    """One line of the progress file."""

    phase: Words = ""
    share: Share = 0.0
    error: Fault | None = None


def codecs_for(engine: EngineConfig, names: list[str] | None = None) -> dict[str, KVQuantization]:
    """The standard codecs by name (all, or those asked for), and the engine's own settings where they are other ones.

    Codecs that do not fit the engine's block size are left out.

    Raises:
        LabError: a name that is not a standard codec's.
    """
    wanted = list(STANDARD) if names is None else names
    unknown = [name for name in wanted if name not in STANDARD]
    if unknown:
        raise LabError(
            "no-codec",
            field="--codecs",
            value=unknown[0],
            message=f"There is no codec {unknown[0]!r} to measure.",
            mend=f"Known: {', '.join(STANDARD)}.",
        )
    codecs = {name: STANDARD[name] for name in wanted}
    own = engine.kv_quantization
    if own is not None and own not in codecs.values():
        codecs = {"as set": own, **codecs}
    return {
        name: asked for name, asked in codecs.items() if not asked.residual % engine.block_size or asked.codec != "kivi"
    }


@needs(Right.MEASURE)
def start(folder: Path, spec: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    """Begin to measure; an earlier result in the folder is replaced when the new one is there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / SPEC).write_text(json.dumps(spec, indent=1), encoding="utf-8")
    with (folder / PROGRESS).open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "engine.quality", str(folder / SPEC), str(folder / RESULT)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            cwd=SOURCE_ROOT,
            env=worker_environment(),
            start_new_session=True,
        )
    (folder / PID).write_text(json.dumps(identity_of(process.pid)), encoding="utf-8")
    return process


def spec_of(engine: EngineConfig, codecs: Mapping[str, KVQuantization], **sizes: int) -> dict[str, Any]:
    """What ``python -m engine.quality`` reads. ``sizes``: tokens, prompts, new_tokens, needle_tokens."""
    named = {name: asked.model_dump(mode="json") for name, asked in codecs.items()}
    plain = engine.model_copy(update={"kv_quantization": None})
    return {"engine": plain.model_dump(mode="json"), "codecs": named, **sizes}


def progress_of(folder: Path) -> QualityProgress | None:
    """How far the folder's measurement is; None where none was begun."""
    try:
        lines = read_bounded(folder / PROGRESS).decode("utf-8", "replace").splitlines()
    except (FileNotFoundError, Unreadable):
        return None
    latest = QualityProgress("starting", 0.0)
    for line in lines:
        try:
            said = parse_as(_Said, line.encode(), folder / PROGRESS)
        except Unreadable:
            continue
        if said.error is not None:
            return QualityProgress("failed", latest.share, plain(said.error))
        latest = QualityProgress(said.phase, said.share)
    return latest


def is_measuring(folder: Path) -> bool:
    """Whether the process that measures lives."""
    try:
        return is_alive(plain(read_as(Identity, folder / PID)))
    except (FileNotFoundError, Unreadable):
        return False


def result_in(folder: Path) -> dict[str, Any] | None:
    """The finished measurement as its file has it; None where there is none."""
    try:
        data = read_bounded(folder / RESULT, MOST_BYTES)
        parse_as(Quality, data, folder / RESULT)
    except (FileNotFoundError, Unreadable):
        return None
    return json.loads(data)


def new_folder(root: Path) -> Path:
    """A folder of its own for a measurement that belongs to no run."""
    return root / "quality" / time.strftime("%Y%m%d-%H%M%S", time.gmtime())
