"""Opening the door: an engine process, an HTTP server before it, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.door.connections import DoorHttp
from app.door.desk import Desk
from app.door.keeper import Keeper
from app.door.link import Link
from app.door.metrics import Counts
from app.door.open_doors import publish, withdraw
from app.door.routes import door_app
from app.door.session import Session
from app.errors import LabError
from app.home import Home
from app.server.connections import listener_at, more_descriptors
from app.server.guard import LOOPBACK_HOSTS
from engine.config import RunSpec
from engine.config.text import served_tokenizer, single_texts
from telemetry.status import Status, is_final, state

PORT = 8643
BACKLOG = 512  # connections that wait to be taken
LOOK_S = 0.1
LAST_WORDS_S = 0.3  # answers that tell of a lost engine are sent within


@dataclass(frozen=True)
class Options:
    """How the door is opened."""

    host: str = "127.0.0.1"
    port: int = PORT
    key: str = ""  # "": none is asked for
    hosts: tuple[str, ...] = ()  # that may stand in Host, beside this machine's own names
    model: str = ""  # as clients call it; "": as the setting has it
    most_waiting: int = 256
    drain_s: float = 30.0

    def check(self) -> Options:
        """Raises ``LabError`` where others could reach the door and nothing keeps them out."""
        if self.host in LOOPBACK_HOSTS:
            return self
        if not self.key:
            raise LabError(
                "bad-option",
                field="--host",
                value=self.host,
                message="A door that other machines can reach asks for a key.",
                mend="Set SERVESCOPE_API_KEY, or listen on 127.0.0.1.",
            )
        return self


def open_door(
    home: Home,
    spec: RunSpec,
    options: Options,
    announce: Callable[[str], None],
    say: Callable[[str], None] = print,
) -> Status:
    """Serve clients until SIGTERM, Ctrl-C or the end of the engine; the run's final status.

    ``announce`` is given the address once requests are taken.

    Raises ``LabError`` where the port cannot be had or the disk is full.
    """
    options.check()
    more_descriptors()
    with listener_at(options.host, options.port, "servescope serve", BACKLOG) as listener:
        session = Session(home, spec, say)
        try:
            asyncio.run(_Opening(session, spec, options, listener, announce, say).run())
        finally:
            _see_out(session)
    return session.status


def _see_out(session: Session) -> None:
    """Wait for the end of the run, whatever ended the door."""
    if not is_final(session.status):
        session.cancel()
    while not session.is_over:
        session.look()
        time.sleep(LOOK_S / 5)


class _Opening:
    """The door from the start of its engine to its last answer."""

    def __init__(
        self,
        session: Session,
        spec: RunSpec,
        options: Options,
        listener: socket.socket,
        announce: Callable[[str], None],
        say: Callable[[str], None],
    ) -> None:
        self._session = session
        self._spec = spec
        self._options = options
        self._listener = listener
        self._announce = announce
        self._say = say
        self._ends = asyncio.Event()  # somebody asked for the end
        self._server: Any = None
        self._desk: Desk | None = None

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._end)
        looking = asyncio.create_task(self._look())
        try:
            if await self._engine_is_up():
                await self._serve()
        finally:
            looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looking

    async def _look(self) -> None:
        while True:
            await asyncio.to_thread(self._session.look)
            await asyncio.sleep(LOOK_S)

    async def _engine_is_up(self) -> bool:
        """Wait until the engine takes requests; False where it does not come to that, or the end is asked for."""
        told = ""
        while not self._ends.is_set():
            status = self._session.status
            if is_final(status):
                return False
            if state(status) == "running":
                return True
            phase = (status.get("progress") or {}).get("phase") or state(status)
            if phase != told:
                self._say(f"{phase} ...")
                told = phase
            await asyncio.sleep(LOOK_S / 2)
        return False

    async def _serve(self) -> None:
        import uvicorn

        counts, options = Counts(), self._options
        link = await Link.connect(self._session.run_dir, counts)
        engine = self._spec.engine
        tokenizer = await asyncio.to_thread(served_tokenizer, engine.model, link.hello["vocab"])
        desk = self._desk = Desk(
            link,
            tokenizer,
            single_texts(engine.model, tokenizer),
            engine,
            options.model or engine.model,
            engine.max_num_seqs + options.most_waiting,
            counts,
            self._say,
        )
        app = Keeper(door_app(desk), (*LOOPBACK_HOSTS, options.host, *options.hosts), options.key)
        config = uvicorn.Config(
            app,
            http=DoorHttp,
            ws="none",
            lifespan="off",
            access_log=False,
            log_level="warning",
            server_header=False,
            use_colors=False,
            proxy_headers=False,
            timeout_graceful_shutdown=round(options.drain_s),
        )
        self._server = uvicorn.Server(config)
        self._server.capture_signals = contextlib.nullcontext  # they are ours
        link.on_gone = self._engine_is_gone
        announced = asyncio.create_task(self._announce_once())
        try:
            await self._server.serve([self._listener])
        finally:
            announced.cancel()
            withdraw(self._session.run_dir)
            await link.close()

    async def _announce_once(self) -> None:
        while not self._server.started:
            await asyncio.sleep(0.01)
        host, port = self._listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        publish(self._session.run_dir, url, self._options.model or self._spec.engine.model, self._options.key)
        self._announce(url)

    def _engine_is_gone(self) -> None:
        self._say("The engine process is gone; what was asked is answered with an error.")
        asyncio.get_running_loop().call_later(LAST_WORDS_S, self._end)

    def _end(self) -> None:
        """Take no more requests and answer those that are there; asked a second time, drop them."""
        if self._server is not None and self._ends.is_set():
            self._server.force_exit = True
        self._ends.set()
        if self._server is not None and self._desk is not None:
            if self._desk.exchanges and not self._desk.link.is_gone:
                self._say(f"Answering what was asked before the end, for {self._options.drain_s:g} s at most.")
            self._desk.is_draining = True
            self._server.should_exit = True
