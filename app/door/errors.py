"""What a client is told when something cannot be done: OpenAI's error object."""

from __future__ import annotations

from typing import Any

from telemetry.refusal import Refusal, in_words

BAD_REQUEST, NOT_FOUND, TOO_MANY, UNAVAILABLE = 400, 404, 429, 503
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}


class DoorError(Exception):
    """An answer that is an error.

    Attributes:
        status: of HTTP.
        param: the field at fault; None where there is none to name.
        code: short stable word for programs.
        headers: beside the usual ones.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, param, code)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers or {}

    def as_dict(self) -> dict[str, Any]:
        """The body of the answer."""
        kind = _TYPES.get(self.status, "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def of_engine(about: dict[str, Any] | Refusal) -> DoorError:
    """Why the engine did not take a request, as an answer."""
    told = about.as_dict() if isinstance(about, Refusal) else about
    kind = str(told.get("kind") or "refused")
    field = str(told.get("field") or "").rpartition("].")[2] or None
    code = "context_length_exceeded" if kind == "prompt-too-long" else kind
    return DoorError(BAD_REQUEST, in_words(told) or "The engine refused the request.", param=field, code=code)
