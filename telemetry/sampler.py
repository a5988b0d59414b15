"""The thread that reads the machine's counters and writes device rows.

A GPU run's rows carry NVML's counters and, like a CPU run's, what the operating system says of this process and
machine. Missed ticks are skipped, never made up for: each row has its own time stamp.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any

import psutil

from telemetry.machine import usable_cores
from telemetry.nvml import NvmlDevice, NvmlUnavailable
from telemetry.rapl import RaplCounters
from telemetry.recorder import Recorder

SLOW_INTERVAL_S = 1.0


class DeviceSampler:
    """Samples ``device`` (``cpu`` or ``cuda:N``) every ``interval_ms`` until stopped. Use as a context manager.

    ``missing`` tells which counters are null in the rows, and why.
    """

    def __init__(
        self, recorder: Recorder, device: str = "cpu", interval_ms: int = 100, uuid: str | None = None
    ) -> None:
        self._recorder = recorder
        self._device = device
        self._interval_s = interval_ms / 1e3
        self._stop = threading.Event()
        self._host = HostCounters()
        self._nvml: NvmlDevice | None = None
        self._rapl: RaplCounters | None = None
        self._slow_pcie: dict[str, Any] = {}
        self.missing: dict[str, str] = {}
        self.latest: dict[str, Any] = {}
        if device.startswith("cuda"):
            try:
                self._nvml = NvmlDevice.open(int(device.partition(":")[2] or 0), uuid)
                self.missing = self._nvml.missing
            except NvmlUnavailable as error:
                self.missing = {"device": str(error)}
        elif device == "cpu":
            self._rapl = RaplCounters()
            self.missing = self._rapl.missing
        self._threads = [threading.Thread(target=self._run, name="device-sampler", daemon=True)]
        if self._nvml is not None:
            self._threads.append(threading.Thread(target=self._run_slow, name="device-sampler-pcie", daemon=True))

    def start(self) -> DeviceSampler:
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """Stop sampling and let go of the device; returns once the threads are done."""
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        if self._nvml is not None:
            self._nvml.close()
            self._nvml = None

    def __enter__(self) -> DeviceSampler:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def sample(self) -> dict[str, Any]:
        """One row's values, read now."""
        values: dict[str, Any] = {"time_ns": self._recorder.clock.now_ns(), "device": self._device}
        host = self._host.read()
        if self._nvml is not None:
            values |= self._nvml.read()
            values |= {name: rate for name, rate in self._slow_pcie.items() if values.get(name) is None}
        elif self._rapl is not None:
            values |= self._rapl.read() | {
                "utilization": host["cpu_percent"] / self._host.cores,
                "memory_used": host["process_memory"],
                "memory_total": self._host.memory_total,
                "sm_clock": self._host.clock_mhz(),
            }
        return values | host

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            self.latest = self.sample()
            self._recorder.device(**self.latest)
            now = time.monotonic()
            due += self._interval_s * max(1, -(-(now - due) // self._interval_s))
            self._stop.wait(due - now)
        self._recorder.device(**self.sample())  # so that the last steps lie between two samples

    def _run_slow(self) -> None:
        nvml = self._nvml
        assert nvml is not None
        while not self._stop.wait(SLOW_INTERVAL_S):
            if not nvml.fast_pcie:
                self._slow_pcie = nvml.read_slow_pcie()


class HostCounters:
    """What the operating system says of this process and of the machine."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self.cores = usable_cores()
        self.memory_total = psutil.virtual_memory().total
        self._process.cpu_percent(None)  # the first call only sets the starting point
        psutil.cpu_percent(None)

    def read(self) -> dict[str, Any]:
        """Process and host counters since the previous reading, by ``DeviceRow`` column."""
        with self._process.oneshot():
            return {
                "cpu_percent": self._process.cpu_percent(None),
                "process_memory": self._process.memory_info().rss,
                "host_cpu_percent": psutil.cpu_percent(None),
                "host_memory_available": psutil.virtual_memory().available,
            }

    @staticmethod
    def clock_mhz() -> int | None:
        """Mean clock of the cores; None where the machine does not tell."""
        try:
            frequency = psutil.cpu_freq()
        except (OSError, NotImplementedError, RuntimeError):
            return None
        return round(frequency.current) if frequency and frequency.current else None
