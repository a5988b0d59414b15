"""Our routes beside Streamlit's. The guard and the gate stand in front of all of them.

A page's address is answered here with Streamlit's own ``index.html`` and a script before it, ``page.js``.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

import app
from app.server.api import api_routes
from app.server.live_socket import LiveSocket
from app.server.openmetrics import CONTENT_TYPE, metrics_page
from app.server.public import Public
from app.server.room_channel import CHANNEL_PATH, RoomChannel

if TYPE_CHECKING:
    from app.lab import Lab
    from app.server.entrance import Entrance

LIVE_PATH = "/live"
PAGES = ("compare", "door", "glossary", "learn", "papers", "reports", "room", "runs", "sql")
"""Paths of the pages beside the one at ``/``; ``tests/app/server/test_server.py`` holds them to the files in
``app/pages``.
"""
PROBES = ("_stcore/health", "_stcore/host-config")
SCRIPT = Path(app.__file__).parent / "components" / "page.js"


def routes(lab: Lab, entrance: Entrance) -> list[BaseRoute]:
    """The live socket, metrics, health and the API of one lab."""
    socket = LiveSocket(lab)
    channel = RoomChannel()

    def metrics(_: Request) -> Response:
        return Response(metrics_page(lab, socket.clients), media_type=CONTENT_TYPE)

    async def health(_: Request) -> Response:
        problem = lab.collector.problem
        return JSONResponse({"ok": problem is None, "problem": problem}, status_code=503 if problem else 200)

    def health_for_clients(_: Request) -> Response:
        return Response(status_code=503 if lab.collector.problem else 200)

    return [
        WebSocketRoute(LIVE_PATH, socket.__call__),
        WebSocketRoute(CHANNEL_PATH, channel.__call__),
        Route("/metrics", metrics, methods=["GET"]),
        Route("/healthz", health, methods=["GET"]),
        Route("/health", health_for_clients, methods=["GET"]),  # as vLLM answers it
        *api_routes(lab, entrance),
        *page_routes(entrance.public),
    ]


def page_routes(public: Public) -> list[BaseRoute]:
    """Every page's address, and below it what a script written for Streamlit may ask of it."""

    def page(request: Request) -> Response:
        base = public.base if public.is_asked_by(request.scope["headers"]) else ""
        return HTMLResponse(shell(base), headers={"cache-control": "no-cache"})

    def probe(request: Request) -> Response:
        return RedirectResponse("/" + request.url.path.split("/", 2)[2], headers={"cache-control": "no-cache"})

    return [
        *(Route(f"/{name}", page, methods=["GET"]) for name in ("", *PAGES)),
        *(Route(f"/{name}/{below}", probe, methods=["GET"]) for name in PAGES for below in PROBES),
    ]


@cache
def shell(base: str = "") -> str:
    """The page every address gets: Streamlit's, with our script first. ``base``: what stands before the lab's paths."""
    from streamlit import file_util

    page = (Path(file_util.get_static_dir()) / "index.html").read_text(encoding="utf-8")
    script = SCRIPT.read_text(encoding="utf-8").replace("{{base}}", base)
    return page.replace("<head>", f"<head>\n<script>\n{script}</script>", 1)
