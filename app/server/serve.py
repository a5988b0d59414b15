"""The lab server: Streamlit's ASGI application with our routes beside it, one process, one port, this machine only."""

from __future__ import annotations

import socket
import webbrowser
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import app
from app.home import Home
from app.lab import Lab, set_lab
from app.locks import LabAddress
from app.rights import judge_by
from app.room.room import open_room, set_room
from app.server.connections import listener_at
from app.server.entrance import Entrance, RoomJudge, entrance_of
from app.server.gate import Gate
from app.server.guard import LOOPBACK_HOSTS, Guard
from app.server.lab_lock import LabLock
from app.server.outward import Outward, listen, run_both
from app.server.preload import preload

if TYPE_CHECKING:
    from streamlit.web.server.starlette import App

HOST = "127.0.0.1"
PORT = 8642
PAGE = Path(app.__file__).resolve().parent / "shell.py"
ONE_BROWSER = "The address lets one browser in, once; servescope lab, run again, prints a fresh one."
NO_TOKEN = (
    "No token is asked for (--no-token): everybody with an account on this machine can use this lab, delete "
    "its runs included."
)
BACKLOG = 128  # connections that wait to be taken
PING_S = 15.0  # proxies end a socket that was silent for 30 s or more
CLOSE_S = 2  # how long open sockets may take at shutdown


def streamlit_options(allowed_hosts: Iterable[str], origin: str = "") -> dict[str, Any]:
    """Streamlit's settings, all of them set here; a user's own Streamlit configuration does not loosen them.
    ``origin``: as ``Guard``'s.
    """
    return {
        "server.address": HOST,
        "server.allowedHosts": list(allowed_hosts),
        "server.enableCORS": True,
        "server.corsAllowedOrigins": [origin] if origin else [],
        "server.enableXsrfProtection": True,
        "server.headless": True,
        "server.fileWatcherType": "none",
        "server.runOnSave": False,
        "server.enableStaticServing": False,
        "server.enableAgentApi": False,
        "server.maxUploadSize": 200,
        "browser.gatherUsageStats": False,
        "browser.serverAddress": HOST,
        "client.showErrorDetails": "none",
        "client.toolbarMode": "viewer",
        # A full collection after every rerun costs 55 ms with the GIL held; Python's own collector suffices.
        "runner.postScriptGC": False,
        "runner.magicEnabled": False,
        "global.developmentMode": False,
        "logger.level": "warning",
    }


def configure_streamlit(allowed_hosts: Iterable[str] = LOOPBACK_HOSTS, origin: str = "") -> None:
    """Apply ``streamlit_options`` and the lab's theme to this process."""
    from streamlit import config
    from streamlit.runtime.pages_manager import PagesManager

    from app.server.drawings import keep_whole_drawings
    from app.server.turns import answer_in_turn
    from app.theme import streamlit_theme

    keep_whole_drawings()
    answer_in_turn()
    options = streamlit_options(allowed_hosts, origin) | streamlit_theme()
    config.get_config_options(force_reparse=True, options_from_flags=options)
    # Pages are named by st.navigation. Until it has run once, Streamlit would take an address such as /compare for a
    # script of its
    # own in pages/ and leave out everything shell.py does.
    PagesManager.uses_pages_directory = False


def build_app(
    lab: Lab,
    entrance: Entrance | None = None,
    *,
    allowed_hosts: Iterable[str] = LOOPBACK_HOSTS,
    on_ready: Callable[[], None] | None = None,
) -> App:
    """The ASGI application of a lab: pages, live socket, metrics, API; all behind the guard and the gate. ``entrance``:
    who is let in.

    Its lifespan starts the lab (database, collector, queue) and stops it.
    """
    import streamlit as st
    from starlette.middleware import Middleware

    from app.server.routes import routes

    entrance = entrance or Entrance(lab.address)
    room = entrance.room
    configure_streamlit(allowed_hosts, entrance.public.origin)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[dict[str, Any]]:
        set_lab(lab)
        if room is not None:
            room.address = entrance.room_address
            set_room(room)
            judge_by(RoomJudge(entrance, room))
        lab.start()
        try:
            if on_ready is not None:
                on_ready()
            yield {"lab": lab}
        finally:
            lab.stop()
            set_lab(None)
            set_room(None)
            judge_by(None)

    return st.App(
        PAGE,
        routes=routes(lab, entrance),
        middleware=[
            Middleware(Guard, allowed_hosts=tuple(allowed_hosts), origin=entrance.public.origin),
            Middleware(Gate, entrance=entrance),
        ],
        lifespan=lifespan,
        on_script_error=lab.note_page_error,
    )


def serve(
    home: Home,
    *,
    port: int = PORT,
    extra_hosts: Iterable[str] = (),
    starter: bool = True,
    open_browser: bool = False,
    open_to_all: bool = False,
    workshop: bool = False,
    outward: Outward | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Run the lab until it is interrupted.

    ``starter``: with an empty store, start the starter scenario. ``open_browser``: show the page once it is there.
    ``open_to_all``: ask nobody on this machine for a token. ``workshop``: open a room. ``outward``: how others reach
    it.

    Raises ``LabError`` when the store is in use by another lab, cannot be written or holds no readable database.
    """
    outward = outward or Outward()
    home.prepare()
    lock = LabLock(home)
    try:
        with listener_at(HOST, port, "servescope lab", BACKLOG) as listener, listen(outward) as beyond:
            address = LabAddress.fresh(HOST, listener.getsockname()[1])
            if port and address.port != port:
                say(f"Port {port} is taken; using {address.port}.")
            entrance = entrance_of(home, address, open_to_all=open_to_all, public=outward.public)
            if workshop:
                entrance.room = open_room(home)
            lab = Lab(home, address)
            lab.queue.warm_up()  # its imports run beside ours

            def ready() -> None:
                lock.publish(address)
                if starter:
                    lab.start_starter()
                say(f"ServeScope is open at {entrance.page_address()}")
                say(NO_TOKEN if open_to_all else ONE_BROWSER)
                if entrance.room is not None:
                    say(f"Presenter's link: {entrance.room_address(entrance.room.kept.presenters_token)}")
                    say(f"Viewers' link:    {entrance.room_address(entrance.room.kept.viewers_token)}")
                say("Ctrl-C ends it; a run in progress is ended cleanly and kept.")
                preload()
                if open_browser:
                    webbrowser.open(entrance.page_address())

            try:
                _serve(lab, entrance, listener, (*LOOPBACK_HOSTS, *outward.hosts, *extra_hosts), ready, outward, beyond)
            finally:
                lab.stop()
    finally:
        lock.release()


def _serve(
    lab: Lab,
    entrance: Entrance,
    listener: socket.socket,
    hosts: tuple[str, ...],
    on_ready: Callable[[], None],
    outward: Outward,
    beyond: socket.socket | None,
) -> None:
    """Serve this machine, and whoever comes by ``beyond``, on one event loop."""
    import uvicorn

    from app.server.connections import BoundedHttp, more_descriptors
    from store.select import stop_selects

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            stop_selects()  # else the end would wait for the slowest question
            await super().shutdown(sockets)

    more_descriptors()
    asgi_app = build_app(lab, entrance, allowed_hosts=hosts, on_ready=on_ready)
    lab.start()  # here, so that what is wrong with the store is said in words rather than by the server's start-up log
    options: dict[str, Any] = {
        "http": BoundedHttp,
        "ws": "websockets-sansio",
        "ws_per_message_deflate": False,
        "access_log": False,
        "log_level": "warning",
        "server_header": False,
        "use_colors": False,
        "timeout_graceful_shutdown": CLOSE_S,
        "proxy_headers": False,
    }
    server = Server(uvicorn.Config(asgi_app, ws_ping_interval=PING_S, **options))
    if beyond is None:
        server.run(sockets=[listener])
    else:
        tls: dict[str, Any] = {}
        if outward.certificate:
            tls = {"ssl_certfile": outward.certificate, "ssl_keyfile": outward.key}
        second = Server(uvicorn.Config(asgi_app, ws_ping_interval=PING_S, lifespan="off", **tls, **options))
        run_both(server, listener, second, beyond)
