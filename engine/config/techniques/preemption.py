"""What becomes of a request that has to leave the full KV pool."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from engine.config.settings import LARGEST_COUNT, Settings, setting

SWAP_ONLY = ("host_mib", "copies", "asynchronous", "keep_copy", "link_mb_per_s", "link_launch_us")


class Preemption(Settings):
    """A preempted request's keys and values are swapped to host memory instead of computed again; priorities may change
    while requests are served."""

    mode: Literal["swap", "recompute"] = setting(
        "swap",
        "Preempted requests",
        "swap: the keys and values of a request that has to leave the full KV pool are copied to host memory, and back "
        "when it goes on. recompute: they are lost and computed again, as without this technique.",
        group="KV swapping",
        paper="FastSwitch (2024)",
    )
    host_mib: float = setting(
        512.0,
        "Host memory",
        "Room for swapped blocks in host memory, page-locked on a GPU; never more than all requests can fill. A "
        "request that finds no room there is computed again.",
        group="KV swapping",
        unit="MiB",
        gt=0,
        le=2**24,
    )
    copies: Literal["group", "block"] = setting(
        "group",
        "Copies",
        "group: a request's blocks are kept beside each other where there is room, and a run of neighbours is one copy "
        "per layer, side and head. block: a copy for each block.",
        group="KV swapping",
        paper="FastSwitch (2024)",
    )
    asynchronous: bool = setting(
        True,
        "Asynchronous copies",
        "On: copies run beside the computation (a stream of their own on a GPU, a thread on a CPU); blocks under way "
        "are not reused, and when the pool gets short, whole blocks of who would go next are copied ahead. Off: the "
        "engine waits for every copy.",
        group="KV swapping",
        paper="FastSwitch (2024)",
    )
    keep_copy: bool = setting(
        True,
        "Keep the host copy",
        "A request that came back keeps its copy in host memory while there is room, so its next swap sends only what "
        "is new. In a conversation, what a turn computed is kept for the next one.",
        group="KV swapping",
        paper="FastSwitch (2024)",
    )
    priorities: Literal["fixed", "random", "markov"] = setting(
        "fixed",
        "Priorities",
        "fixed: as the workload says, and nobody is preempted for them. random: each session draws a level anew now "
        "and then. markov: it goes up or down one level or stays. With either, a waiting request takes the place of "
        "running ones of a lower level.",
        group="KV swapping",
        paper="FastSwitch (2024)",
    )
    priority_levels: int = setting(
        4,
        "Priority levels",
        "Levels that a session's priority is drawn from.",
        group="KV swapping",
        ge=2,
        le=1000,
        advanced=True,
    )
    priority_every: int = setting(
        50,
        "Priorities change every",
        "Iterations from one draw of the priorities to the next. A request that had no place at 8 draws in a row goes "
        "before all others until it has one.",
        group="KV swapping",
        unit="iterations",
        ge=1,
        le=LARGEST_COUNT,
        advanced=True,
    )
    link_mb_per_s: float | None = setting(
        None,
        "Emulated link",
        "Copies take at least as long as over a link of this rate, and runs are labelled so. Empty: the memory as it "
        "is.",
        group="KV swapping",
        unit="MB/s",
        gt=0,
        le=1e7,
        advanced=True,
    )
    link_launch_us: float = setting(
        10.0,
        "Launch on the emulated link",
        "What starting a copy takes on the emulated link, whatever its size.",
        group="KV swapping",
        unit="µs",
        ge=0,
        le=1e6,
        advanced=True,
    )

    @property
    def swaps(self) -> bool:
        return self.mode == "swap"

    @property
    def redraws(self) -> bool:
        """Whether priorities change while requests are served."""
        return self.priorities != "fixed"

    def reads(self, name: str) -> bool:
        if name == "link_launch_us" and self.link_mb_per_s is None:
            return False
        if name in ("priority_levels", "priority_every"):
            return self.redraws
        return self.swaps or name not in SWAP_ONLY

    @model_validator(mode="after")
    def _does_something(self) -> Preemption:
        if self.link_mb_per_s is not None and not self.swaps:
            raise ValueError("preemption.link_mb_per_s emulates the link of swaps, and mode recompute copies nothing")
        return self
