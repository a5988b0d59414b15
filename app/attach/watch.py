"""``servescope attach URL``: a run that is another engine's, as its metrics and messages tell of it.

Nothing is sent but GET requests, and subscriptions to publishers that were named. What is read becomes rows of type
``foreign``; the device's counters stand beside them where the engine's GPU is this machine's.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from app.attach.address import Watched
from app.attach.fetch import NoPage, Peer
from app.attach.listen import Listener
from app.attach.messages import ForwardPasses, KvEvents, Told
from app.attach.prometheus import Page
from app.attach.readings import Readings
from app.attach.receiver import Receiver
from app.attach.replay import Replay
from app.attach.spans import Requests, Span
from app.home import Home, checked_run_id
from app.runs.brief import ATTACHED, FOREIGN
from app.runs.folder import create_run
from engine.config import EngineConfig, RunSpec
from scenarios.build import new_run_id
from telemetry.clock import RunClock
from telemetry.damage import spool_sizes
from telemetry.nvml import NvmlDevice, NvmlUnavailable
from telemetry.process import own_identity
from telemetry.recorder import Recorder
from telemetry.refusal import error_object
from telemetry.sampler import DeviceSampler
from telemetry.status import StatusFile

AGGREGATED, BY_ENGINE = "aggregated", "engine's clock"
EVERY_S = 1.0
MOST_LOST = 2**31 - 1
READER = "reader"


class Watch:
    """One engine being watched, from the first page to the end."""

    def __init__(
        self,
        watched: Watched,
        peer: Peer,
        recorder: Recorder,
        every_s: float = EVERY_S,
        receiver: Receiver | None = None,
    ) -> None:
        self.readings, self.missed, self.lost, self.last_error = 0, 0, 0, ""
        self.latest: dict[str, float] = {}
        self.listeners: list[Listener] = []
        self._peer, self._recorder, self._clock, self._every_s = peer, recorder, recorder.clock, every_s
        self._pages = Readings(peer.prefix, peer.families)
        self._read_ns: int | None = None
        self._missed_in_a_row = 0
        self.requests = Requests(self._clock.unix_ns(0))
        self.receiver = receiver
        if watched.kv_events:
            replay = Replay(watched.kv_replay) if watched.kv_replay else None
            self.listeners.append(
                self._listener("--kv-events", "kv_events", watched.kv_events, KvEvents().take, replay)
            )
        if watched.fpm:
            self.listeners.append(self._listener("--fpm", "forward_pass", watched.fpm, ForwardPasses().take))

    @property
    def told(self) -> list[str]:
        """Figures that the engine's pages have."""
        return sorted(self._pages.told)

    async def run(self, client: Any, first: Page) -> None:
        """Until cancelled. Raises ``LabError`` where ZeroMQ refuses an address."""
        self._page(first)
        try:
            async with asyncio.TaskGroup() as group:
                for listener in self.listeners:
                    group.create_task(listener.run())
                if self.receiver is not None:
                    group.create_task(self.receiver.run(self._spans))
                group.create_task(self._scrape(client))
        finally:
            if self.receiver is not None:
                self.receiver.close()

    async def _scrape(self, client: Any) -> None:
        due = time.monotonic()
        while True:
            now = time.monotonic()
            due += self._every_s * max(1, -(-(now - due) // self._every_s))  # missed moments are not made up for
            await asyncio.sleep(due - now)
            try:
                self._page(await self._peer.page(client))
            except NoPage as error:
                self.missed += 1
                self._missed_in_a_row += 1
                self.last_error = str(error)

    def _page(self, page: Page) -> None:
        now_ns = self._clock.now_ns()
        rows, anew = self._pages.take(page)
        gap = min(self._missed_in_a_row + anew, MOST_LOST)
        span_ns = None if self._read_ns is None else now_ns - self._read_ns
        for row in rows:
            counted = row.pop("counted")
            self._row("metrics", self._peer.url, now_ns, span_ns if counted else None, READER, gap, **row)
            if not counted:
                self.latest[row["name"]] = row["value"]
        self.lost += gap
        self._read_ns, self._missed_in_a_row = now_ns, 0
        self.readings += 1

    def _spans(self, spans: list[Span]) -> None:
        for row in self.requests.take(spans):
            self._recorder.request(**row)

    def _listener(
        self,
        option: str,
        source: str,
        address: str,
        take: Callable[[Any], Told | None],
        replay: Replay | None = None,
    ) -> Listener:
        def heard(told: Told) -> None:
            now_ns = self._clock.now_ns()
            span_ns = None if told.span_s is None else round(told.span_s * 1e9)
            lost = min(told.lost, MOST_LOST)
            self.lost += lost
            for name, value, _ in told.figures:
                self._row(
                    source, address, now_ns, span_ns, told.clock, lost, name=name, value=value, worker=told.worker
                )

        return Listener(option, address, take, heard, replay)

    def _row(
        self, source: str, address: str, now_ns: int, span_ns: int | None, clock: str, gap: int, **row: Any
    ) -> None:
        self._recorder.foreign(
            time_ns=now_ns,
            span_ns=span_ns,
            source=source,
            address=address,
            engine=self._peer.engine,
            engine_version=self._peer.version or None,
            clock=clock,
            gap=gap,
            **row,
        )

    def progress(self) -> dict[str, Any]:
        running, waiting = (int(max(0, min(self.latest.get(name, 0), 2**31))) for name in ("running", "waiting"))
        return {
            "running": running,
            "waiting": waiting,
            "kv_used_share": min(1.0, max(0.0, self.latest.get("kv_used_share", 0.0))),
            "phase": f"watching {self._peer.engine}" if not self._missed_in_a_row else "no answer at the moment",
            "readings": self.readings,
            "missed": self.missed,
            "messages": sum(each.messages for each in self.listeners),
            "requests_ended": self.requests.count,
        }

    def summary(self) -> dict[str, Any]:
        return {"duration_s": self._clock.now_ns() / 1e9}


def attach(
    home: Home,
    watched: Watched,
    *,
    key: str = "",
    device: str = "auto",
    every_s: float = EVERY_S,
    for_s: float | None = None,
    run_id: str = "",
    say: Callable[[str], None] = print,
    ready: Callable[[RunSpec], None] = lambda spec: None,
) -> RunSpec:
    """Watch until Ctrl-C or SIGTERM (or ``for_s`` seconds), which end the run well; the run as it was recorded.

    Raises ``LabError`` where the server does not answer, or is no engine that is known; then there is no run.
    """
    if run_id:
        checked_run_id(run_id)
    home.require_space()
    peer = Peer(watched.url, key, longest_s=min(5.0, max(1.0, every_s)))
    asyncio.run(_meet(peer))
    receiver = None if watched.spans is None else Receiver(watched.spans)
    spec = _spec(peer, watched, run_id)
    run_dir = home.run_dir(spec.run_id)
    create_run(home, spec, supervisor=own_identity())
    status = StatusFile(run_dir)
    status.update(state="starting", labels=list(spec.labels))
    error, state = None, "failed"
    recorder = Recorder(run_dir, "full", RunClock())
    watch = Watch(watched, peer, recorder, every_s, receiver)
    try:
        recorder.run(
            "start",
            "running",
            labels=list(spec.labels),
            spec=spec.model_dump(mode="json", exclude={"requests"}) | {"workload_hash": spec.workload_hash},
            model={"name": peer.model},
        )

        def begun() -> None:
            status.update(state="running")
            status.follow(lambda: {"progress": watch.progress()})
            ready(spec)
            if receiver is not None:
                say(f"Spans of requests are taken at {receiver.url}")

        with _device_counters(recorder, device, watched.url, say):
            asyncio.run(_until_told(watch, peer, for_s, begun))
        state = "finished"
    except BaseException as failure:
        cause = failure.exceptions[0] if isinstance(failure, BaseExceptionGroup) else failure
        error = error_object("attach", "URL", watched.url, f"{type(cause).__name__}: {cause}"[:500], "")
        raise cause from None
    finally:
        recorder.run("end", state, labels=list(spec.labels), error=error, summary=watch.summary())
        recorder.close()
        _last_words(watch, say)
        status.close(state, error=error, labels=list(spec.labels), summary=watch.summary(), spool=spool_sizes(run_dir))
    return spec


async def _meet(peer: Peer) -> None:
    async with peer.client() as client:
        await peer.meet(client)


async def _until_told(watch: Watch, peer: Peer, for_s: float | None, begun: Callable[[], None]) -> None:
    """Watch until a signal or the end of ``for_s``. ``begun``: signals are heard from now on."""
    async with peer.client() as client:
        work = asyncio.ensure_future(watch.run(client, await peer.meet(client)))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, work.cancel)
        begun()
        with contextlib.suppress(asyncio.CancelledError):
            done, _ = await asyncio.wait([work], timeout=for_s)
            if not done:
                work.cancel()
            await work


def _spec(peer: Peer, watched: Watched, run_id: str) -> RunSpec:
    now = time.time_ns()
    return RunSpec(
        run_id=run_id or new_run_id(),
        scenario=ATTACHED,
        title=f"{' '.join(filter(None, [peer.engine, peer.version]))} at {urlsplit(watched.url).netloc}",
        served=True,
        engine=EngineConfig(model=peer.model or "unknown"),
        labels=(FOREIGN, AGGREGATED if watched.spans is None else BY_ENGINE),
        created_unix_ns=now,
        asked_unix_ns=now,
    )


def _device_counters(
    recorder: Recorder, device: str, url: str, say: Callable[[str], None]
) -> contextlib.AbstractContextManager[Any]:
    """Counters of the GPU beside the figures: of one that was named, and with ``auto`` of the first where the engine is
    this machine's.
    """
    here = urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
    if device == "none" or (device == "auto" and not here):
        return contextlib.nullcontext()
    name = "cuda:0" if device == "auto" else device
    try:
        NvmlDevice.open(int(name.partition(":")[2] or 0)).close()
    except NvmlUnavailable as error:
        if device != "auto":
            say(f"No counters of {name} beside it: {error}")
        return contextlib.nullcontext()
    return DeviceSampler(recorder, name, interval_ms=200)


def _last_words(watch: Watch, say: Callable[[str], None]) -> None:
    say(f"{watch.readings:,} readings, {watch.missed:,} missed; figures told: {', '.join(watch.told) or 'none'}.")
    if watch.missed and watch.last_error:
        say(f"The last that was missed: {watch.last_error}.")
    for listener in watch.listeners:
        say(listener.words())
    if watch.receiver is not None:
        say(watch.receiver.words())
        if watch.receiver.messages:
            say(watch.requests.words())
