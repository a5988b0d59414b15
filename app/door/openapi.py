"""The OpenAPI document of the door, made from the very models that check what clients send."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any

from pydantic.json_schema import models_json_schema

from app.door.bodies import NOT_SERVED, ChatBody, CompletionBody, DetokenizeBody, Generation, TokenizeBody

_REF = "#/components/schemas/{model}"
_BODIES: dict[str, tuple[type[Any], str]] = {
    "/v1/completions": (CompletionBody, "Continue one or several prompts."),
    "/v1/chat/completions": (ChatBody, "Answer a chat."),
    "/tokenize": (TokenizeBody, "Token ids of a text or a chat."),
    "/detokenize": (DetokenizeBody, "The text of token ids."),
}
_PLAIN = {
    ("/health", "get"): "200 while requests are taken, else 503; no body.",
    ("/version", "get"): "The program's version.",
    ("/tokenizer_info", "get"): "Special tokens and chat template.",
    ("/metrics", "get"): "Figures as OpenMetrics text, under vLLM's names.",
    ("/server_info", "get"): "What is served, and how.",
    ("/v1/models", "get"): "The model that is served, as a list of one.",
    ("/reset_prefix_cache", "post"): "Forget what is cached and held by nobody.",
    ("/flush_cache", "post"): "The same, by SGLang's name.",
}


@cache
def document() -> dict[str, Any]:
    """The whole document."""
    kinds = [(kind, "validation") for kind, _ in _BODIES.values()]
    _, schemas = models_json_schema(kinds, ref_template=_REF)  # type: ignore[arg-type]
    components = schemas["$defs"] | {"Error": _error()}
    for kind, _ in _BODIES.values():
        if issubclass(kind, Generation):
            refused = {name: _only(NOT_SERVED[name]) for name in kind.not_served}
            components[kind.__name__]["properties"] |= refused
    paths: dict[str, Any] = {}
    for path, (kind, summary) in _BODIES.items():
        body = {"application/json": {"schema": {"$ref": _REF.format(model=kind.__name__)}}}
        paths[path] = {
            "post": {
                "summary": summary,
                "requestBody": {"required": True, "content": body},
                "responses": _responses("application/json"),
            }
        }
    for (path, method), summary in _PLAIN.items():
        paths[path] = {method: {"summary": summary, "responses": _responses(None)}}
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    of_one = {"summary": "The model of this name.", "parameters": [name], "responses": _responses("application/json")}
    paths["/v1/models/{name}"] = {"get": of_one}
    info = {"title": "ServeScope, the door", "version": version("servescope")}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": components}}


def _responses(kind: str | None) -> dict[str, Any]:
    content: dict[str, Any] = {"content": {kind: {}}} if kind else {}
    error = {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}}
    refused = {
        status: {"description": text, "content": error}
        for status, text in (
            ("400", "What was asked cannot be served; the error names the field."),
            ("401", "The key is missing or wrong."),
            ("404", "There is no such model."),
            ("413", "The body is too long."),
            ("429", "Too many requests are open; Retry-After says when to come again."),
            ("503", "The door is being closed, or the engine is gone."),
        )
    }
    return {"200": {"description": "Done.", **content}} | (refused if kind else {})


def _only(values: tuple[Any, ...]) -> dict[str, Any]:
    return {"enum": list(values), "description": "Not served: only what asks for nothing else is taken."}


def _error() -> dict[str, Any]:
    text = {"type": ["string", "null"]}
    fields = {"message": {"type": "string"}, "type": {"type": "string"}, "param": text, "code": text}
    inner = {"type": "object", "properties": fields, "required": ["message", "type"]}
    return {"type": "object", "properties": {"error": inner}, "required": ["error"]}
