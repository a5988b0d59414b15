"""Every route of the lab server, read from the server itself: one that is added is tested without being named."""

from __future__ import annotations

import re
from pathlib import Path

from starlette.routing import Mount, Route, WebSocketRoute

from app.home import Home
from app.lab import Lab
from app.locks import LabAddress
from app.server.serve import build_app


def every_route() -> list[tuple[str, str]]:
    """(method, path) of each route the server has, Streamlit's included; new routes appear here by themselves."""
    app = build_app(Lab(Home(Path("/nowhere")), LabAddress.fresh("127.0.0.1", 1)))
    routes = []
    for route in app._build_starlette_app().routes:
        if isinstance(route, WebSocketRoute):
            routes.append(("WEBSOCKET", route.path))
        elif isinstance(route, Route):
            routes += [(method, route.path) for method in sorted(route.methods or {"GET"})]
        elif isinstance(route, Mount):
            routes.append(("GET", f"{route.path}/index.html"))
        else:
            raise AssertionError(f"a route of a new kind: {route}")
    return routes


ROUTES = [(method, re.sub(r"\{[^}]*\}", "x", path) or "/") for method, path in every_route()]
