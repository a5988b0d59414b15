"""The prefill half of a run in two processes: ``python -m engine.prefill_half RUN_DIR LINE FILE``.

The decode half (``engine.worker``) starts it. LINE and FILE are descriptors that it inherits: a socket to talk on, and
memory for its KV pool. It ends when the socket is closed, however that comes about.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import traceback
from pathlib import Path

from engine.config import RunSpec, load_plugins
from engine.failures import describe
from engine.halves.line import Failed, HalfLost, Line
from engine.start.halves import half_of, serve_prefills
from engine.start.prepare import prepare
from engine.start.warmup import warm_up
from telemetry.folder import SPEC
from telemetry.json_file import read_as
from telemetry.limits import MOST_SPEC_BYTES

PR_SET_PDEATHSIG = 1  # of Linux's prctl


def main(arguments: list[str]) -> int:
    run_dir, number, file = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    parent = os.getppid()
    _die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the decode half hears it, too
    signal.signal(signal.SIGTERM, lambda *_: os.kill(parent, signal.SIGTERM) if os.getppid() == parent else None)
    line = Line(socket.socket(fileno=number), "decode")
    try:
        load_plugins()
        spec = read_as(RunSpec, run_dir / SPEC, MOST_SPEC_BYTES)
        prepared = prepare(half_of(spec, "prefill"))
        warm_up(prepared)
        serve_prefills(prepared, line, file, run_dir)
    except HalfLost:
        return 1
    except Exception as error:
        traceback.print_exc()
        line.send(Failed(describe(error)))
        line.close()
        return 1
    return 0


def _die_with(parent: int) -> None:
    """Have the system kill this process when its parent dies, where it can; elsewhere the closed line ends it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
