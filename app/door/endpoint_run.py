"""``servescope run SCENARIO --endpoint URL``: a run whose requests another server answers."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from urllib.parse import urlsplit

from app.door.endpoint import BY_CLIENT, Asked, Endpoint, OpenLoop, asked_of, requests_summary
from app.home import Home
from app.runs.brief import FOREIGN
from app.runs.folder import create_run
from engine.config import RunSpec
from engine.config.digest import digest_of
from store.metrics import is_completed
from telemetry.clock import RunClock
from telemetry.damage import spool_sizes
from telemetry.process import own_identity
from telemetry.recorder import Recorder
from telemetry.refusal import error_object
from telemetry.status import LABEL_UNFINISHED, StatusFile


def run_at_endpoint(home: Home, spec: RunSpec, url: str, key: str = "", say: Callable[[str], None] = print) -> RunSpec:
    """Ask a scenario's requests of a server; the run as it was recorded. Ctrl-C and SIGTERM end it and keep what came.

    Raises ``LabError`` where the server does not answer, or the prompts cannot be made here.
    """
    endpoint = Endpoint(url, key)
    asyncio.run(_find(endpoint))
    asked = asked_of(spec)
    spec = spec.model_copy(
        update={
            "labels": (*spec.labels, FOREIGN, BY_CLIENT),
            "title": f"{spec.title or spec.scenario}, at {urlsplit(endpoint.url).netloc}",
        }
    )
    run_dir = home.run_dir(spec.run_id)
    create_run(home, spec, supervisor=own_identity())
    status = StatusFile(run_dir)
    status.update(state="starting", labels=list(spec.labels))
    say(f"{len(spec.requests)} requests go to {endpoint.url}, model {endpoint.model}.")
    labels, error, state = list(spec.labels), None, "failed"
    recorder = Recorder(run_dir, "full", clock := RunClock())
    loop = OpenLoop(asked, spec.engine.sampling, endpoint, recorder, clock)
    try:
        recorder.run(
            "start",
            "running",
            labels=labels,
            spec=spec.model_dump(mode="json", exclude={"requests"}) | {"workload_hash": spec.workload_hash},
            model={"name": endpoint.model},
        )
        status.update(state="running")
        status.follow(lambda: {"progress": _progress(asked)})
        state = "finished" if asyncio.run(_to_the_end(loop, endpoint)) else "cancelled"
        if state == "cancelled":
            labels.append(LABEL_UNFINISHED)
    except Exception as failure:
        error = error_object("endpoint", "--endpoint", endpoint.url, f"{type(failure).__name__}: {failure}"[:500], "")
        raise
    finally:
        summary = _summary(asked, spec, clock)
        recorder.run("end", state, labels=labels, error=error, summary=summary)
        recorder.close()
        status.close(state, error=error, labels=labels, summary=summary, spool=spool_sizes(run_dir))
    return spec


async def _find(endpoint: Endpoint) -> None:
    async with endpoint.client() as client:
        await endpoint.find_model(client)


async def _to_the_end(loop: OpenLoop, endpoint: Endpoint) -> bool:
    """Whether every request came to its end; False where somebody ended it."""
    async with endpoint.client() as client:
        work = asyncio.ensure_future(loop.run(client))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, work.cancel)
        try:
            await work
        except asyncio.CancelledError:
            return False
    return True


def _progress(asked: list[Asked]) -> dict[str, object]:
    done = [each for each in asked if each.end_reason is not None]
    return {
        "requests_total": len(asked),
        "requests_done": sum(is_completed(each.end_reason) for each in done),
        "requests_ended": len(done),
        "output_tokens": sum(each.output_tokens for each in asked),
        "running": sum(each.end_reason is None and each.first_token_ns is not None for each in asked),
        "phase": "asking",
    }


def _summary(asked: list[Asked], spec: RunSpec, clock: RunClock) -> dict[str, object]:
    return {
        "requests": requests_summary(asked),
        "output_tokens": sum(each.output_tokens for each in asked),
        "prompt_tokens": sum(int(each.usage.get("prompt_tokens") or 0) for each in asked),
        "duration_s": clock.now_ns() / 1e9,
        "output_digest": _digest(asked),
        "workload_hash": spec.workload_hash,
    }


def _digest(asked: list[Asked]) -> str | None:
    """As of a run of our own, where every answer's token ids are known; so the texts can be held against each other."""
    if not asked or any(len(each.output_ids) != each.output_tokens for each in asked):
        return None
    return digest_of((each.index, each.output_ids) for each in asked)
