"""Which process a file names, and whether it still lives: the one home of process identity.

A process is its pid, the kernel's tick at which it began, and the boot in which that tick was counted. None of the three is read
from the wall clock, so setting the clock neither kills a living process on paper nor lets a reused pid pass for a dead one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import psutil

Identity = dict[str, Any]
IDENTITY_KEYS = ("pid", "process_start_ticks", "boot_id", "process_start_unix")
"""What names a process in ``status.json``, ``lab.json`` and their kin. The last one: only in files of earlier versions."""

EARLIER_TOLERANCE_S = 2.0  # earlier versions wrote the wall clock's idea of the start; two readings of it may differ
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
STAT = "/proc/{pid}/stat"
GONE = ("Z", "X")  # a zombie only waits to be reaped


def identity_of(pid: int) -> Identity:
    """``pid``, ``process_start_ticks`` and ``boot_id`` of a process; ticks are null if there is none."""
    return {"pid": pid, "process_start_ticks": start_ticks(pid), "boot_id": boot_id()}


def own_identity() -> Identity:
    return identity_of(os.getpid())


def identity_in(about: Mapping[str, Any]) -> Identity:
    """The part of a file's content that names a process."""
    return {key: about[key] for key in IDENTITY_KEYS if key in about}


def is_alive(about: Mapping[str, Any] | None) -> bool:
    """Whether the process that ``about`` names by ``IDENTITY_KEYS`` still runs. Nothing readable there: no."""
    if not isinstance(about, Mapping):
        return False
    pid, ticks = about.get("pid"), about.get("process_start_ticks")
    if type(pid) is not int or not 0 < pid < 2**31:
        return False
    now = start_ticks(pid)
    if now is None:
        return False
    if "process_start_ticks" in about:
        return ticks == now and about.get("boot_id") == boot_id()
    return _began_at(pid, about.get("process_start_unix"))


def start_ticks(pid: int) -> int | None:
    """When process ``pid`` began, in the kernel's ticks since the boot; None if there is none, or a zombie.

    Where the kernel shows no such ticks: its own record of the start, in microseconds, which it does not change either.
    """
    try:
        line = Path(STAT.format(pid=pid)).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None if BOOT_ID.exists() else _start_without_proc(pid)
    after_name = line.rpartition(")")[2].split()  # the name may hold spaces and brackets
    return None if after_name[0] in GONE else int(after_name[19])


@cache
def boot_id() -> str:
    """The kernel's name for this boot; "" where it gives none."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _start_without_proc(pid: int) -> int | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else round(process.create_time() * 1e6)
    except (psutil.Error, ValueError):
        return None


def _began_at(pid: int, started: Any) -> bool:
    """What earlier versions compared: seconds since 1970, where the file has them."""
    if not isinstance(started, int | float):
        return True
    try:
        return abs(psutil.Process(pid).create_time() - started) <= EARLIER_TOLERANCE_S
    except psutil.Error:
        return False
