"""What the prefill half does as a child process of the decode half: it ends with its parent, and says why it ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import traceback
from collections.abc import Callable

from engine.failures import describe
from engine.halves.line import Failed, HalfLost, Line

PR_SET_PDEATHSIG = 1  # of Linux's prctl


def live_under(parent: int) -> None:
    """Die when the parent does, and leave it to the parent what becomes of a signal."""
    with contextlib.suppress(OSError, AttributeError):  # elsewhere the closed line ends it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the decode half hears it, too
    signal.signal(signal.SIGTERM, lambda *_: os.kill(parent, signal.SIGTERM) if os.getppid() == parent else None)


def answer_for(line: Line, work: Callable[[], object]) -> int:
    """Do the half's work; what goes wrong is said to the other half. Returns the exit code."""
    try:
        work()
    except HalfLost:
        return 1
    except Exception as error:
        if not line.is_open:  # the run is over, and nothing was left to compute
            return 1
        traceback.print_exc()
        line.send(Failed(describe(error)))
        line.close()
        return 1
    return 0
