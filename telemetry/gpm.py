"""GPM: how busy the parts of a Hopper or later GPU were between two samples.

``dram_active`` and ``tensor_active`` together place a running engine on a roofline, which ``utilization`` cannot.
Each figure is an average over the time since the previous reading; the first reading gives none.
"""

from __future__ import annotations

from typing import Any

import pynvml

_METRICS = {
    "sm_active": pynvml.NVML_GPM_METRIC_SM_UTIL,
    "sm_occupancy": pynvml.NVML_GPM_METRIC_SM_OCCUPANCY,
    "tensor_active": pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL,
    "dram_active": pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL,
}


class GpmSampler:
    """Two sample buffers that swap at every reading; inert where the device has no GPM.

    ``missing`` is the device's table of counters it lacks; reasons are added to it.
    """

    COLUMNS = tuple(_METRICS)

    def __init__(self, handle: Any, missing: dict[str, str]) -> None:
        self._handle = handle
        self._missing = missing
        self._samples: list[Any] = []
        self._primed = False
        try:
            if not pynvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice:
                self._disable("the device has no GPM counters (Hopper or later does)")
                return
            self._samples = [pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()]
        except pynvml.NVMLError as error:
            self._disable(str(error))

    def read(self) -> dict[str, float | int | None]:
        """Percentages since the last reading, by ``DeviceRow`` column; None where there is none."""
        values: dict[str, float | int | None] = dict.fromkeys(_METRICS)
        if not self._samples:
            return values
        try:
            self._samples.reverse()
            pynvml.nvmlGpmSampleGet(self._handle, self._samples[1])
            if self._primed:
                values |= self._compare(*self._samples)
            self._primed = True
        except pynvml.NVMLError as error:
            self._disable(str(error))
        return values

    def close(self) -> None:
        """Give the sample buffers back; must come before the library is shut down."""
        samples, self._samples = self._samples, []
        for sample in samples:
            try:
                pynvml.nvmlGpmSampleFree(sample)
            except pynvml.NVMLError:
                return  # the driver went away and took them along

    def _compare(self, older: Any, newer: Any) -> dict[str, float | int | None]:
        request = pynvml.c_nvmlGpmMetricsGet_t()
        request.version = pynvml.NVML_GPM_METRICS_GET_VERSION
        request.sample1, request.sample2 = older, newer
        request.numMetrics = len(_METRICS)
        for k, metric in enumerate(_METRICS.values()):
            request.metrics[k].metricId = metric
        pynvml.nvmlGpmMetricsGet(request)
        values: dict[str, float | int | None] = {}
        for k, name in enumerate(_METRICS):
            metric = request.metrics[k]
            values[name] = metric.value if metric.nvmlReturn == pynvml.NVML_SUCCESS else None
            if metric.nvmlReturn == pynvml.NVML_ERROR_NOT_SUPPORTED:
                self._missing[name] = str(pynvml.NVMLError(metric.nvmlReturn))
        return values

    def _disable(self, reason: str) -> None:
        self.close()
        for name in _METRICS:
            self._missing[name] = reason
