"""A run in two processes: each half's share of the machine, the prefill half's process, and the wiring of both."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from engine.block_table import blocks_for
from engine.config import RunSpec
from engine.config.errors import EngineError
from engine.executor import Executor
from engine.halves.decode import Fetcher, HalvesRecorder, PrefilledArrivals, Receiver
from engine.halves.line import Begin, Failed, HalfLost, Line, Prefill, Ready, line_pair
from engine.halves.one_pool import Half
from engine.halves.prefill import HandOver, PrefillArrivals, Relay
from engine.halves.shared import SharedSpace, mapped, nameless_file
from engine.kv.cache import KVCache
from engine.kv.copying import Link
from engine.kv.prefixes import Prefixes
from engine.loop import Engine
from engine.model.device import resolve_device, usable_cores, usual_threads
from engine.request import Request
from engine.scheduling.preemption import Preemption
from engine.speculation.speculator import Speculator
from engine.start.build import Parts, allocate, build_engine
from engine.start.prepared import Prepared
from engine.start.requests import check_any
from engine.stopping import Outputs
from telemetry.clock import RunClock
from telemetry.recorder import Recorder

READY_S = 600.0  # that loading the model may take
MODULE = "engine.prefill_half"
TOKENS_A_SECOND = 128  # that a prompt seems shorter for each second it waits, where the shortest goes first


def half_of(spec: RunSpec, half: Half) -> RunSpec:
    """What one half is told: its share of threads and memory. The prefill half guesses nothing, and its requests end
    with their first token.

    Raises:
        EngineError: the run cannot be served in two halves here; it names the setting.
    """
    config, asked = spec.engine, spec.engine.placement
    assert asked is not None
    threads = threads_of_both(spec)
    prefill_threads = threads // 2 if asked.prefill_threads is None else asked.prefill_threads
    if prefill_threads >= threads:
        raise EngineError(
            "contradiction",
            "placement.prefill_threads",
            asked.prefill_threads,
            f"it leaves the decode half none of the run's {threads} threads.",
            f"Set it to {threads - 1} or less, or threads higher.",
        )
    mine = asked.prefill_memory if half == "prefill" else 1 - asked.prefill_memory
    share: dict[str, Any] = {"threads": prefill_threads if half == "prefill" else threads - prefill_threads}
    if asked.is_partitioned:
        pass  # one pool for both
    elif config.kv_blocks is None:
        share["kv_memory_fraction"] = config.kv_memory_fraction * mine
    else:
        prefill_blocks = min(config.kv_blocks - 1, max(1, round(config.kv_blocks * asked.prefill_memory)))
        share["kv_blocks"] = prefill_blocks if half == "prefill" else config.kv_blocks - prefill_blocks
    requests = spec.requests
    if half == "prefill":
        share["speculation"] = None
        continued = {request.after for request in requests if request.continues}
        requests = tuple(r if r.request_id in continued else r.model_copy(update={"max_tokens": 1}) for r in requests)
    return spec.model_copy(update={"engine": config.model_copy(update=share), "requests": requests})


def threads_of_both(spec: RunSpec) -> int:
    """Threads of both halves together.

    Raises:
        EngineError: this machine or this run has no two halves.
    """
    config, kind = spec.engine, spec.engine.placement.kind if spec.engine.placement else None
    device, cores = resolve_device(config.device), usable_cores()
    if device.type != "cpu":
        what = "both halves share memory of the host, which a GPU's is not."
        raise EngineError("unsupported", "placement.kind", kind, what, "Set device to cpu, or placement off.")
    if spec.served:
        what = "it is not served at the door, whose clients speak with one engine."
        raise EngineError("unsupported", "placement.kind", kind, what, "Set placement off.")
    threads = config.threads or max(2, usual_threads())
    if threads > cores:
        raise EngineError(
            "contradiction",
            "threads" if config.threads else "placement.kind",
            config.threads or kind,
            f"two halves with {threads} threads together need as many cores, and this process may use {cores}.",
            f"Set threads to {cores} or less." if cores > 1 else "Set placement off.",
        )
    return threads


class PrefillProcess:
    """The prefill half as a process of its own, and this end of the line to it."""

    def __init__(self, run_dir: Path) -> None:
        """Start it; it loads its model meanwhile. Raises OSError where no process can be started."""
        mine, its = line_pair()
        self.file = nameless_file()
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-m", MODULE, str(run_dir), str(its.fileno()), str(self.file)],
                pass_fds=(its.fileno(), self.file),
                stdin=subprocess.DEVNULL,
            )
        self.line = Line(mine, "prefill")

    def side(self, prepared: Prepared) -> DecodeSide:
        """Waits until the other half is ready; see ``DecodeSide``."""
        return DecodeSide(self.line, self.file, prepared)

    def close(self) -> None:
        """End the process, at the latest some seconds from now."""
        self.line.close()
        os.close(self.file)
        try:
            self._process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class HalfParts(Parts):
    """A half with a pool of its own."""

    def __init__(self, preemption: Callable[[Prefixes, KVCache], Preemption]) -> None:
        self._preemption = preemption

    def preemption(self, prepared: Prepared, prefixes: Prefixes, cache: KVCache, clock: RunClock) -> Preemption:
        return self._preemption(prefixes, cache)


class DecodeSide:
    """What the run's own engine needs of the other half."""

    def __init__(self, line: Line, file: int, prepared: Prepared) -> None:
        """``file``: descriptor of what holds the prefill half's pool. Waits until the other half is ready.

        Raises:
            EngineError: it cannot be.
            HalfLost: its process is gone.
        """
        self.ready = ready_of(line)
        self.prepared = _refuse_unfit(prepared, self.ready.blocks)
        self._line = line
        self._there = [mapped(file, store) for store in self.ready.stores]
        self._receiver: Receiver | None = None

    @property
    def kv_capacity_tokens(self) -> int:
        """Of both pools."""
        return (self.prepared.num_blocks + self.ready.blocks) * self.prepared.spec.engine.block_size

    @property
    def facts(self) -> dict[str, Any]:
        """What the run's row says of the model, with both halves in it."""
        config, blocks = self.prepared.spec.engine, self.prepared.num_blocks
        own = {"threads": config.threads, "weight_bytes": self.prepared.model.weight_bytes, "blocks": blocks}
        return {
            "kv_capacity_tokens": self.kv_capacity_tokens,
            "halves": {"prefill": dict(self.ready.facts) | {"blocks": self.ready.blocks}, "decode": own},
        }

    def engine(
        self,
        recorder: HalvesRecorder,
        clock: RunClock,
        executor: Executor | None = None,
        drafter: Speculator | None = None,
        peaks: Mapping[str, float] | None = None,
    ) -> Engine:
        """The decode half's engine; arguments as ``build_engine`` takes them. ``peaks``: of this half's cores."""
        asked = self.prepared.spec.engine.placement
        assert asked is not None
        link = None if asked.link_mb_per_s is None else Link(asked.link_launch_us / 1e6, asked.link_mb_per_s * 1e6)

        def fetcher(prefixes: Prefixes, cache: KVCache) -> Fetcher:
            self._receiver = Fetcher(
                prefixes.pool,
                cache.stores(),
                self._there,
                self._line,
                computed=prefixes.computed,
                recorder=recorder,
                clock=clock,
                link=link,
            )
            return self._receiver

        return build_engine(self.prepared, recorder, clock, executor, drafter, parts=HalfParts(fetcher))

    def arrivals(self, engine: Engine, recorder: HalvesRecorder) -> PrefilledArrivals:
        """The run's requests, by way of the other half, whose clock starts now."""
        assert self._receiver is not None
        clock = engine.clock
        self._line.send(Begin(clock.origin_monotonic_ns, clock.origin_unix_ns))
        return PrefilledArrivals(self.prepared.requests, self._line, engine, self._receiver, recorder)

    def recorder(self, run_dir: Path, clock: RunClock) -> HalvesRecorder:
        blocks = (self.ready.blocks, self.prepared.num_blocks)
        config = self.prepared.spec.engine
        return HalvesRecorder(run_dir, config.recording, clock, blocks=blocks, threads=config.threads)


def serve_prefills(prepared: Prepared, line: Line, file: int, run_dir: Path) -> Engine:
    """Be the prefill half until the decode half closes the line; returns the engine, all of whose blocks are free.

    Raises:
        EngineError: something of the run cannot be served; the caller tells the other half.
    """
    space = SharedSpace(file)
    executor = allocate(prepared, space=space)
    config, stores = prepared.spec.engine, executor.cache.stores()
    facts = {"threads": config.threads, "weight_bytes": prepared.model.weight_bytes}
    line.send(Ready(prepared.num_blocks, space.stores, facts))
    parts = HalfParts(lambda prefixes, cache: HandOver(prefixes.pool, stores, line))
    return prefill_until_closed(prepared, line, run_dir, executor, lambda relay: parts)


def prefill_until_closed(
    prepared: Prepared, line: Line, run_dir: Path, executor: Executor, parts: Callable[[Relay], Parts]
) -> Engine:
    """Compute the prompts that the decode half sends, from when it starts the clock until it closes the line."""
    begin = _begin(line)
    clock, config = RunClock(begin.origin_monotonic_ns, begin.origin_unix_ns), prepared.spec.engine
    relay = Relay(run_dir, clock, config.recording, config.threads)
    engine = build_engine(
        prepared,
        cast(Recorder, relay),
        clock,
        executor,
        outputs=Outputs(None, (), prepared.max_model_len, keep_text=False),
        parts=parts(relay),
    )
    hand_over = engine.scheduler.preemption
    assert isinstance(hand_over, HandOver)
    by_number = {request.index: request for request in prepared.requests}
    asked = config.placement
    shortest = asked is not None and asked.is_partitioned and asked.prefill_order == "shortest"

    def make(message: Prefill) -> Request:
        request = _to_prefill(by_number[message.request], message)
        request.rank = _rank(message) if shortest else 0
        return request

    with contextlib.suppress(HalfLost):
        engine.run(PrefillArrivals(hand_over, relay, engine, make), stop=lambda: not line.is_open)
    return engine


def _rank(message: Prefill) -> int:
    """Shortest prompt first, where a prompt that came a second earlier counts as ``TOKENS_A_SECOND`` shorter."""
    return len(message.prompt) + message.arrival_ns * TOKENS_A_SECOND // 10**9


def ready_of(line: Line) -> Ready:
    """What the prefill half says once it can begin.

    Raises:
        EngineError: it cannot.
        HalfLost: its process is gone.
    """
    messages = line.received(READY_S)
    if not messages:
        raise HalfLost(line.other)
    if isinstance(messages[0], Failed):
        raise as_error(messages[0])
    assert isinstance(messages[0], Ready)
    return messages[0]


def _begin(line: Line) -> Begin:
    while not (messages := line.received(1.0)):
        pass
    begin, *rest = messages
    assert isinstance(begin, Begin)
    line.put_back(rest)
    return begin


def _to_prefill(request: Request, message: Prefill) -> Request:
    """The request as the prefill half serves it: its whole prompt as it is by now, and one token."""
    request.prompt_token_ids = list(message.prompt)
    request.token_ids = list(message.prompt)
    request.prefill_target = len(message.prompt)
    request.most_carried_tokens = 0
    request.sampling_state.observe(message.prompt)
    request.max_tokens, request.stream = 1, None
    request.arrival_ns = message.arrival_ns
    request.refusal = None
    return request


def as_error(failed: Failed) -> EngineError:
    """What went wrong in the other half."""
    about = failed.error
    return EngineError(*(about[key] for key in ("kind", "field", "value", "message", "mend")))


def _refuse_unfit(prepared: Prepared, blocks: int) -> Prepared:
    """Refuse requests whose prompts the prefill half's pool can never hold. Raises ``EngineError`` where none is
    left."""
    size = prepared.spec.engine.block_size
    unfit = [r for r in prepared.servable if blocks_for(r.most_prompt_tokens, size) > blocks]
    for request in unfit:
        request.refusal = EngineError(
            "too-long",
            f"requests[{request.request_id}].prompt",
            request.most_prompt_tokens,
            f"the prefill half's KV pool holds {blocks * size:,} tokens, and the prompt may have more.",
            "Set kv_blocks or placement.prefill_memory higher.",
        )
    check_any(prepared.requests)
    if not unfit:
        return prepared
    return replace(prepared, notices=(*prepared.notices, _refused_in_words(prepared.requests)))


def _refused_in_words(requests: Sequence[Request] | Iterable[Request]) -> str:
    listed = list(requests)
    return f"{sum(r.refusal is not None for r in listed)} of {len(listed)} requests refused"
