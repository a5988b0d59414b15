"""How the lab of a store is found (``lab.json``), and who may open its database."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Annotated

from filelock import FileLock, Timeout
from pydantic import Field

from app.errors import LabError
from app.home import Home
from telemetry.json_file import Nanoseconds, Unreadable, plain, read_as
from telemetry.process import is_alive
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
