"""The door's routes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.door.bodies import Body, ChatBody, CompletionBody, DetokenizeBody, TokenizeBody, read_body
from app.door.desk import Desk, facts
from app.door.errors import BAD_REQUEST, NOT_FOUND, UNAVAILABLE, DoorError
from app.door.link import monotonic_ns
from app.door.metrics import metrics_text
from app.door.openapi import document
from app.door.reply import Reply
from app.errors import LabError
from app.server.incoming import json_object
from app.server.openmetrics import CONTENT_TYPE
from engine.config.text import tokenizer_facts
from telemetry.refusal import in_words

MOST_BODY_BYTES = 8 << 20
BODY_S = 30.0  # a body has to be there within
log = logging.getLogger("servescope.door")


def door_app(desk: Desk) -> Starlette:
    """Everything a client can ask of an open door."""
    door = _Door(desk)
    get, post = ["GET"], ["POST"]
    routes = [
        Route("/health", door.health, methods=get),
        Route("/version", door.version, methods=get),
        Route("/metrics", door.metrics, methods=get),
        Route("/server_info", door.server_info, methods=get),
        Route("/openapi.json", door.openapi, methods=get),
        Route("/v1/models", door.models, methods=get),
        Route("/v1/models/{name:path}", door.model, methods=get),
        Route("/v1/completions", door.completions, methods=post),
        Route("/v1/chat/completions", door.chat, methods=post),
        Route("/tokenize", door.tokenize, methods=post),
        Route("/tokenizer_info", door.tokenizer_info, methods=get),
        Route("/detokenize", door.detokenize, methods=post),
        Route("/reset_prefix_cache", door.reset_prefix_cache, methods=post),
        Route("/flush_cache", door.reset_prefix_cache, methods=post),
    ]
    handlers: dict[Any, Callable[[Request, Any], Awaitable[Response]]] = {
        DoorError: _as_error,
        HTTPException: _as_error,
        ClientDisconnect: _left,
        Exception: _broken,
    }
    return Starlette(routes=routes, exception_handlers=handlers)  # type: ignore[arg-type]


class _Door:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def completions(self, request: Request) -> Response:
        return await self._generate(request, CompletionBody)

    async def chat(self, request: Request) -> Response:
        return await self._generate(request, ChatBody)

    async def _generate(self, request: Request, kind: type[CompletionBody] | type[ChatBody]) -> Response:
        data = await _json(request)
        came_ns = monotonic_ns()
        return Reply(self._desk, read_body(kind, data), came_ns)

    async def tokenize(self, request: Request) -> Response:
        desk, body = self._desk, await self._read(request, TokenizeBody)
        if (body.prompt is None) == (body.messages is None):
            raise DoorError(BAD_REQUEST, "Give either prompt or messages.", param="prompt", code="bad_value")
        if body.messages is not None:
            messages = [message.as_text(place) for place, message in enumerate(body.messages)]
            ids = await desk.tokenize(lambda: desk.tokenizer.chat(messages), long=True)
        else:
            begins = body.add_special_tokens is not False
            ids = await desk.encode(body.prompt, begins, "prompt") if body.prompt else []
        longest = desk.link.hello["max_model_len"]
        return JSONResponse({"count": len(ids), "max_model_len": longest, "tokens": ids, "token_strs": None})

    async def detokenize(self, request: Request) -> Response:
        desk, body = self._desk, await self._read(request, DetokenizeBody)
        vocab = desk.link.hello["vocab"]
        wrong = next((token for token in body.tokens if token >= vocab), None)
        if wrong is not None:
            message = f"tokens: there is no token {wrong}; the vocabulary has {vocab:,}, from 0 to {vocab - 1}."
            raise DoorError(BAD_REQUEST, message, param="tokens", code="bad_value")
        return JSONResponse({"prompt": desk.tokenizer.decode(body.tokens)})

    async def tokenizer_info(self, request: Request) -> Response:
        none = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token", "chat_template"))
        facts = await asyncio.to_thread(tokenizer_facts, self._desk.engine.model)
        return JSONResponse({"tokenizer_class": "PreTrainedTokenizerFast"} | none | facts)

    async def _read(self, request: Request, kind: type[Any]) -> Any:
        body: Body = read_body(kind, await _json(request))
        self._desk.check_model(body.model)
        self._desk.notice(body)
        return body

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        self._desk.check_model(name)
        return JSONResponse(self._model())

    def _model(self) -> dict[str, Any]:
        desk = self._desk
        return {
            "id": desk.model,
            "object": "model",
            "created": desk.created,
            "owned_by": "servescope",
            "root": desk.engine.model,
            "parent": None,
            "max_model_len": desk.link.hello["max_model_len"],
        }

    async def health(self, request: Request) -> Response:
        return Response(status_code=200 if self._desk.is_healthy else UNAVAILABLE)

    async def version(self, request: Request) -> Response:
        return JSONResponse({"version": version("servescope")})

    async def metrics(self, request: Request) -> Response:
        desk = self._desk
        text = metrics_text(desk.counts, desk.model, desk.link.hello, desk.link.open_count, len(asyncio.all_tasks()))
        return Response(text, media_type=CONTENT_TYPE)

    async def server_info(self, request: Request) -> Response:
        return JSONResponse(facts(self._desk) | {"version": version("servescope")})

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(document())

    async def reset_prefix_cache(self, request: Request) -> Response:
        try:
            return JSONResponse(await self._desk.link.reset_prefix_cache())
        except ConnectionError:
            raise DoorError(UNAVAILABLE, "The engine process is gone.", code="engine_gone") from None


async def _json(request: Request) -> dict[str, Any]:
    """The object in a request's body. Raises ``DoorError`` where there is none, or too much, or not soon enough."""
    too_long = DoorError(413, f"The body has more than {MOST_BODY_BYTES:,} bytes.", code="too_long")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and len(length) < 20 and int(length) > MOST_BODY_BYTES:
        raise too_long
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                data += part
                if len(data) > MOST_BODY_BYTES:
                    raise too_long
    except TimeoutError:
        raise DoorError(408, f"The body was not there within {BODY_S:g} s.", code="too_slow") from None
    try:
        return json_object(bytes(data), most_bytes=MOST_BODY_BYTES)
    except LabError as error:
        raise DoorError(BAD_REQUEST, in_words(error), code="bad_json") from None


async def _as_error(request: Request, error: DoorError | HTTPException) -> Response:
    if isinstance(error, DoorError):
        return JSONResponse(error.as_dict(), error.status, headers=error.headers)
    message = "There is no such route here." if error.status_code == NOT_FOUND else str(error.detail)
    headers = dict(error.headers or {})
    return JSONResponse(DoorError(error.status_code, message).as_dict(), error.status_code, headers=headers)


async def _left(request: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=400)


async def _broken(request: Request, error: Exception) -> Response:
    log.error("a request failed", exc_info=error)
    return JSONResponse(DoorError(500, "The door failed at this; its terminal has the details.").as_dict(), 500)
