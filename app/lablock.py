"""One lab per store, and how others find it: a lock that dies with its holder, and ``lab.json`` beside it."""

from __future__ import annotations

import secrets
import time
from dataclasses import asdict, dataclass

from filelock import FileLock, Timeout

from app.errors import LabError
from app.home import Home, read_json, write_json
from telemetry.process import is_alive, own_identity

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
        write_json(self._home.lab_file, about, mode=0o600)

    def release(self) -> None:
        """Remove ``lab.json`` and let go."""
        self._home.lab_file.unlink(missing_ok=True)
        self._lock.release()

    def _taken(self) -> LabError:
        about = read_json(self._home.lab_file) or {}
        who = f"the lab at {about['url']} (process {about['pid']})" if "url" in about else "a lab that is just starting"
        return LabError(
            "second-lab",
            field="SERVESCOPE_HOME",
            value=str(self._home.root),
            message=f"{self._home.root} is in use by {who}.",
            mend="Open that address, end that lab, or name another folder in SERVESCOPE_HOME.",
        )


def running_lab(home: Home) -> LabAddress | None:
    """The lab that is up on this store, if any."""
    about = read_json(home.lab_file)
    if about is None or not is_alive(about):
        return None
    try:
        return LabAddress(str(about["host"]), int(about["port"]), str(about["token"]))
    except (KeyError, ValueError):
        return None


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
