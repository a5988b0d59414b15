"""One lab per store, and how others find it: a lock that dies with its holder, and ``lab.json`` beside it."""

from __future__ import annotations

import secrets
import time
from dataclasses import asdict, dataclass
from typing import Annotated

from filelock import FileLock, Timeout
from pydantic import Field

from app.errors import LabError
from app.home import Home
from telemetry.jsonfile import Nanoseconds, Unreadable, plain, read_as, write_json
from telemetry.process import is_alive, own_identity
from telemetry.status import Identity, Label

DATABASE_WAIT_S = 20.0


@dataclass(frozen=True)
class LabAddress:
    """Where a lab answers, and the token its socket and API ask for (new at every start)."""

    host: str
    port: int
    token: str

    @classmethod
    def fresh(cls, host: str, port: int) -> LabAddress:
        return cls(host, port, secrets.token_urlsafe(32))

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


class LabFile(Identity):
    """``lab.json``: the address of the lab that is up, and the process it is."""

    host: Label
    port: Annotated[int, Field(ge=1, le=65_535)]
    token: Annotated[str, Field(min_length=1, max_length=400)]
    url: Label
    started_unix_ns: Nanoseconds


def read_lab_file(home: Home) -> LabFile | None:
    """What ``lab.json`` says; None where there is none, or one that cannot be read."""
    try:
        return read_as(LabFile, home.lab_file)
    except (FileNotFoundError, Unreadable):
        return None


class LabLock:
    """Held by the lab of a store as long as it lives. Raises ``LabError`` naming the other lab when there is one."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock = FileLock(home.locks / "lab.lock", thread_local=False)
        try:
            self._lock.acquire(blocking=False)
        except Timeout as error:
            raise self._taken() from error

    def publish(self, address: LabAddress) -> None:
        """Write ``lab.json`` (readable by this user only)."""
        about = asdict(address) | own_identity() | {"url": address.url, "started_unix_ns": time.time_ns()}
        write_json(self._home.lab_file, LabFile.model_validate(about), mode=0o600)

    def release(self) -> None:
        """Remove ``lab.json`` and let go."""
        self._home.lab_file.unlink(missing_ok=True)
        self._lock.release()

    def _taken(self) -> LabError:
        about, lab = read_lab_file(self._home), running_lab(self._home)
        who = "a lab that is just starting" if about is None else f"the lab at {about.url} (process {about.pid})"
        return LabError(
            "second-lab",
            field="SERVESCOPE_HOME",
            value=str(self._home.root),
            message=f"{self._home.root} is in use by {who}.",
            mend=f"{_how_to_open(lab)}, end that lab, or name another folder in SERVESCOPE_HOME.",
        )


def _how_to_open(lab: LabAddress | None) -> str:
    from app.server.client import page_address

    try:
        return f"Open {page_address(lab)} (works once)" if lab else "Open its address"
    except LabError:
        return "Open the address it printed"


def running_lab(home: Home) -> LabAddress | None:
    """The lab that is up on this store, if any."""
    about = read_lab_file(home)
    if about is None or not is_alive(plain(about)):
        return None
    return LabAddress(about.host, about.port, about.token)


def database_lock(home: Home, timeout_s: float = DATABASE_WAIT_S) -> FileLock:
    """The right to open the database, as a context manager. Raises ``LabError`` when another process keeps it."""
    lock = FileLock(home.locks / "database.lock", thread_local=False)
    try:
        lock.acquire(timeout=timeout_s)
    except Timeout as error:
        raise LabError(
            "database-busy",
            field="SERVESCOPE_HOME",
            value=str(home.database),
            message=f"Another ServeScope process has {home.database} open.",
            mend="Wait for it to end; servescope runs and show work meanwhile.",
        ) from error
    return lock
