"""One lab per store: a lock that dies with its holder."""

from __future__ import annotations

import time
from dataclasses import asdict

from filelock import FileLock, Timeout

from app.errors import LabError
from app.home import Home
from app.locks import LabAddress, LabFile, read_lab_file, running_lab
from app.server.client import page_address
from telemetry.json_file import write_json
from telemetry.process import own_identity


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
    try:
        return f"Open {page_address(lab)} (works once)" if lab else "Open its address"
    except LabError:
        return "Open the address it printed"
