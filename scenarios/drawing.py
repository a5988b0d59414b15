"""From a workload to its requests: every arrival, length and prompt drawn from the workload's streams."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.config import LATEST_NS, ConfigError, EngineConfig, MachineRates, RequestSpec, Sampling
from scenarios import traces
from scenarios.arrivals import Arrival, Replay, ServeGen
from scenarios.load import ScenarioError
from scenarios.prompts import Ask
from scenarios.recipes import RECIPES
from scenarios.schema import Group, Workload
from scenarios.sizing import SAMPLE, MeanRequest, tokens_asked
from scenarios.streams import stream
from scenarios.traces import servegen

MOST_PROMPT_TOKENS = (
    5_000_000  # of a workload; of texts, whose tokens nobody has counted yet, a quarter of the characters
)


def draw(
    workload: Workload, engine: EngineConfig, base: Path | None = None
) -> tuple[tuple[RequestSpec, ...], list[str]]:
    """The workload's requests, timed ones first and in order, and notes for the run's labels.

    Raises:
        ScenarioError: a trace cannot be used, or the prompts are more than a spec may hold.
    """
    seed = engine.seed if workload.seed is None else workload.seed
    if workload.recipe is not None:
        return _draw_recipe(workload, engine, seed), []
    requests: list[RequestSpec] = []
    notes: list[str] = []
    tokens = 0
    for name, group in workload.groups.items():
        trace = _trace_for(name, group, seed, base)
        if trace.cut:
            notes.append(
                f"{name}: {trace.cut} turns of the trace are shorter than what was said before, and begin anew"
            )
        if trace.failed:
            notes.append(f"{name}: {trace.failed} failed requests of the trace left out")
        notes += [f"{name}: {note}" for note in traces.unserved(trace.rows)]
        for request in _draw_group(name, group, engine, seed, workload.speed, trace.rows):
            tokens += _prompt_tokens(request)
            if tokens > MOST_PROMPT_TOKENS:
                raise _too_long(name, group)
            requests.append(request)
    requests.sort(key=lambda r: (r.after is not None, r.arrival_ns if r.after is None else 0))
    return tuple(requests), notes


def mean_request(name: str, group: Group, seed: int, rates: MachineRates) -> MeanRequest:
    """The mean of the group's first ``SAMPLE`` requests, whether it has as many or not."""
    lengths = list(_drawn_lengths(name, group, seed, [None] * SAMPLE))
    prompts = [group.prompt.make(_ask(name, seed, i, tokens)) for i, (tokens, _) in enumerate(lengths)]
    return tokens_asked(prompts, lengths, rates)


def _draw_group(
    name: str, group: Group, engine: EngineConfig, seed: int, speed: float, rows: Sequence[traces.TraceRow]
) -> Iterator[RequestSpec]:
    arrivals = group.arrivals.draw(group.requests, stream(seed, name, "arrivals"), rows)
    traced = rows[: group.requests] if rows else [None] * group.requests
    lengths = list(_drawn_lengths(name, group, seed, traced))
    if sum(tokens or 0 for tokens, _ in lengths) > MOST_PROMPT_TOKENS:
        raise _too_long(name, group)
    shared = group.prompt.shared_tokens([tokens or 0 for tokens, _ in lengths])
    for i, (arrival, row, (prompt_tokens, max_tokens)) in enumerate(zip(arrivals, traced, lengths, strict=True)):
        ask = _ask(name, seed, i, prompt_tokens, row)
        fields = group.prompt.make(replace(ask, session=arrival.session, turn=arrival.turn, shared=shared[i]))
        yield RequestSpec(
            request_id=_request_id(name, i),
            arrival_ns=_nanoseconds(name, arrival, speed),
            after=None if arrival.after is None else _request_id(name, arrival.after),
            continues=arrival.turn > 0,
            prompt_tokens=prompt_tokens if "prompt" in fields else None,
            max_tokens=max_tokens,
            sampling=_sampling(engine.sampling, group.ignore_eos, group.temperature),
            priority=group.priority,
            group=name,
            cancel_after_ns=None if group.cancel_after_s is None else round(group.cancel_after_s * 1e9),
            **fields,
        )


def _ask(name: str, seed: int, index: int, tokens: int | None, row: traces.TraceRow | None = None) -> Ask:
    """What the prompt of the group's request ``index`` is made of."""

    def common(key: object) -> random.Random:
        return stream(seed, name, "common", key)

    return Ask(index, tokens, stream(seed, name, "prompt", index), common, row)


def _drawn_lengths(
    name: str, group: Group, seed: int, rows: Sequence[traces.TraceRow | None]
) -> Iterator[tuple[int | None, int]]:
    """Prompt length (None: as the text is) and most output tokens of the group's first requests, one for each row."""
    prompts, outputs = stream(seed, name, "prompt lengths"), stream(seed, name, "output lengths")
    for row in rows:
        yield _lengths(group, row, prompts, outputs)


def _prompt_tokens(request: RequestSpec) -> int:
    if request.prompt_token_ids is not None:
        return len(request.prompt_token_ids)
    return len(request.prompt or "") // 4 + len(request.system or "") // 4


def _too_long(name: str, group: Group) -> ScenarioError:
    return ScenarioError(
        f"workload.groups.{name}.requests",
        group.requests,
        f"The prompts are more than {MOST_PROMPT_TOKENS:,} tokens together, the most that a run's spec holds.",
        "Ask for fewer requests or shorter prompts; a trace's are shortened with prompt_tokens.scale.",
    )


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


def _trace_for(name: str, group: Group, seed: int, base: Path | None) -> traces.Trace:
    """The rows that the group's requests are: read from a trace, drawn from recorded clients, or none."""
    recorded = group.arrivals
    if not isinstance(recorded, Replay | ServeGen):
        return traces.Trace((), 0)
    path = _trace_path(recorded, base)
    skip = recorded.skip if isinstance(recorded, Replay) else 0
    wanted = skip + group.requests
    try:
        if isinstance(recorded, ServeGen):
            rng, keys = stream(seed, name, "clients"), {"from_s", "rate", "clients"}
            trace = servegen.draw(path, wanted, rng, **recorded.model_dump(include=keys))
        else:
            keys = {"block_tokens", "sessions"}
            trace = traces.read(path, recorded.format, wanted, **recorded.model_dump(include=keys))
    except ConfigError as error:
        raise ScenarioError(
            f"workload.groups.{name}.arrivals.{error.field}", error.value, error.message, error.mend
        ) from None
    if len(trace.rows) < wanted:
        message = f"The trace has {len(trace.rows)} usable rows, {wanted} are needed."
        raise ScenarioError(
            f"workload.groups.{name}.requests", group.requests, message, "Ask for fewer requests or skip fewer rows."
        )
    whole = isinstance(recorded, Replay) and recorded.sessions == "cumulative"
    rows, cut = traces.in_turns(trace.rows[skip:], whole=whole)
    return traces.Trace(rows, trace.failed, cut)


def licences(workload: Workload, base: Path | None) -> dict[str, str]:
    """The traces that the workload replays, by file name, and their licences."""
    by_trace = {}
    for group in workload.groups.values():
        recorded = group.arrivals
        if isinstance(recorded, ServeGen):
            by_trace[_trace_path(recorded, base).name] = recorded.licence or servegen.LICENCE
        elif isinstance(recorded, Replay):
            path = _trace_path(recorded, base)
            by_trace[path.name] = recorded.licence or traces.licence_of(path, recorded.format)
    return by_trace


def _trace_path(recorded: Replay | ServeGen, base: Path | None) -> Path:
    path = Path(recorded.path).expanduser()
    return base / path if not path.is_absolute() and not path.exists() and base is not None else path


def _sampling(default: Sampling, ignore_eos: bool, temperature: float | None) -> Sampling | None:
    """The request's own sampling settings, or None where the engine's defaults say it all."""
    changes: dict[str, Any] = {"ignore_eos": True} if ignore_eos else {}
    if temperature is not None:
        changes["temperature"] = temperature
    return default.model_copy(update=changes) if changes else None


def _nanoseconds(name: str, arrival: Arrival, speed: float) -> int:
    moment = arrival.at_s / (speed if arrival.after is None else 1.0) * 1e9
    if not moment <= LATEST_NS:
        raise ConfigError(
            f"workload.{name}.arrivals" if speed == 1 else "workload.speed",
            speed,
            f"A request would arrive {moment / 1e9:.0g} s after the start.",
            "Let requests come faster." if speed == 1 else "Give a larger speed.",
        )
    return round(moment)


def _request_id(group: str, index: int) -> str:
    return f"{group}-{index:04d}"
