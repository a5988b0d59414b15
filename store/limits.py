"""What limits the engine, in one sentence, and the figures it rests on: of the last seconds of a live run, of the whole of one that is over.

An iteration cannot be shorter than ``max(FLOPs / F, bytes / M)``, where F and M are the arithmetic rate and the
memory bandwidth measured on this device ("theoretical peak analysis", 2024). Time beyond that bound is overhead:
scheduling, preparing, sampling, recording, launching, and kernels that fall short of the peaks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeGuard

import numpy as np

from store.in_flight import Step
from store.query import Query

Kind = Literal["memory_bandwidth", "compute", "kv_capacity", "host_overhead", "other_processes", "no_work"]
Peaks = Mapping[str, float]

IDLE_SHARE = 0.5  # of the window without an iteration in flight: there is nothing to do
BLOCKED_SHARE = 0.25  # of the iterations in which the pool kept a waiting request out, or threw one out
OVERHEAD_SHARE = 0.5  # of the iteration's time beyond what arithmetic and memory traffic need
TOLD_SHARE = 0.01  # of the iteration's time: a smaller part of the overhead is not told
OTHERS_CPU = 20.0  # percent of the machine used by other processes above which a run counts as disturbed
CROWDED = 5.0  # percent of the machine that the engine wants and others take


@dataclass(frozen=True)
class Limit:
    """The verdict: ``kind``, ``sentence`` for people, ``figures`` behind it (None where unknown)."""

    kind: Kind
    sentence: str
    figures: dict[str, float | None]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Work:
    """Sums over the iterations of a stretch of time. Least times are None without the device's measured peaks."""

    steps: int
    busy_ms: float
    forward_ms: float
    held_up: int  # iterations in which the pool kept a waiting request out, or threw one out
    preemptions: float
    compute_ms: float | None = None
    memory_ms: float | None = None
    bound_ms: float | None = None  # the larger of both, step by step
    memory_bound_ms: float | None = None  # of that: where memory traffic is the larger
    # the model's time beyond its least, by what it is spent on
    launch_ms: float | None = None  # steps of a GPU whose kernels were launched one at a time, not as a CUDA graph
    memory_stall_ms: float | None = None  # other steps where memory traffic decides
    arithmetic_stall_ms: float | None = None  # other steps where arithmetic decides

    @classmethod
    def of(cls, columns: Mapping[str, np.ndarray], peaks: Peaks | None) -> Work:
        """``columns``: ``duration_ms``, ``forward_ms``, ``flops``, ``bytes``, ``waiting``, ``preempted``, ``blocked`` (1
        where admission stopped for want of blocks) and ``launched`` (1 where a GPU's kernels were launched one at a time), one
        value per iteration.
        """
        refused = (columns["blocked"] > 0) & (columns["waiting"] > 0)
        least: dict[str, float] = {}
        if are_known(peaks):
            compute = columns["flops"] / peaks["flops_per_s"] * 1e3
            memory = columns["bytes"] / peaks["bytes_per_s"] * 1e3
            bound = np.maximum(compute, memory)
            beyond, launched = np.maximum(columns["forward_ms"] - bound, 0.0), columns["launched"] > 0
            least = {
                "compute_ms": float(np.sum(compute)),
                "memory_ms": float(np.sum(memory)),
                "bound_ms": float(np.sum(bound)),
                "memory_bound_ms": float(np.sum(bound[memory >= compute])),
                "launch_ms": float(np.sum(beyond[launched])),
                "memory_stall_ms": float(np.sum(beyond[~launched & (memory >= compute)])),
                "arithmetic_stall_ms": float(np.sum(beyond[~launched & (memory < compute)])),
            }
        return cls(
            len(columns["duration_ms"]),
            float(np.sum(columns["duration_ms"])),
            float(np.sum(columns["forward_ms"])),
            int(np.sum(refused | (columns["preempted"] > 0))),
            float(np.sum(columns["preempted"])),
            **least,
        )


_STEPS = """
WITH steps AS (
  SELECT *, flops / $f::DOUBLE * 1e3 AS compute, bytes / $m::DOUBLE * 1e3 AS memory,
         greatest(forward_ns / 1e6 - greatest(compute, memory), 0) AS beyond, $gpu::BOOLEAN AND graph_size IS NULL AS launched
  FROM iterations WHERE run_id = $run
)
SELECT count(*) AS steps, coalesce(sum(end_ns - start_ns) / 1e6, 0) AS busy_ms, coalesce(sum(forward_ns) / 1e6, 0) AS forward_ms,
       count(*) FILTER ((admission_stop = 'blocks' AND waiting > 0) OR preempted > 0) AS held_up,
       coalesce(sum(preempted), 0)::DOUBLE AS preemptions, sum(compute) AS compute_ms, sum(memory) AS memory_ms,
       sum(greatest(compute, memory)) AS bound_ms,
       CASE WHEN count(compute) > 0 THEN coalesce(sum(memory) FILTER (memory >= compute), 0) END AS memory_bound_ms,
       CASE WHEN count(compute) > 0 THEN coalesce(sum(beyond) FILTER (launched), 0) END AS launch_ms,
       CASE WHEN count(compute) > 0 THEN coalesce(sum(beyond) FILTER (NOT launched AND memory >= compute), 0) END
         AS memory_stall_ms,
       CASE WHEN count(compute) > 0 THEN coalesce(sum(beyond) FILTER (NOT launched AND memory < compute), 0) END
         AS arithmetic_stall_ms,
       min(start_ns) / 1e9 AS start_s, max(end_ns) / 1e9 AS end_s
FROM steps"""


def is_gpu(environment: Mapping[str, Any]) -> bool:
    """Whether a run was computed on a GPU, by what its environment says of itself."""
    return str(environment.get("device") or "").startswith("cuda")


def work_query(run_id: str, peaks: Peaks | None, width_s: float | None = None, *, gpu: bool = False) -> Query:
    """The fields of ``Work`` over a whole run, and ``start_s`` and ``end_s`` of its iterations; with ``width_s`` over the
    iterations that ended in each such stretch of time, in order, where there are any.
    """
    rates = {"f": peaks["flops_per_s"], "m": peaks["bytes_per_s"]} if are_known(peaks) else {"f": None, "m": None}
    asked = {"run": run_id, "gpu": gpu, **rates}
    if width_s is None:
        return Query(_STEPS.strip(), asked)
    grouped = f"{_STEPS}\nGROUP BY (end_ns - 1) // $width::BIGINT ORDER BY end_s".strip()
    return Query(grouped, asked | {"width": round(1e9 * width_s)})


def are_known(peaks: Peaks | None) -> TypeGuard[Peaks]:
    """Whether a device's peaks were measured."""
    return bool(peaks and peaks.get("flops_per_s") and peaks.get("bytes_per_s"))


def others_cpu(host_percent: float, own_percent: float, cores: int) -> float:
    """Percent of the machine that other processes use. ``own_percent``: of one core, as ``devices.cpu_percent``."""
    return max(0.0, host_percent - own_percent / cores)


def cores_and_threads(environment: Mapping[str, Any]) -> tuple[int | None, int]:
    """Cores that a run could use (None: not known) and threads that its engine computed with."""
    cpu, threads = environment.get("cpu"), environment.get("threads")
    cores = cpu.get("cores") if isinstance(cpu, dict) else None
    return cores if isinstance(cores, int) and cores > 0 else None, threads if isinstance(threads, int) else 1


@dataclass(frozen=True)
class Outside:
    """What else the machine does. ``wanted_percent``: of the machine, that the engine's threads would use."""

    others_percent: float
    wanted_percent: float

    @classmethod
    def of(
        cls, host_percent: float | None, own_percent: float | None, environment: Mapping[str, Any]
    ) -> Outside | None:
        """From the mean load of the machine and of the engine's process (100: one core); None where one is not known."""
        cores, threads = cores_and_threads(environment)
        if cores is None or host_percent is None or own_percent is None:
            return None
        return cls(others_cpu(host_percent, own_percent, cores), 100 * min(1.0, threads / cores))

    @property
    def limits(self) -> bool:
        """Others take what the engine would use."""
        crowded = self.others_percent + self.wanted_percent - 100 > CROWDED
        return self.others_percent > OTHERS_CPU and crowded


def what_limits(
    work: Work,
    window_ms: float,
    *,
    step: Step | None = None,
    running_ms: float = 0.0,
    peaks: Peaks | None = None,
    outside: Outside | None = None,
) -> Limit:
    """Judge a stretch of ``window_ms``: the iterations that ended in it, and the one in flight.

    ``step``: the iteration in flight; ``running_ms``: how much of the window it has taken.
    """
    busy_ms = work.busy_ms + running_ms
    busy_share = min(1.0, busy_ms / window_ms) if window_ms > 0 else 0.0
    figures: dict[str, float | None] = {"busy_share": busy_share}
    if outside is not None:
        figures["others_share"] = outside.others_percent / 100
    if step is not None:
        figures["in_flight_ms"] = running_ms
    if busy_share < 1 - IDLE_SHARE or not (work.steps or step):
        return Limit("no_work", f"Too little work: the engine was busy {_percent(busy_share)} of the time.", figures)
    if outside is not None and outside.limits:
        said = f"Other processes: they take {_percent(outside.others_percent / 100)} of the machine, which the engine would use."
        return Limit("other_processes", said, figures | _figures(work))
    if step is not None and running_ms > work.busy_ms:
        return Limit(*_of_step(step, running_ms, peaks), figures | _figures(work))
    work_figures = _figures(work)
    return Limit(*_verdict(work_figures), figures | work_figures)


def _figures(work: Work) -> dict[str, float | None]:
    """What the verdict rests on, from the iterations that ended; none of no iteration."""
    if not work.steps or not work.busy_ms:
        return {}
    figures: dict[str, float | None] = {
        "blocked_share": work.held_up / work.steps,
        "preemptions": work.preemptions,
        "outside_forward_share": max(0.0, 1 - work.forward_ms / work.busy_ms),
        "iteration_ms": work.busy_ms / work.steps,
    }
    if work.bound_ms is None or work.compute_ms is None or work.memory_ms is None or work.memory_bound_ms is None:
        return figures
    return figures | {
        "bound_ms": work.bound_ms / work.steps,
        "compute_ms": work.compute_ms / work.steps,
        "memory_ms": work.memory_ms / work.steps,
        "memory_bound_share": work.memory_bound_ms / work.bound_ms if work.bound_ms else None,
        "overhead_share": max(0.0, 1 - work.bound_ms / work.busy_ms),
        **{name: stall / work.busy_ms for name, stall in _stalls(work).items()},
    }


def _stalls(work: Work) -> dict[str, float]:
    """The model's time beyond its least, ms, by the name of its share; launching only where kernels were launched so."""
    stalls = {
        "memory_stall_share": work.memory_stall_ms or 0.0,
        "arithmetic_stall_share": work.arithmetic_stall_ms or 0.0,
    }
    return stalls | ({"launch_share": work.launch_ms} if work.launch_ms else {})


def _of_step(step: Step, running_ms: float, peaks: Peaks | None) -> tuple[Kind, str]:
    """The verdict where one step in flight is most of the time: what it computes is known, how well is not."""
    parts = []
    if step.prefill_tokens:
        parts.append(f"{step.prefill_tokens:,} prompt tokens")
    if step.decode_requests:
        parts.append(f"a token for {step.decode_requests:,} {'request' if step.decode_requests == 1 else 'requests'}")
    work = " and ".join(parts) or "its batch"
    said = f"one iteration has been computing {work} for {running_ms / 1e3:.1f} s; nobody gets a token until it ends."
    if are_known(peaks) and step.bytes / peaks["bytes_per_s"] > step.flops / peaks["flops_per_s"]:
        return "memory_bandwidth", f"Memory bandwidth: {said}"
    return "compute", f"Compute: {said}"


def _verdict(figures: Mapping[str, float | None]) -> tuple[Kind, str]:
    blocked_share, outside_share = figures["blocked_share"] or 0.0, figures["outside_forward_share"] or 0.0
    overhead_share, memory_share = figures.get("overhead_share"), figures.get("memory_bound_share")
    if blocked_share >= BLOCKED_SHARE:
        return (
            "kv_capacity",
            f"KV capacity: in {_percent(blocked_share)} of the iterations the pool had no blocks for a waiting request.",
        )
    if outside_share >= OVERHEAD_SHARE:
        return "host_overhead", f"Host overhead: {_percent(outside_share)} of each iteration passes outside the model."
    if overhead_share is None or memory_share is None:
        return "compute", "The model's forward pass; without this device's measured peaks, what in it is not known."
    reached = _percent(1 - overhead_share)
    if overhead_share >= OVERHEAD_SHARE:
        return (
            "host_overhead",
            f"Overhead: only {reached} of each iteration is arithmetic or memory traffic the batch needs at this "
            f"device's peaks. {_beyond(figures)}",
        )
    if memory_share >= 0.5:
        return (
            "memory_bandwidth",
            "Memory bandwidth: reading weights and KV cache takes longer than the arithmetic "
            f"({reached} of the measured peak is reached).",
        )
    return (
        "compute",
        f"Compute: arithmetic takes longer than moving the data ({reached} of the measured peak is reached).",
    )


_BEYOND = {
    "outside_forward_share": "{} passes outside the model",
    "launch_share": "{} goes to kernels that are launched one at a time",
    "memory_stall_share": "{} goes to waiting for memory longer than its peak bandwidth takes",
    "arithmetic_stall_share": "{} goes to arithmetic below its peak rate",
}


def _beyond(figures: Mapping[str, float | None]) -> str:
    """Where the time beyond the least goes, the largest share first."""
    shares = sorted(((figures.get(name) or 0.0, said) for name, said in _BEYOND.items()), key=lambda one: -one[0])
    parts = [said.format(_percent(share)) for share, said in shares if share >= TOLD_SHARE]
    return f"{', '.join(parts)}."


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
