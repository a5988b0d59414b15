"""``/api``: what the command line asks of a running lab. Every endpoint wants the lab's token; answers are JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.errors import LabError
from app.runs.listing import entry, list_runs
from app.server.entrance import Entrance, has_bearer
from app.server.incoming import json_object
from app.server.indexing import select_from
from store.errors import StoreError
from telemetry.refusal import Refusal

if TYPE_CHECKING:
    from app.lab import Lab

Handler = Callable[["Lab", dict[str, str], dict[str, Any]], Any]
LARGEST_BODY = 1_000_000
MOST_AT_ONCE = 8  # calls that hold a thread; pages, health and live views have threads of their own
MOST_ROWS = 1_000_000
NOT_FOUND = ("unknown-run", "deleted-run", "bad-run-id")


def api_routes(lab: Lab, entrance: Entrance) -> list[Route]:
    """The endpoints, each behind the token."""
    table: tuple[tuple[str, str, Handler], ...] = (
        ("GET", "/api/status", _status),
        ("POST", "/api/page-address", lambda lab, path, body: {"url": entrance.page_address()}),
        ("GET", "/api/runs", lambda lab, path, body: {"runs": list_runs(lab.home)}),
        ("POST", "/api/runs", _enqueue),
        ("GET", "/api/runs/{run_id}", _show),
        ("DELETE", "/api/runs/{run_id}", _delete),
        ("POST", "/api/runs/{run_id}/cancel", lambda lab, path, body: {"cancelled": lab.queue.cancel(path["run_id"])}),
        ("POST", "/api/runs/{run_id}/move", _move),
        ("POST", "/api/runs/{run_id}/restore", _restore),
        ("POST", "/api/sql", _sql),
    )
    limiter = CapacityLimiter(MOST_AT_ONCE)
    return [Route(path, _endpoint(lab, handler, limiter), methods=[method]) for method, path, handler in table]


def _endpoint(lab: Lab, handler: Handler, limiter: CapacityLimiter) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        if not has_bearer(request.scope["headers"], lab.token):  # a cookie will not do: browsers send it unasked
            return _error(401, LabError("bad-token", message="Give the lab's token.", mend="It is in lab.json."))
        try:
            body = await _body(request)
            answer = await to_thread.run_sync(handler, lab, dict(request.path_params), body, limiter=limiter)
            return JSONResponse(answer)
        except LabError as error:
            return _error(404 if error.kind in NOT_FOUND else 409 if error.kind != "bad-request" else 400, error)
        except StoreError as error:
            return _error(400, error)

    return answer


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object of the body; {} without one. Raises ``LabError``."""
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > LARGEST_BODY:
            raise LabError("bad-request", message="The request is too large.")
    return json_object(data, most_bytes=LARGEST_BODY) if data else {}


def _error(status: int, error: Refusal) -> Response:
    return JSONResponse({"error": error.as_dict()}, status_code=status)


def _status(lab: Lab, path: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
    return {
        "url": lab.address.url,
        "home": str(lab.home.root),
        "started_unix_ns": lab.started_unix_ns,
        "running": lab.queue.running(),
        "queued": lab.queue.queued(),
        "spare_is_ready": lab.queue.spare_is_ready,
        "problem": lab.collector.problem,
        "problems": lab.collector.problems,
    }


def _enqueue(lab: Lab, path: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
    run_id = _text(body, "run_id")
    lab.queue.enqueue(run_id)
    lab.collector.notify(run_id)
    return {"run_id": run_id}


def _show(lab: Lab, path: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
    lab.home.existing_run_dir(path["run_id"])
    return entry(lab.home, path["run_id"])


def _delete(lab: Lab, path: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
    lab.delete(path["run_id"])
    return {"deleted": path["run_id"]}


def _move(lab: Lab, path: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
    return {"queued": lab.queue.move(path["run_id"], _text(body, "way"))}


def _restore(lab: Lab, path: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
    lab.restore(path["run_id"])
    return {"run_id": path["run_id"], "restored": True}


def _sql(lab: Lab, path: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
    limit = body.get("limit", 10_000)
    if type(limit) is not int or not 1 <= limit <= MOST_ROWS:
        raise LabError("bad-request", field="limit", value=limit, message=f"limit is a number from 1 to {MOST_ROWS}.")
    columns, rows = select_from(lab.database, _text(body, "query"), limit)
    return {"columns": columns, "rows": [[_plain(cell) for cell in row] for row in rows]}


def _text(body: dict[str, Any], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str):
        raise LabError("bad-request", field=key, message=f"The request lacks the text {key!r}.")
    return value


def _plain(value: Any) -> Any:
    """The value as JSON has it: numbers that JSON lacks become null, anything else it lacks becomes text."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | bool | type(None)) else str(value)
