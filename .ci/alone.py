"""Runs a command while no other make works on this clone's environment: ``alone.py LOCK PID NAME COMMAND...``.

The lock is the kernel's (flock), so it ends with whoever holds it, however that ends. PID and NAME say who we are to those who wait.
Runs before anything is installed: the standard library only.
"""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path


def main(lock: str, pid: str, name: str, *command: str) -> None:
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = Path(lock).read_text(encoding="utf-8", errors="replace").strip() or "another make"
        print(
            f"{holder} is setting this clone up; waiting for it to finish (Ctrl-C gives up)",
            file=sys.stderr,
            flush=True,
        )
        fcntl.flock(handle, fcntl.LOCK_EX)
    os.ftruncate(handle, 0)
    os.write(handle, f"{name} (process {pid})\n".encode())
    os.set_inheritable(handle, True)  # held by the command and whatever it starts, until the last of them ends
    os.execvp(command[0], command)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
