"""Watching an engine from the page: ``servescope attach`` in a process of its own, for the lab's owner alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from app.attach.address import watched_at
from app.home import ENV, Home
from app.rights import Right, needs
from app.runs.process import SOURCE_ROOT, worker_environment
from scenarios.build import new_run_id

KEY_VARIABLE = "SERVESCOPE_ENDPOINT_KEY"
_launched: dict[str, subprocess.Popen[bytes]] = {}  # by this process, by run


@needs(Right.START)
def launch(
    home: Home, url: str, kv_events: str = "", fpm: str = "", kv_replay: str = "", spans: int | None = None
) -> str:
    """Begin to watch an engine on this machine; the id of the run that is to come.

    Raises ``LabError`` for an address that is none, lies elsewhere, or is named by a viewer.
    """
    watched = watched_at(url, kv_events, fpm, kv_replay, spans)
    run_id = new_run_id()
    options = ["--run-id", run_id]
    options += ["--kv-events", watched.kv_events] if watched.kv_events else []
    options += ["--kv-replay", watched.kv_replay] if watched.kv_replay else []
    options += ["--fpm", watched.fpm] if watched.fpm else []
    options += [] if watched.spans is None else ["--spans", str(watched.spans)]
    for old in home.spare.glob("attach-*.log"):
        old.unlink(missing_ok=True)
    with log_of(home, run_id).open("xb") as output:
        _launched[run_id] = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "attach", *options, "--", watched.url],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=SOURCE_ROOT,
            env={k: v for k, v in worker_environment().items() if k != KEY_VARIABLE} | {ENV: str(home.root)},
            start_new_session=True,
        )
    return run_id


def has_failed(run_id: str) -> bool:
    """Whether a watch that was launched here has ended."""
    process = _launched.get(run_id)
    return process is None or process.poll() is not None


def log_of(home: Home, run_id: str) -> Path:
    """What a launched watch says."""
    return home.spare / f"attach-{Path(run_id).name}.log"
