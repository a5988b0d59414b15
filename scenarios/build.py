"""From a scenario to a ``RunSpec``: every arrival, length, prompt and seed drawn, nothing left to choose."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.config import LATEST_NS, ConfigError, EngineConfig, RequestSpec, RunSpec, Sampling, apply_overrides, suggest
from scenarios import traces
from scenarios.arrivals import Arrival, Replay
from scenarios.load import ScenarioError, find, load
from scenarios.prompts import Ask
from scenarios.recipes import RECIPES
from scenarios.schema import Group, Scenario, Workload
from scenarios.streams import stream

WORKLOAD_PREFIX = "workload."


def build(
    name_or_path: str | Path,
    overrides: Mapping[str, str] | None = None,
    *,
    run_id: str | None = None,
    seed: int | None = None,
) -> RunSpec:
    """Resolve a scenario into a run.

    Args:
        name_or_path: a built-in scenario's name, or a file.
        overrides: engine settings (``chunked_prefill=off``) and workload settings (``workload.decodes.requests=4``).
        run_id: default: sorts by time, ``YYYYMMDD-HHMMSS-`` and four hex digits.
        seed: replaces the engine's and the workload's seed.

    Raises:
        ScenarioError: the file is missing or wrong.
        ConfigError: an override is.
    """
    path = find(name_or_path)
    return resolve(load(path), path.stem, overrides, run_id=run_id, seed=seed, base=path.parent)


def resolve(
    scenario: Scenario,
    name: str,
    overrides: Mapping[str, str] | None = None,
    *,
    run_id: str | None = None,
    seed: int | None = None,
    base: Path | None = None,
) -> RunSpec:
    """``build`` for a scenario already in hand; ``base`` is where relative trace paths are looked for second."""
    given = dict(overrides or {})
    asked = {k.removeprefix(WORKLOAD_PREFIX): v for k, v in given.items() if k.startswith(WORKLOAD_PREFIX)}
    engine = apply_overrides(scenario.engine, {k: v for k, v in given.items() if not k.startswith(WORKLOAD_PREFIX)})
    workload = _override_workload(scenario.workload, asked)
    if seed is not None:
        engine = engine.model_copy(update={"seed": seed})
        workload = workload.model_copy(update={"seed": seed})
    requests, notes = draw(workload, engine, base)
    return RunSpec(
        run_id=run_id or new_run_id(),
        scenario=name,
        title=scenario.title,
        engine=engine,
        requests=requests,
        labels=(*scenario.labels, *notes),
        licences=licences(workload, base),
        time_limit_s=scenario.time_limit_s,
        created_unix_ns=time.time_ns(),
    )


def new_run_id() -> str:
    """A name that sorts by time: ``20260131-142233-0f3a``."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def draw(
    workload: Workload, engine: EngineConfig, base: Path | None = None
) -> tuple[tuple[RequestSpec, ...], list[str]]:
    """The workload's requests, timed ones first and in order, and notes for the run's labels."""
    seed = engine.seed if workload.seed is None else workload.seed
    if workload.recipe is not None:
        return _draw_recipe(workload, engine, seed), []
    requests: list[RequestSpec] = []
    notes: list[str] = []
    for name, group in workload.groups.items():
        trace = _trace_for(name, group, base)
        if trace.failed:
            notes.append(f"{name}: {trace.failed} failed requests of the trace left out")
        notes += [f"{name}: {note}" for note in traces.unserved(trace.rows)]
        requests += _draw_group(name, group, engine, seed, workload.speed, trace.rows)
    requests.sort(key=lambda r: (r.after is not None, r.arrival_ns if r.after is None else 0))
    return tuple(requests), notes


def _draw_group(
    name: str, group: Group, engine: EngineConfig, seed: int, speed: float, rows: Sequence[traces.TraceRow]
) -> list[RequestSpec]:
    arrivals = group.arrivals.draw(group.requests, stream(seed, name, "arrivals"), rows)
    prompt_lengths, output_lengths = stream(seed, name, "prompt lengths"), stream(seed, name, "output lengths")
    specs = []
    for i, arrival in enumerate(arrivals):
        row = rows[i] if rows else None
        prompt_tokens, max_tokens = _lengths(group, row, prompt_lengths, output_lengths)
        ask = Ask(i, prompt_tokens, stream(seed, name, "prompt", i), lambda key: stream(seed, name, "common", key), row)
        fields = group.prompt.make(ask)
        specs.append(
            RequestSpec(
                request_id=_request_id(name, i),
                arrival_ns=_nanoseconds(arrival, speed),
                after=None if arrival.after is None else _request_id(name, arrival.after),
                prompt_tokens=prompt_tokens if "prompt" in fields else None,
                max_tokens=max_tokens,
                sampling=_sampling(engine.sampling, group.ignore_eos, group.temperature),
                priority=group.priority,
                group=name,
                cancel_after_ns=None if group.cancel_after_s is None else round(group.cancel_after_s * 1e9),
                **fields,
            )
        )
    return specs


def _draw_recipe(workload: Workload, engine: EngineConfig, seed: int) -> tuple[RequestSpec, ...]:
    recipe = str(workload.recipe)
    return tuple(
        RequestSpec(
            request_id=_request_id(recipe, i),
            prompt_token_ids=asked["prompt_token_ids"],
            max_tokens=asked["max_tokens"],
            sampling=_sampling(engine.sampling, True, asked.get("temperature")),
            group=recipe,
        )
        for i, asked in enumerate(RECIPES[recipe](seed, workload.requests))
    )


def _lengths(group: Group, row: traces.TraceRow | None, prompts: Any, outputs: Any) -> tuple[int | None, int]:
    """Prompt length (None: as the text is) and most output tokens of one request."""
    traced_prompt, traced_output = (row.prompt_tokens, row.output_tokens) if row else (0, 0)
    if group.total_tokens is not None and group.prompt_to_output is not None:
        total = group.total_tokens.draw(prompts, traced_prompt + traced_output)
        prompt = max(1, round(total * group.prompt_to_output / (group.prompt_to_output + 1)))
        return prompt, max(1, total - prompt)
    prompt_tokens = group.prompt_tokens.draw(prompts, traced_prompt) if group.prompt_tokens else None
    assert group.output_tokens is not None
    return prompt_tokens, group.output_tokens.draw(outputs, traced_output)


def _trace_for(name: str, group: Group, base: Path | None) -> traces.Trace:
    replay = group.arrivals
    if not isinstance(replay, Replay):
        return traces.Trace((), 0)
    path = _trace_path(replay, base)
    wanted = replay.skip + group.requests
    try:
        trace = traces.read(path, replay.format, wanted, block_tokens=replay.block_tokens, sessions=replay.sessions)
    except ConfigError as error:
        raise ScenarioError(
            f"workload.groups.{name}.arrivals.{error.field}", error.value, error.message, error.mend
        ) from None
    if len(trace.rows) < wanted:
        message = f"The trace has {len(trace.rows)} usable rows, {wanted} are needed."
        raise ScenarioError(
            f"workload.groups.{name}.requests", group.requests, message, "Ask for fewer requests or skip fewer rows."
        )
    return traces.Trace(trace.rows[replay.skip :], trace.failed)


def licences(workload: Workload, base: Path | None) -> dict[str, str]:
    """The traces that the workload replays, by file name, and their licences."""
    replays = [group.arrivals for group in workload.groups.values() if isinstance(group.arrivals, Replay)]
    found = {}
    for replay in replays:
        path = _trace_path(replay, base)
        found[path.name] = replay.licence or traces.licence_of(path, replay.format)
    return found


def _trace_path(replay: Replay, base: Path | None) -> Path:
    path = Path(replay.path).expanduser()
    return base / path if not path.is_absolute() and not path.is_file() and base is not None else path


def _override_workload(workload: Workload, asked: Mapping[str, str]) -> Workload:
    """Apply ``workload.`` overrides: ``seed``, ``speed``, ``GROUP.key``, or with a single group just ``key``."""
    named = {}
    for name, value in asked.items():
        first = name.partition(".")[0]
        if first in Workload.model_fields and (first != "requests" or workload.recipe is not None):
            named[name] = value
        elif first in workload.groups:
            named[f"groups.{name}"] = value
        elif len(workload.groups) == 1 and first in Group.model_fields:
            named[f"groups.{next(iter(workload.groups))}.{name}"] = value
        elif first in Group.model_fields and workload.groups:
            groups = ", ".join(f"workload.{group}.{name}" for group in workload.groups)
            raise ConfigError(
                f"{WORKLOAD_PREFIX}{name}",
                value,
                "The workload has several groups of requests.",
                f"Name one: {groups}.",
            )
        else:
            known = ["seed", "speed", *(["recipe", "requests"] if workload.recipe else workload.groups)]
            mend = suggest(first, {WORKLOAD_PREFIX + key: key for key in known})
            raise ConfigError(f"{WORKLOAD_PREFIX}{name}", value, f"There is no {first!r} in this workload.", mend)
    return apply_overrides(workload, named, prefix=WORKLOAD_PREFIX)


def _sampling(default: Sampling, ignore_eos: bool, temperature: float | None) -> Sampling | None:
    """The request's own sampling settings, or None where the engine's defaults say it all."""
    changes: dict[str, Any] = {"ignore_eos": True} if ignore_eos else {}
    if temperature is not None:
        changes["temperature"] = temperature
    return default.model_copy(update=changes) if changes else None


def _nanoseconds(arrival: Arrival, speed: float) -> int:
    moment = arrival.at_s / (speed if arrival.after is None else 1.0) * 1e9
    if not moment <= LATEST_NS:
        raise ConfigError(
            "workload.speed",
            speed,
            f"A request would arrive {moment / 1e9:.0g} s after the start.",
            "Give a larger speed.",
        )
    return round(moment)


def _request_id(group: str, index: int) -> str:
    return f"{group}-{index:04d}"
