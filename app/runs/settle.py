"""How a run that left no result of its own is settled: one readable sentence, and where to read more."""

from __future__ import annotations

import contextlib
import shutil
import signal
from pathlib import Path

from app.home import Home
from app.runs.process import LOG, log_tail
from telemetry.folder import TIERS_FOLDER
from telemetry.process import is_alive
from telemetry.refusal import error_object
from telemetry.status import ACTIVE_STATES, Status, end_for, is_final, read_status, state


def settle(run_dir: Path, *, exit_code: int | None, cancelled: bool) -> Status:
    """Give the run a final state if its worker did not: ``cancelled`` when that was asked for, by whomever, else
    ``crashed``.
    """
    shutil.rmtree(run_dir / TIERS_FOLDER, ignore_errors=True)  # what a killed worker could not delete
    status = read_status(run_dir)
    if is_final(status):
        return status
    return end_for(run_dir, _error(run_dir, exit_code), cancelled=cancelled)


def settle_orphans(home: Home) -> None:
    """Settle runs whose engine process is gone and which nobody looks after any more."""
    for run_id in home.run_ids():
        run_dir = home.run_dir(run_id)
        status = read_status(run_dir)
        orphan = state(status) in ACTIVE_STATES and not is_alive(status) and not is_alive(status.get("supervisor"))
        if orphan:
            with contextlib.suppress(OSError):  # looking at runs must be possible where nothing can be written
                settle(run_dir, exit_code=None, cancelled=False)


def _error(run_dir: Path, exit_code: int | None) -> Status:
    tail = log_tail(run_dir)
    last = tail[-1] if tail and tail[-1] != "ready" else ""
    message = f"The engine process {_how_it_ended(exit_code)} before the run was done."
    if last and exit_code != -signal.SIGKILL:
        message += f" The last line of its log: {last[:300]}"
    error = error_object("crashed", "run", run_dir.name, message, _mend(exit_code, run_dir))
    return error | {"log": str(run_dir / LOG), "log_tail": tail}


def _how_it_ended(exit_code: int | None) -> str:
    if exit_code is None:
        return "disappeared"
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    return f"was ended by {name}"


def _mend(exit_code: int | None, run_dir: Path) -> str:
    if exit_code in (None, -signal.SIGKILL):
        return (
            "What it had written is kept. If nobody killed it, the system probably ran out of memory: "
            "try a smaller model, fewer KV blocks or fewer requests at once."
        )
    return f"What it had written is kept. The whole log is in {run_dir / LOG}"
