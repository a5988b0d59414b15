"""From a scenario to a ``RunSpec``: every arrival, length, prompt and seed drawn, nothing left to choose."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from engine.config import ConfigError, EngineConfig, MachineRates, RunSpec, Sizing, apply_overrides, suggest
from scenarios.arrivals import PACES, TIMES
from scenarios.drawing import draw, licences, mean_request
from scenarios.load import find, load
from scenarios.schema import Group, Scenario, Workload
from scenarios.sizing import AsWritten, FromGiven, refuse_contradictions, sized_words, stretch_of

WORKLOAD_PREFIX = "workload."
NOT_SIZED = "not sized to this machine"

Measure = Callable[[EngineConfig], MachineRates | None]


def build(
    name_or_path: str | Path,
    overrides: Mapping[str, str] | None = None,
    *,
    run_id: str | None = None,
    seed: int | None = None,
    measure: Measure | None = None,
) -> RunSpec:
    """Resolve a scenario into a run.

    Args:
        name_or_path: a built-in scenario's name, or a file.
        overrides: engine settings (``chunked_prefill=off``) and workload settings (``workload.decodes.requests=4``).
        run_id: default: sorts by time, ``YYYYMMDD-HHMMSS-`` and four hex digits.
        seed: replaces the engine's and the workload's seed.
        measure: this machine's rates for the engine's settings, asked for where a group is sized by them; None where they cannot be
            had, which the run's labels say. Without ``measure`` groups keep the times and lengths of the file.

    Raises:
        ScenarioError: the file is missing or wrong.
        ConfigError: an override is.
    """
    path = find(name_or_path)
    return resolve(load(path), path.stem, overrides, run_id=run_id, seed=seed, base=path.parent, measure=measure)


def resolve(
    scenario: Scenario,
    name: str,
    overrides: Mapping[str, str] | None = None,
    *,
    run_id: str | None = None,
    seed: int | None = None,
    base: Path | None = None,
    measure: Measure | None = None,
) -> RunSpec:
    """``build`` for a scenario already in hand; ``base`` is where relative trace paths are looked for second."""
    asked, engine_settings = _apart(overrides or {})
    engine = apply_overrides(scenario.engine, engine_settings)
    workload, as_given = override_workload(scenario.workload, asked)
    if seed is not None:
        engine = engine.model_copy(update={"seed": seed})
        workload = workload.model_copy(update={"seed": seed})
    rates = _rates(workload, engine, measure)
    requests_of, sizing = (workload, None) if rates is None else _sized(workload, engine, as_given, rates)
    requests, notes = draw(requests_of, engine, base)
    if rates is None and measure is not None and is_sized(workload):
        notes.append(NOT_SIZED)
    now = time.time_ns()
    return RunSpec(
        run_id=run_id or new_run_id(),
        scenario=name,
        title=scenario.title,
        engine=engine,
        requests=requests,
        labels=(*scenario.labels, *notes),
        licences=licences(workload, base),
        time_limit_s=scenario.time_limit_s,
        sizing=sizing,
        workload={f"{WORKLOAD_PREFIX}{key}": str(value) for key, value in asked.items()},
        created_unix_ns=now,
        asked_unix_ns=now,
    )


def apply_settings(scenario: Scenario, overrides: Mapping[str, str]) -> Scenario:
    """The scenario with engine and workload settings, named as ``build`` takes them, as its own. Raises ``ConfigError``."""
    asked, engine = _apart(overrides)
    workload, _ = override_workload(scenario.workload, asked)
    return scenario.model_copy(update={"engine": apply_overrides(scenario.engine, engine), "workload": workload})


def new_run_id() -> str:
    """A name that sorts by time: ``20260131-142233-0f3a``."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def _apart(overrides: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The workload's settings, named as it names them, and the engine's."""
    asked = {k.removeprefix(WORKLOAD_PREFIX): v for k, v in overrides.items() if k.startswith(WORKLOAD_PREFIX)}
    return asked, {k: v for k, v in overrides.items() if not k.startswith(WORKLOAD_PREFIX)}


def is_sized(workload: Workload) -> bool:
    """Whether any of its groups is made to fit the machine that serves it."""
    fits = not isinstance(workload.sizing, AsWritten)
    return fits and any(group.sized_by is not None for group in workload.groups.values())


def _rates(workload: Workload, engine: EngineConfig, measure: Measure | None) -> MachineRates | None:
    """What the workload is sized by; None where it is not."""
    if not is_sized(workload):
        return None
    if isinstance(workload.sizing, FromGiven):
        return workload.sizing.rates
    return None if measure is None else measure(engine)


def _sized(
    workload: Workload, engine: EngineConfig, as_given: Sequence[str], rates: MachineRates
) -> tuple[Workload, Sizing]:
    """The workload with its groups made to fit the machine, and what was chosen."""
    seed = engine.seed if workload.seed is None else workload.seed
    changed, chosen = dict(workload.groups), {}
    for name, group in workload.groups.items():
        sized = group.sized_by
        if sized is None:
            continue
        words = None
        if sized.prefill_steps is not None:
            output = mean_request(name, group, seed, rates).output_tokens
            words = sized_words(sized.prefill_steps, group.prompt.words, output, rates)  # type: ignore[union-attr]
            group = group.model_copy(update={"prompt": group.prompt.model_copy(update={"words": words})})
        fitted = stretch_of(sized, group.arrivals.mean_gap_s, mean_request(name, group, seed, rates), engine, rates)
        changed[name] = group.model_copy(update={"arrivals": group.arrivals.stretched(fitted.stretch)})
        chosen[name] = fitted.model_copy(update={"words": words})
    measured = not isinstance(workload.sizing, FromGiven)
    sizing = Sizing(rates=rates, measured=measured, groups=chosen, as_given=tuple(as_given))
    return workload.model_copy(update={"groups": changed}), sizing


def override_workload(workload: Workload, asked: Mapping[str, str]) -> tuple[Workload, list[str]]:
    """Apply ``workload.`` overrides, named without that: ``seed``, ``speed``, ``GROUP.key``, or with a single group just ``key``.

    Returns the workload, and the sized groups whose times were set by hand: those are taken as they are. Raises ``ConfigError``.
    """
    named = full_names(workload, asked)
    groups, as_given = dict(workload.groups), []
    for name, group in workload.groups.items():
        times = [key for key in named if _sets_a_time(key, name)]
        sized = group.sized_by is not None or any(key.startswith(f"groups.{name}.sized_by") for key in named)
        if times and sized:
            refuse_contradictions(named, name, times, WORKLOAD_PREFIX)
            groups[name] = group.model_copy(update={"sized_by": None})
            as_given.append(name)
    if named.get("sizing", named.get("sizing.kind")) == "fixed":
        sizes = next((key for key in named if ".sized_by" in key), None)
        if sizes is not None:
            raise ConfigError(
                f"{WORKLOAD_PREFIX}{sizes.removeprefix('groups.')}",
                named[sizes],
                "With workload.sizing=fixed nothing is sized.",
                "Give one of the two.",
            )
    return apply_overrides(workload.model_copy(update={"groups": groups}), named, prefix=WORKLOAD_PREFIX), as_given


def _sets_a_time(name: str, group: str) -> bool:
    """Whether a setting by its full name says when a group's requests come."""
    own = f"groups.{group}.arrivals"
    return name in {own, *(f"{own}.{key}" for key in ("kind", "pause", *TIMES, *PACES))} or name.startswith(
        f"{own}.pause."
    )


def full_names(workload: Workload, asked: Mapping[str, str]) -> dict[str, str]:
    """The settings by their names inside the workload: ``groups.GROUP.key``. Raises ``ConfigError`` for an unknown one."""
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
            known = ["seed", "speed", "sizing", *(["recipe", "requests"] if workload.recipe else workload.groups)]
            mend = suggest(first, {WORKLOAD_PREFIX + key: key for key in known})
            raise ConfigError(f"{WORKLOAD_PREFIX}{name}", value, f"There is no {first!r} in this workload.", mend)
    return named
