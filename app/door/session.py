"""The run behind the door: a run like any other, served by the lab's queue where a lab is up, else supervised here."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from app.errors import LabError
from app.home import Home, checked_run_id
from app.locks import LabAddress, running_lab
from app.runs.folder import SHARED, create_run
from app.runs.queue import RunQueue
from app.server.client import call
from engine.config import EngineConfig, RunSpec, apply_overrides
from scenarios.build import new_run_id
from telemetry.process import own_identity
from telemetry.status import Status, is_final, read_status

SERVED = "served to clients"
WARM = "warm prefix cache"
"""The label of a run whose requests may find what other clients' requests left in the cache."""


def served_spec(
    settings: dict[str, str], *, keep_text: bool = False, run_id: str = "", shared: bool = False
) -> RunSpec:
    """The run of a door with ``KEY=VALUE`` settings; ``shared``: it may be open while another run holds its
    device. Raises ``ConfigError`` for a wrong one, ``LabError`` for one that
    cannot be at a door.
    """
    if run_id:
        checked_run_id(run_id)
    engine = apply_overrides(EngineConfig(), {"keep_text": "on" if keep_text else "off"} | settings)
    if engine.recording == "off":
        raise LabError(
            "bad-setting",
            field="recording",
            value="off",
            message="A session at the door is recorded, iteration by iteration.",
            mend="Take recording=full or recording=iterations.",
        )
    model = Path(engine.model).expanduser()
    if model.exists():
        engine = engine.model_copy(update={"model": str(model.resolve())})
    now = time.time_ns()
    return RunSpec(
        run_id=run_id or new_run_id(),
        scenario="served",
        title="Open to clients",
        served=True,
        engine=engine,
        labels=(SERVED, *([WARM] if engine.prefix_sharing is not None else []), *([SHARED] if shared else [])),
        created_unix_ns=now,
        asked_unix_ns=now,
    )


class Session:
    """One run, from its folder to its end. ``look`` often; not from several threads at once."""

    def __init__(self, home: Home, spec: RunSpec, say: Callable[[str], None] = print) -> None:
        """Queue the run. Raises ``LabError`` where the disk is full."""
        self.run_dir = home.run_dir(spec.run_id)
        self._home = home
        self._run_id = spec.run_id
        self._say = say
        self._queue: RunQueue | None = None
        self._lab: LabAddress | None = running_lab(home)
        home.require_space()
        if self._lab is None:
            create_run(home, spec, supervisor=own_identity())
            self._supervise()
        else:
            create_run(home, spec)
            call(self._lab, "POST", "/runs", {"run_id": spec.run_id})
            say(f"The lab at {self._lab.url} shows this session: {self._lab.url}/?run={spec.run_id}")

    @property
    def status(self) -> Status:
        return read_status(self.run_dir)

    @property
    def is_over(self) -> bool:
        """Whether the run has its final state and nobody here is at it any more."""
        return is_final(self.status) and not (self._queue is not None and self._queue.running())

    def look(self) -> None:
        """Do what the run's supervisor has to do now."""
        if self._queue is None and running_lab(self._home) is None:
            self._say("The lab is gone; this command looks after the session from here.")
            self._supervise()
        if self._queue is not None:
            self._queue.tick()

    def cancel(self) -> None:
        """Ask the engine to end now."""
        if self._queue is not None:
            self._queue.cancel(self._run_id)
        elif self._lab is not None:
            call(self._lab, "POST", f"/runs/{self._run_id}/cancel")

    def _supervise(self) -> None:
        self._queue = RunQueue(self._home, only=self._run_id)
        self._queue.enqueue(self._run_id)
