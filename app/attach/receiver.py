"""The address that another engine sends its spans to: OTLP over HTTP at ``/v1/traces``, on this machine only."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from app.attach.messages import Heard
from app.attach.spans import NoSpans, Span, spans_of
from app.errors import LabError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

HOST = "127.0.0.1"
PATH = "/v1/traces"
MOST_BYTES = 16 << 20  # of a message
TYPES = ("application/x-protobuf", "application/json")
SILENT = " vLLM sends them with --otlp-traces-endpoint {url} and OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf."


class Receiver(Heard):
    """Listens from the moment it is made, answers while ``run`` does."""

    def __init__(self, port: int) -> None:
        """Raises ``LabError`` where the port is taken."""
        super().__init__()
        self._heard: Callable[[list[Span]], None] = lambda spans: None
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((HOST, port))
            self._socket.listen(128)
        except OSError as error:
            self._socket.close()
            raise LabError(
                "bad-option",
                field="--spans",
                value=str(port),
                message=f"Nothing can listen at this port of {HOST} ({error.strerror or error}).",
                mend="Give a port that is free, or 0 for any.",
            ) from error
        self.url = f"http://{HOST}:{self._socket.getsockname()[1]}{PATH}"

    def close(self) -> None:
        self._socket.close()

    def words(self) -> str:
        """What came, for who watches; where nothing did, what may be why."""
        if self.messages:
            return self.counted(f"with spans at {self.url}")
        return f"No spans came to {self.url}.{SILENT.format(url=self.url)}"

    async def run(self, heard: Callable[[list[Span]], None]) -> None:
        """Until cancelled."""
        import uvicorn
        from starlette.applications import Starlette
        from starlette.routing import Route

        from app.server.guard import Guard

        self._heard = heard
        app = Starlette(routes=[Route(PATH, self._take, methods=["POST"])])
        config = uvicorn.Config(
            Guard(app, (HOST, "localhost")),
            ws="none",
            lifespan="off",
            access_log=False,
            log_level="warning",
            server_header=False,
        )
        server = uvicorn.Server(config)
        server.capture_signals = contextlib.nullcontext  # type: ignore  # signals are the watch's
        await server.serve([self._socket])

    async def _take(self, request: Request) -> Response:
        from starlette.responses import PlainTextResponse, Response

        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        packed = request.headers.get("content-encoding", "identity").lower()
        self.messages += 1
        if kind not in TYPES or packed != "identity":
            self.misunderstood(f"content type {kind[:40]!r}, encoding {packed[:20]!r}")
            return PlainTextResponse(f"Send {' or '.join(TYPES)}, not packed.", 415)
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MOST_BYTES:
                self.misunderstood(f"more than {MOST_BYTES >> 20} MiB")
                return PlainTextResponse(f"At most {MOST_BYTES >> 20} MiB.", 413)
        try:
            self._heard(spans_of(bytes(body), kind))
        except NoSpans as error:
            self.misunderstood(str(error))
            return PlainTextResponse(str(error), 400)
        return Response(b"{}" if kind == "application/json" else b"", media_type=kind)
