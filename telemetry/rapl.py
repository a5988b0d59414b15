"""The energy that the processor's packages use, from Linux's power capping counters (RAPL), where they can be read.

A package counts all that runs on it, other processes too. Most systems let only root read the counters; then :attr:`RaplCounters.missing`
says so, and there is no energy.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

POWERCAP = "/sys/class/powercap"
"""Where Linux shows them; ``SERVESCOPE_POWERCAP`` names another folder, as where a container has the host's."""


class RaplCounters:
    """The packages' counters, added up; what wraps around is counted on."""

    def __init__(self, root: Path | None = None) -> None:
        self.missing: dict[str, str] = {}
        root = root or Path(os.environ.get("SERVESCOPE_POWERCAP", POWERCAP))
        self._packages = [folder for folder in sorted(root.glob("*-rapl:*")) if _is_package(folder)]
        self._range_uj: dict[Path, int] = {}
        self._last_uj: dict[Path, int] = {}
        self._energy_uj = 0
        self._read_ns = time.monotonic_ns()
        try:
            for folder in self._packages:
                self._range_uj[folder] = _number(folder / "max_energy_range_uj")
                self._last_uj[folder] = _number(folder / "energy_uj")
        except (OSError, ValueError) as error:
            self._give_up(error)

    def read(self) -> dict[str, float | None]:
        """``energy``, J since the first reading, and ``power``, W since the last one; None where they cannot be read."""
        if not self._packages:
            return {"energy": None, "power": None}
        used_uj = 0
        try:
            for folder in self._packages:
                now_uj, before_uj = _number(folder / "energy_uj"), self._last_uj[folder]
                used_uj += now_uj - before_uj if now_uj >= before_uj else now_uj + self._range_uj[folder] - before_uj
                self._last_uj[folder] = now_uj
        except (OSError, ValueError) as error:
            self._give_up(error)
            return {"energy": None, "power": None}
        read_ns = time.monotonic_ns()
        took_s, self._read_ns = (read_ns - self._read_ns) / 1e9, read_ns
        self._energy_uj += used_uj
        return {"energy": self._energy_uj / 1e6, "power": used_uj / 1e6 / took_s if took_s else None}

    def _give_up(self, error: Exception) -> None:
        self._packages = []
        why = f"the processor's energy counters cannot be read: {error}"
        self.missing.update(energy=why, power=why)  # in place: who was given it is told


def _is_package(folder: Path) -> bool:
    """Whether it counts a whole package: parts of one are counted with it, and the whole platform's would count all twice."""
    try:
        return (folder / "name").read_text(encoding="ascii").startswith("package")
    except (OSError, ValueError):
        return False


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))
