"""An NVIDIA device's counters through NVML, each guarded on its own.

A counter that this device, driver or permission does not give is null in the rows, and :attr:`NvmlDevice.missing`
says why. What the counters mean: ``utilization`` is the share of the driver's window in which any kernel ran and says
nothing about how full the device was; ``power`` is the instantaneous reading (on Ampere and later the plain one is an
average over a second); ``energy`` counts since the driver was loaded, so differences over seconds are the best source
of joules per token.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pynvml

from telemetry.gpm import GpmSampler

Values = dict[str, float | int | None]

# what will not mend itself while the process lives: ask once, then leave it
_PERMANENT = {
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_INVALID_ARGUMENT,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
}
_LOST = {
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_RESET_REQUIRED,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
}


class NvmlUnavailable(RuntimeError):
    """There is no NVIDIA driver to ask, or no such device; the message says which."""


@dataclass(frozen=True)
class DeviceProcess:
    """A process that has a compute context on the device."""

    pid: int
    memory_bytes: int | None


class NvmlDevice:
    """One device's counters. Open with :meth:`open`; close when done."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self.missing: dict[str, str] = {}
        self.lost: str | None = None
        self._refused: set[str] = set()  # ways to a figure that has another way
        self._pcie = _Rates(("pcie_tx", "pcie_rx"))
        self._gpm = GpmSampler(handle, self.missing)

    @classmethod
    def open(cls, index: int = 0, uuid: str | None = None) -> NvmlDevice:
        """The device CUDA calls ``index`` (or the one with this UUID, which is certain).

        Raises:
            NvmlUnavailable: no driver, a driver that does not answer, or no such device.
        """
        _start()
        try:
            return cls(_handle(index, uuid))
        except pynvml.NVMLError as error:
            _stop()
            raise NvmlUnavailable(f"NVML knows no device {uuid or index}: {error}") from error

    def read(self) -> Values:
        """Every counter now, by ``DeviceRow`` column. Never raises: what cannot be read is None."""
        handle = self._handle
        rates = self._ask("utilization", lambda: pynvml.nvmlDeviceGetUtilizationRates(handle))
        memory = self._ask("memory_used", lambda: pynvml.nvmlDeviceGetMemoryInfo(handle))
        energy = self._ask("energy", lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
        values: Values = {
            "utilization": rates.gpu if rates else None,
            "memory_utilization": rates.memory if rates else None,
            "memory_used": memory.used if memory else None,
            "memory_total": memory.total if memory else None,
            "power": self._power(),
            "energy": energy / 1e3 if energy is not None else None,
            "sm_clock": self._ask("sm_clock", lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)),
            "memory_clock": self._ask(
                "memory_clock", lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM)
            ),
            "temperature": self._first(
                "temperature",
                lambda: pynvml.nvmlDeviceGetTemperatureV(handle, pynvml.NVML_TEMPERATURE_GPU),
                lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
            ),
            "throttle_reasons": self._first(
                "throttle_reasons",
                lambda: pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle),
                lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
            ),
        }
        values |= self._pcie_rates()
        values |= self._gpm.read() if self.lost is None else dict.fromkeys(GpmSampler.COLUMNS)
        return values

    def read_slow_pcie(self) -> Values:
        """PCIe rates from the counter that blocks for about 40 ms; for a thread of its own, where the fast ones are
        missing."""
        counters = {"pcie_tx": pynvml.NVML_PCIE_UTIL_TX_BYTES, "pcie_rx": pynvml.NVML_PCIE_UTIL_RX_BYTES}
        values: Values = {}
        for name, counter in counters.items():
            rate = self._ask(f"{name} (slow)", partial(pynvml.nvmlDeviceGetPcieThroughput, self._handle, counter))
            values[name] = None if rate is None else rate * 1024.0
            if rate is not None:
                self.missing[name] = "no byte counter here; sampled for 20 ms once a second instead"
        return values

    @property
    def fast_pcie(self) -> bool:
        """Whether the driver keeps PCIe byte counters, so that :meth:`read` gives rates without waiting."""
        return "pcie_tx" not in self.missing

    def close(self) -> None:
        """Free GPM samples and let go of the library."""
        self._gpm.close()
        _stop()

    def _power(self) -> float | None:
        milliwatts = self._first(
            "power",
            lambda: _field(self._handle, pynvml.NVML_FI_DEV_POWER_INSTANT),
            lambda: pynvml.nvmlDeviceGetPowerUsage(self._handle),
        )
        return None if milliwatts is None else milliwatts / 1e3

    def _pcie_rates(self) -> Values:
        fields = {"pcie_tx": pynvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES, "pcie_rx": pynvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES}
        counts = {name: self._ask(name, partial(_field, self._handle, field)) for name, field in fields.items()}
        return self._pcie.update(counts)

    def _first(self, counter: str, *calls: Callable[[], Any]) -> Any:
        """The first of several ways to the same figure that this driver knows."""
        for k, call in enumerate(calls[:-1]):
            value = self._ask(f"{counter} (way {k + 1})", call, note=False)
            if value is not None:
                return value
        return self._ask(counter, calls[-1])

    def _ask(self, counter: str, call: Callable[[], Any], note: bool = True) -> Any:
        if self.lost is not None or counter in self.missing or counter in self._refused:
            return None
        try:
            return call()
        except (pynvml.NVMLError, AttributeError) as error:
            # AttributeError: the installed nvidia-ml-py is older than this counter
            code = error.value if isinstance(error, pynvml.NVMLError) else pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
            if code in _LOST:
                self.lost = str(error)
                self.missing["device"] = f"lost: {error}"
            elif code in _PERMANENT and note:
                self.missing[counter] = str(error)
            elif code in _PERMANENT:
                self._refused.add(counter)
            return None


class _Rates:
    """Turns byte counters into bytes per second; null across a wrap or a gap."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._last: dict[str, tuple[int, int] | None] = dict.fromkeys(names)

    def update(self, counts: dict[str, int | None]) -> Values:
        now = time.monotonic_ns()
        rates: Values = {}
        for name, count in counts.items():
            last = self._last[name]
            rates[name] = None
            if count is not None and last is not None and count >= last[1] and now > last[0]:
                rates[name] = (count - last[1]) / (now - last[0]) * 1e9
            self._last[name] = None if count is None else (now, count)
        return rates


def processes_on(index: int = 0, uuid: str | None = None) -> list[DeviceProcess]:
    """Who has a compute context on the device. Costs about half a millisecond: at most once a second.

    Raises:
        NvmlUnavailable: no driver, no such device, or a driver that does not tell.
    """
    _start()
    try:
        processes = pynvml.nvmlDeviceGetComputeRunningProcesses(_handle(index, uuid))
        return [DeviceProcess(p.pid, p.usedGpuMemory) for p in processes]
    except pynvml.NVMLError as error:
        raise NvmlUnavailable(f"NVML does not list the processes on device {uuid or index}: {error}") from error
    finally:
        _stop()


def describe(index: int = 0, uuid: str | None = None) -> dict[str, Any]:
    """Name, driver and limits of a device, for the run's environment; keys whose figure is not to be had are null.

    Raises:
        NvmlUnavailable: no driver or no such device.
    """
    device = NvmlDevice.open(index, uuid)
    handle, ask = device._handle, device._ask
    try:
        memory = ask("memory_total", lambda: pynvml.nvmlDeviceGetMemoryInfo(handle))
        power_limit = ask("power_limit", lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle))
        return {
            "name": ask("name", lambda: pynvml.nvmlDeviceGetName(handle)),
            "driver": ask("driver", pynvml.nvmlSystemGetDriverVersion),
            "memory_bytes": memory.total if memory else None,
            "power_limit_w": power_limit / 1e3 if power_limit is not None else None,
            "sm_clock_max_mhz": ask(
                "sm_clock_max", lambda: pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM)
            ),
            "memory_clock_max_mhz": ask(
                "memory_clock_max", lambda: pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_MEM)
            ),
        }
    finally:
        device.close()


def missing_counters(index: int = 0, uuid: str | None = None) -> dict[str, str]:
    """Counters the device or driver does not give, each with its reason; for ``servescope doctor``.

    Raises:
        NvmlUnavailable: no driver or no such device.
    """
    device = NvmlDevice.open(index, uuid)
    try:
        device.read()
        device.read()  # the second reading is the first that yields rates and GPM figures
        return dict(device.missing)
    finally:
        device.close()


def _start() -> None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NvmlUnavailable(f"the NVIDIA driver's library does not answer: {error}") from error


def _stop() -> None:
    try:
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return  # the driver went away before us


def _handle(index: int, uuid: str | None) -> Any:
    """NVML's handle of a CUDA device: NVML ignores CUDA_VISIBLE_DEVICES, so it is looked up there."""
    if uuid is not None:
        return _handle_of(uuid)
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if index < len(visible):
        if not visible[index].isdigit():
            return pynvml.nvmlDeviceGetHandleByUUID(visible[index])
        index = int(visible[index])
    return pynvml.nvmlDeviceGetHandleByIndex(index)


def _handle_of(uuid: str) -> Any:
    """By a UUID as NVML writes it or, as CUDA does, without saying whether a whole GPU or a part of one has it."""
    if uuid.startswith(("GPU-", "MIG-")):
        return pynvml.nvmlDeviceGetHandleByUUID(uuid)
    try:
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except pynvml.NVMLError:
        return pynvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}")


def _field(handle: Any, field_id: int) -> int | float:
    """A field value, of whatever type the driver says it is. Raises NVMLError if this one field failed."""
    (value,) = pynvml.nvmlDeviceGetFieldValues(handle, [field_id])
    if value.nvmlReturn != pynvml.NVML_SUCCESS:
        raise pynvml.NVMLError(value.nvmlReturn)
    member = {
        pynvml.NVML_VALUE_TYPE_DOUBLE: "dVal",
        pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
        pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
        pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
        pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: "sllVal",
        pynvml.NVML_VALUE_TYPE_SIGNED_INT: "siVal",
        pynvml.NVML_VALUE_TYPE_UNSIGNED_SHORT: "usVal",
    }.get(value.valueType)
    if member is None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    return getattr(value.value, member)
