"""What can end a run, as the ``error`` object of ``status.json``."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import ValidationError

from engine import finite
from engine.config.errors import EngineError, IntegrityError
from telemetry.folder import SPEC
from telemetry.json_file import Unreadable
from telemetry.refusal import error_object

SEE_LOG = "See worker.log in the run's folder."


def describe(error: Exception) -> dict[str, Any]:
    """The ``error`` object of status.json for anything that can end a run."""
    if isinstance(error, EngineError):
        return error.as_dict()
    if isinstance(error, Unreadable):
        if not isinstance(error.__cause__, ValidationError):
            return error_object("bad-spec", SPEC, None, f"{error}.", "Start the run again from its scenario.")
        error = error.__cause__
    if isinstance(error, ValidationError):
        return _bad_spec(error)
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        mend = "Set kv_blocks, max_num_seqs or max_num_batched_tokens lower, or choose a smaller model."
        return error_object("out-of-memory", "device", None, "The device ran out of memory.", mend)
    if isinstance(error, RuntimeError) and ("CUDA error" in str(error) or "Triton Error [CUDA]" in str(error)):
        message = f"The GPU stopped answering: {str(error).splitlines()[0]}"[:500]
        mend = "Look at the driver (nvidia-smi) and run again; the rows up to here are kept."
        return error_object("device-lost", "device", None, message, mend)
    if isinstance(error, OSError):
        message = f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
        return error_object("io", "file", str(error.filename or ""), message, SEE_LOG)
    kind = "integrity" if isinstance(error, IntegrityError) else "internal"
    return error_object(kind, "engine", None, f"{type(error).__name__}: {error}"[:500], SEE_LOG)


def stopped(reason: str) -> dict[str, Any]:
    """A run that was ended before its end: by a person, or by its time limit."""
    return error_object(reason, "run", None, "Stopped before its end.", "")


def unrecorded(problem: str) -> dict[str, Any]:
    """A run that was served, and whose rows could not all be written."""
    return error_object("telemetry", "recording", None, problem, "Free disk space, or record less.")


def state_of(error: dict[str, Any]) -> str:
    """The run's state after such an error: ``crashed`` where a process of it is gone without a word."""
    return "crashed" if error["kind"] == "crashed" else "failed"


def labels_of(error: dict[str, Any]) -> list[str]:
    """What a failure makes of a run's rows, for as long as they are shown."""
    labels = {finite.KIND: [finite.LABEL], "crashed": ["unfinished"]}
    return labels.get(error["kind"], [])


def labels_of_summary(summary: dict[str, Any]) -> list[str]:
    """What a run could not do as asked, which only its end shows."""
    labels = ["host memory full"] if summary.get("swap_fallbacks") else []
    if summary.get("tier_damaged"):
        labels.append("damaged tier files")
    if summary.get("tier_problem"):
        labels.append("disk tier not written")
    return labels


def _bad_spec(error: ValidationError) -> dict[str, Any]:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "spec"
    value = first.get("input")
    text = value if isinstance(value, str | int | float | bool) else type(value).__name__
    return error_object("bad-spec", field, text, first["msg"], "Correct this value in spec.json.")
