"""``status.json``: what a run says of itself (keys: ``docs/architecture.md``). The one home of its states and of how it is read and written.

The supervisor writes it until the engine process takes over, and again when that process left without a last word. Whoever reads
it gets what ``RunStatus`` accepts. A file that it does not accept ends the run for everybody who looks: the state is ``crashed``, the
error says what is wrong with the file, and nothing is served again on its account.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from telemetry.folder import STATUS as FILE
from telemetry.folder import TELEMETRY_FOLDER, WORKER_LOG
from telemetry.json_file import Count, Nanoseconds, Unreadable, plain, read_as, write_json
from telemetry.limits import MOST_REQUESTS
from telemetry.process import is_alive, own_identity
from telemetry.refusal import error_object

ACTIVE_STATES = frozenset({"starting", "loading", "running"})
FINAL_STATES = frozenset({"finished", "failed", "cancelled", "crashed"})
PASSING = frozenset({"progress", "in_flight"})  # soon replaced: need not reach the disk
CANCEL_ASKED = "cancel-asked"  # a file beside the status
LABEL_UNREADABLE = "status unreadable"
LABEL_DAMAGED = "telemetry damaged"
LABEL_INCOMPLETE = "telemetry incomplete"
LABEL_UNFINISHED = "unfinished"
LABEL_DISTURBED = "disturbed"
"""The label of a run whose times say less than they seem to, for others disturbed it (``store.machine`` says when)."""

Status = dict[str, Any]
"""A status as ``RunStatus`` accepts it, with the keys that are there."""

State = Literal["queued", "starting", "loading", "running", "finished", "failed", "cancelled", "crashed"]
Requests = Annotated[int, Field(ge=0, le=MOST_REQUESTS)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Words = Annotated[str, Field(max_length=20_000)]
Label = Annotated[str, Field(max_length=400)]
Labels = Annotated[list[Label], Field(max_length=100)]
Number = Annotated[float, Field(allow_inf_nan=False)] | Annotated[int, Field(ge=-(2**63), lt=2**63)] | None


def _scalar(value: Any) -> Any:
    """A value that was refused, as JSON has it: numbers and short texts as they are, anything else as text."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    return str(value)[:20_000]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class Identity(_Part):
    """A process, as ``telemetry.process`` names one."""

    pid: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    process_start_ticks: Nanoseconds | None = None
    boot_id: Annotated[str, Field(max_length=100)] | None = None
    process_start_unix: float | None = None  # of earlier versions


class Progress(_Part):
    """How far the run is; further counts are welcome as numbers."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Number]

    requests_total: Requests | None = None
    requests_done: Requests = 0
    iterations: Count = 0
    output_tokens: Count = 0
    kv_used_share: Share = 0.0
    running: Count = 0
    waiting: Count = 0
    phase: Words = ""
    phase_share: Share = 0.0


class Fault(_Part):
    """Why a run did not finish, for people."""

    kind: Words = ""
    field: Words | None = None
    value: Annotated[str | bool | int | float | None, BeforeValidator(_scalar)] = None
    message: Words = ""
    mend: Words = ""
    log: Words | None = None
    log_tail: Annotated[list[Words], Field(max_length=100)] | None = None


class RequestCounts(_Part):
    total: Requests | None = None
    finished: Requests | None = None
    failed: Requests | None = None
    cancelled: Requests | None = None


class Refused(_Part):
    """A request that was not served, and why."""

    request_id: Words = ""
    error: Words = ""


Errors = Annotated[list[Annotated[float, Field(ge=0)]], Field(max_length=10_000)]


class TierCodec(_Part):
    """What a codec of the disk tier did with the blocks that it encoded: sizes, times, relative errors by layer."""

    blocks: Count = 0
    bytes: Count = 0
    stored_bytes: Count = 0
    encode_ns: Nanoseconds = 0
    decode_ns: Nanoseconds = 0
    key_error: Errors = []
    value_error: Errors = []


class Summary(_Part):
    """Totals the engine counted itself; further ones are welcome as numbers."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Number]

    requests: RequestCounts = RequestCounts()
    iterations: Count | None = None
    output_tokens: Count | None = None
    prompt_tokens: Count | None = None
    duration_s: Annotated[float, Field(ge=0)] | None = None
    preemptions: Count | None = None
    prefix_hit_tokens: Count | None = None
    draft_tokens: Count | None = None
    accepted_tokens: Count | None = None
    speculation: dict[str, Number] | None = None
    tier_problem: Words | None = None
    tier_codec: TierCodec | None = None
    refused: Annotated[list[Refused], Field(max_length=100)] = []
    kv_capacity_tokens: Count | None = None
    peak_kv_tokens: Count | None = None
    output_digest: Label | None = None
    workload_hash: Label | None = None


class RunStatus(Identity):
    """The whole file."""

    state: State
    run_id: Annotated[str, Field(max_length=64)] = ""
    supervisor: Identity | None = None
    queued_unix_ns: Nanoseconds | None = None
    queue_place: Nanoseconds | None = (
        None  # where it stands among waiting runs, if somebody moved it; else when it came
    )
    started_unix_ns: Nanoseconds | None = None
    updated_unix_ns: Nanoseconds | None = None
    ended_unix_ns: Nanoseconds | None = None
    progress: Progress | None = None
    in_flight: dict[str, JsonValue] | None = None  # as ``store.in_flight`` reads it
    error: Fault | None = None
    labels: Labels = []
    summary: Summary | None = None
    spool: dict[str, Count] | None = None  # row type -> bytes of its file, once nothing more is written


def state(status: Status) -> str:
    return str(status.get("state", "queued"))


def is_final(status: Status) -> bool:
    return state(status) in FINAL_STATES


def read_status(run_dir: Path) -> Status:
    """The run's status. Without a file the run waits to be served, unless something was recorded of it already."""
    try:
        return plain(read_as(RunStatus, run_dir / FILE))
    except FileNotFoundError:
        if not (run_dir / TELEMETRY_FOLDER).exists() and not (run_dir / WORKER_LOG).exists():
            return {"state": "queued", "run_id": run_dir.name}
        return _unreadable(run_dir, f"{FILE} is missing")
    except Unreadable as error:
        return _unreadable(run_dir, str(error))


def write_status(run_dir: Path, **changes: Any) -> Status:
    """Merge ``changes`` into the status and write it. Only for whoever owns the run at that moment.

    Raises OSError where the disk refuses, ``pydantic.ValidationError`` for what no status may hold.
    """
    status = read_status(run_dir) | {"run_id": run_dir.name, "updated_unix_ns": time.time_ns()} | changes
    return replace_status(run_dir, status)


def replace_status(run_dir: Path, status: Status, *, durable: bool = True) -> Status:
    """Write a whole status; returns it as it was written. Raises as ``write_status`` does."""
    checked = plain(RunStatus.model_validate(status))
    write_json(run_dir / FILE, checked, durable=durable)
    return checked


def end_for(run_dir: Path, error: Status, *, cancelled: bool = False) -> Status:
    """Write the end of a run whose process left none: ``cancelled`` where somebody asked for that, else ``crashed`` with ``error``.

    ``cancelled``: whoever writes it knows that it was asked for, also where a full disk would not take the note.
    """
    status, ended = read_status(run_dir), time.time_ns()
    if cancelled or is_unwanted(run_dir):
        return write_status(run_dir, state="cancelled", ended_unix_ns=ended)
    labels = list(dict.fromkeys([*status.get("labels", []), LABEL_UNFINISHED]))
    return write_status(run_dir, state="crashed", error=error, ended_unix_ns=ended, labels=labels)


def end_orphan(run_dir: Path) -> bool:
    """Write the end of a run that says it is under way while its process is gone; whether it did.

    A run whose status names no process is left to whoever is starting it.
    """
    if not _is_orphan(read_status(run_dir)):
        return False
    if not _is_orphan(read_status(run_dir)):  # the process may have written its end and left between the two looks
        return False
    end_for(run_dir, CRASHED)
    return True


def ask_for_end(run_dir: Path) -> None:
    """Note in the run's folder that it is to be cancelled, so that whoever finds it ended calls that by its name."""
    with contextlib.suppress(OSError):  # the run is ended all the same; only whoever serves it may call that a crash
        (run_dir / CANCEL_ASKED).touch(mode=0o600)


def is_unwanted(run_dir: Path) -> bool:
    """Whether somebody asked for the run to be cancelled."""
    return (run_dir / CANCEL_ASKED).exists()


CRASHED = error_object(
    "crashed",
    "run",
    None,
    "The engine process ended without saying why (it was killed, or the machine went down).",
    "See worker.log in the run's folder; what was recorded until then is kept.",
)


def _is_orphan(status: Status) -> bool:
    return status.get("state") in ACTIVE_STATES and "pid" in status and not is_alive(status)


def _unreadable(run_dir: Path, reason: str) -> Status:
    """What a run says whose status cannot be told any more: it is over, and why."""
    mend = f"What it recorded is kept. Remove it with: servescope delete {run_dir.name}"
    error = error_object("bad-status", FILE, None, f"{reason}.", mend)
    return {"state": "crashed", "run_id": run_dir.name, "labels": [LABEL_UNREADABLE], "error": error}


class StatusFile:
    """The engine process's hand on its run's status.

    What changes while it serves is asked for by a thread every ``interval_s`` seconds, so the engine thread does no I/O.
    """

    def __init__(self, run_dir: Path, *, interval_s: float = 0.25) -> None:
        self._run_dir = run_dir
        self._interval_s = interval_s
        self._lock = Lock()
        self._stop = Event()
        self._thread: Thread | None = None
        self._state: Status = {
            "state": "starting",
            "run_id": run_dir.name,
            **own_identity(),
            "started_unix_ns": time.time_ns(),
            "ended_unix_ns": None,
            "progress": {},
            "in_flight": None,
            "error": None,
            "labels": [],
            "summary": None,
        }

    @property
    def labels(self) -> list[str]:
        return list(self._state["labels"])

    def update(self, **changes: Any) -> None:
        """Change keys of the state and write it. A disk that refuses is not the engine's trouble: the next write tries again."""
        with self._lock:
            changed = self._state | changes | {"updated_unix_ns": time.time_ns()}
            with contextlib.suppress(OSError):
                replace_status(self._run_dir, changed, durable=not changes.keys() <= PASSING)
            self._state = changed

    def follow(self, changes: Callable[[], dict[str, Any]]) -> None:
        """Start writing ``changes()`` at every interval."""

        def loop() -> None:
            while not self._stop.wait(self._interval_s):
                self.update(**changes())

        self._thread = Thread(target=loop, name="status", daemon=True)
        self._thread.start()

    def close(self, state: str, **changes: Any) -> None:
        """Write the final state."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.update(state=state, ended_unix_ns=time.time_ns(), in_flight=None, **changes)
