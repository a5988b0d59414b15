"""``RUN_DIR/status.json``: what the engine process says of itself to whoever started it."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from telemetry.process import own_identity


class StatusFile:
    """Writes the run's state, by rename, so that a reader never sees half of it.

    What changes while it serves is asked for by a thread every ``interval_s`` seconds, so the engine thread does no I/O.
    """

    def __init__(self, run_dir: Path, run_id: str, *, interval_s: float = 0.25) -> None:
        self._path = run_dir / "status.json"
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._state: dict[str, Any] = {
            "state": "starting",
            "run_id": run_id,
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
            self._state.update(changes)
            self._state["updated_unix_ns"] = time.time_ns()
            temporary = self._path.with_name(f".status.{os.getpid()}.tmp")
            try:
                temporary.write_text(json.dumps(self._state))
                temporary.replace(self._path)
            except OSError:
                temporary.unlink(missing_ok=True)

    def follow(self, changes: Callable[[], dict[str, Any]]) -> None:
        """Start writing ``changes()`` at every interval."""

        def loop() -> None:
            while not self._stop.wait(self._interval_s):
                self.update(**changes())

        self._thread = threading.Thread(target=loop, name="status", daemon=True)
        self._thread.start()

    def close(self, state: str, **changes: Any) -> None:
        """Write the final state."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.update(state=state, ended_unix_ns=time.time_ns(), in_flight=None, **changes)
