"""Our routes beside Streamlit's. The guard and the gate stand in front of all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from app.api import api_routes
from app.live_socket import LiveSocket
from app.openmetrics import CONTENT_TYPE, metrics_page

if TYPE_CHECKING:
    from app.services import Lab

LIVE_PATH = "/live"


def routes(lab: Lab) -> list[BaseRoute]:
    """The live socket, metrics, health and the API of one lab."""
    socket = LiveSocket(lab)

    def metrics(_: Request) -> Response:
        return Response(metrics_page(lab, socket.clients), media_type=CONTENT_TYPE)

    async def health(_: Request) -> Response:
        problem = lab.collector.problem
        return JSONResponse({"ok": problem is None, "problem": problem}, status_code=503 if problem else 200)

    def health_for_clients(_: Request) -> Response:
        return Response(status_code=503 if lab.collector.problem else 200)

    return [
        WebSocketRoute(LIVE_PATH, socket.__call__),
        Route("/metrics", metrics, methods=["GET"]),
        Route("/healthz", health, methods=["GET"]),
        Route("/health", health_for_clients, methods=["GET"]),  # as vLLM answers it
        *api_routes(lab),
    ]
