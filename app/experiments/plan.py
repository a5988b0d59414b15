"""An experiment: the same requests, served in two or more ways, several times over.

``HOME/experiments/<id>/experiment.json`` holds the plan and how far it has come. Requests are drawn once, into a spec
per *workload*; the variants' own specs differ from it in the engine's settings alone, which their common workload hash
proves. The order is counterbalanced (A B B A ...), so that a machine that slowly gets warmer or busier favours nobody;
a short run before the first is discarded.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from app.errors import LabError
from engine.config import RunSpec, apply_overrides, switches_off
from store.plan import MOST_REPEATS, MOST_VARIANTS, Experiment, Turn, Variant
from store.slo import DEFAULT_SLO, parse_slo

if TYPE_CHECKING:
    from scenarios.build import Measure

WARM_UP_REQUESTS = 4
WARM_UP_TOKENS = 8  # of each answer: steps are warm by then
MOST_ATTEMPTS = 3
WORKLOAD = "workload."
SEED = "workload.seed"
NAME = re.compile(r"[^\x00-\x1f\x7f]{1,200}")

FINAL_STATES = frozenset({"finished", "failed"})


def plan(
    scenario: str,
    variants: Sequence[Variant],
    repeats: int,
    *,
    common: Mapping[str, str] | None = None,
    kind: Literal["compare", "sweep"] = "compare",
    over: Mapping[str, Sequence[str]] | None = None,
    slo: str = DEFAULT_SLO,
    fewest: int = 2,
    measure: Measure | None = None,
    draws: int = 0,
) -> tuple[Experiment, dict[str, RunSpec]]:
    """A new experiment, and each variant's spec (without a run id of its own).

    ``common``: settings all variants share; each variant's own are applied on top of them. ``kind``: in a sweep the
    workload may differ between variants. ``fewest``: variants it takes. ``measure``: as ``scenarios.build`` takes it; a
    workload is sized once, for all its variants. ``draws``: of a comparison whose repeats each ask requests of their
    own, drawn from another seed, for how many repeats; their specs are there by ``draw_key``.

    Raises:
        LabError: too few or too many variants, a name given twice, or sides that cannot be compared, with the reason.
        StoreError: ``slo`` is no objective.
        ConfigError, ScenarioError: a setting or the scenario is wrong.
    """
    import scenarios

    check_names(variants, fewest)
    parse_slo(slo)
    if not 1 <= repeats <= MOST_REPEATS:
        said = f"Repeats are a number from 1 to {MOST_REPEATS}."
        raise LabError("bad-experiment", field="repeats", value=repeats, message=said)
    variants = [_with_common(common or {}, variant) for variant in variants]
    specs = _specs(scenario, variants, common or {}, measure)
    base = specs[variants[0].name]
    if kind == "compare":
        for name, spec in specs.items():
            refuse_unlike(variants[0].name, base, name, spec)
    info = scenarios.load(scenario)
    experiment = Experiment(
        experiment_id=f"x-{scenarios.new_run_id()}",
        kind=kind,
        scenario=base.scenario,
        title=base.title,
        question=info.question,
        variants=tuple(variants),
        repeats=repeats,
        turns=turns([v.name for v in variants], repeats),
        workload_hashes={name: spec.workload_hash for name, spec in specs.items()},
        created_unix_ns=time.time_ns(),
        over={key: tuple(values) for key, values in (over or {}).items()},
        slo=slo,
        sizing=base.sizing.in_words if base.sizing is not None else "",
    )
    if draws:
        drawn = draws_of(scenario, base, common or {}, draws, measure)
        experiment = replace(experiment, draws=tuple(spec.workload_hash for spec in (base, *drawn)))
        specs |= {draw_key(n): spec for n, spec in enumerate(drawn, 1)}
    return experiment, specs


def draw_key(repeat: int) -> str:
    """By what the specs of a plan hold a repeat's own requests; no variant can be called so."""
    return f"\x00draw {repeat}"


def draws_of(
    scenario: str, base: RunSpec, common: Mapping[str, str], draws: int, measure: Measure | None
) -> list[RunSpec]:
    """The same workload from further seeds, for all repeats but the first."""
    import scenarios

    known = common.get(SEED, scenarios.load(scenario).workload.seed)
    first = base.engine.seed if known is None else int(known)
    return [scenarios.build(scenario, dict(common) | {SEED: str(first + n)}, measure=measure) for n in range(1, draws)]


def _specs(
    scenario: str, variants: Sequence[Variant], common: Mapping[str, str], measure: Measure | None
) -> dict[str, RunSpec]:
    """Each variant's spec; requests are drawn once for all that ask the same."""
    import scenarios

    drawn: dict[str, RunSpec] = {}
    specs: dict[str, RunSpec] = {}
    for variant in variants:
        workload = {k: v for k, v in variant.settings.items() if k.startswith(WORKLOAD)}
        engine = {k: v for k, v in variant.settings.items() if not k.startswith(WORKLOAD)}
        key = repr(sorted(workload.items()))
        if key not in drawn:
            drawn[key] = _absolute(scenarios.build(scenario, dict(common) | workload, measure=measure))
        spec = drawn[key]
        specs[variant.name] = _absolute(spec.model_copy(update={"engine": apply_overrides(spec.engine, engine)}))
    return specs


def turns(names: Sequence[str], repeats: int) -> tuple[Turn, ...]:
    """A warm-up, then A B, B A, A B, ...: every other repeat backwards."""
    order = [Turn(names[0], 0, warm_up=True)]
    for repeat in range(repeats):
        order += [Turn(name, repeat) for name in (names if repeat % 2 == 0 else reversed(names))]
    return tuple(order)


def grid(over: Mapping[str, Sequence[str]]) -> list[Variant]:
    """Every combination of a sweep's values, as variants named by what they set. Raises ``LabError`` for none or too
    many.
    """
    variants = [
        Variant(", ".join(f"{k}={v}" for k, v in zip(over, values, strict=True)), dict(zip(over, values, strict=True)))
        for values in itertools.product(*over.values())
    ]
    if not over or not 2 <= len(variants) <= MOST_VARIANTS:
        raise LabError(
            "bad-experiment",
            field="--over",
            value=len(variants),
            message=f"A sweep takes 2 to {MOST_VARIANTS} combinations; these are {len(variants) if over else 0}.",
            mend="For example: --over chunked_prefill.token_budget=32,64,128",
        )
    return variants


def refuse_unlike(base_name: str, base: RunSpec, name: str, spec: RunSpec) -> None:
    """Raises ``LabError`` where two sides cannot be compared, saying why."""
    reason = None
    if spec.workload_hash != base.workload_hash:
        reason = "their requests differ (the workload hash says so)"
    elif spec.engine.model != base.engine.model:
        reason = f"they serve different models ({base.engine.model} and {spec.engine.model})"
    elif is_synthetic(spec.labels) != is_synthetic(base.labels):
        reason = "one of them is synthetic and the other is not"
    if reason is not None:
        raise LabError(
            "not-comparable",
            field="variant",
            value=name,
            message=f"{base_name} and {name} cannot be compared: {reason}.",
            mend="Change only how requests are served: seed, sampling, model and workload are the same for all sides.",
        )


def is_synthetic(labels: Sequence[str]) -> bool:
    """Whether a label says that the figures are not those of a real engine serving this model."""
    return any(word in label for label in labels for word in ("synthetic", "simulated"))


def spec_of_turn(specs: Mapping[str, RunSpec], experiment: Experiment, index: int) -> RunSpec:
    """The spec of the plan's next attempt at a turn, with its run id."""
    turn = experiment.turns[index]
    spec = specs[turn.variant]
    if experiment.draws and turn.repeat:
        draw = specs[draw_key(turn.repeat)]
        own = {name: getattr(draw, name) for name in ("requests", "labels", "licences", "sizing", "workload")}
        spec = spec.model_copy(update=own)
    attempt = f"-{turn.attempts + 1}" if turn.attempts else ""
    if turn.warm_up:
        title = f"{turn.variant}, warm-up"
    elif turn.rate is not None:
        title = f"{turn.variant}, {turn.rate:.3g} requests/s"
        before = [t for t in experiment.turns[:index] if (t.variant, t.rate) == (turn.variant, turn.rate)]
        title += f", repeat {len(before) + 1}" if experiment.repeats > 1 else ""
        spec = at_rate(spec, turn.rate)
    else:
        title = f"{turn.variant}, repeat {turn.repeat + 1}"
    changes: dict[str, Any] = {
        "run_id": f"{experiment.experiment_id}-{index:03d}{attempt}",
        "experiment_id": experiment.experiment_id,
        "title": f"{experiment.title}: {title}",
        "created_unix_ns": time.time_ns(),
    }
    if turn.warm_up:
        first = [r for r in spec.requests if r.after is None][:WARM_UP_REQUESTS]
        short = [{"arrival_ns": 0, "max_tokens": min(r.max_tokens, WARM_UP_TOKENS)} for r in first]
        changes["requests"] = tuple(r.model_copy(update=one) for r, one in zip(first, short, strict=True))
        changes["labels"] = (*spec.labels, "warm-up")
    return spec.model_copy(update=changes)


def turn_in_words(turn: Turn) -> str:
    """Which run it is: ``off, repeat 2``."""
    if turn.warm_up:
        return f"{turn.variant}, warm-up"
    return (
        f"{turn.variant}, {turn.rate:.3g} requests/s"
        if turn.rate is not None
        else f"{turn.variant}, repeat {turn.repeat + 1}"
    )


def natural_rate(spec: RunSpec) -> float | None:
    """Requests/s as the workload has them, of those that come at a time; None where they come all at once."""
    times = [request.arrival_ns for request in spec.requests if request.after is None]
    span_s = (max(times) - min(times)) / 1e9 if times else 0.0
    return (len(times) - 1) / span_s if span_s > 0 else None


def at_rate(spec: RunSpec, rate: float) -> RunSpec:
    """The same requests, arriving faster or slower: every time between arrivals stretched alike."""
    own = natural_rate(spec)
    assert own is not None
    timed = [
        r if r.after is not None else r.model_copy(update={"arrival_ns": round(r.arrival_ns * own / rate)})
        for r in spec.requests
    ]
    return spec.model_copy(update={"requests": tuple(timed), "sizing": None})


def with_turn(experiment: Experiment, index: int, **changes: Any) -> Experiment:
    """The experiment with one turn changed."""
    changed = [replace(turn, **changes) if n == index else turn for n, turn in enumerate(experiment.turns)]
    return replace(experiment, turns=tuple(changed))


def check_names(variants: Sequence[Variant], fewest: int = 2) -> None:
    """Raises ``LabError`` for too few or too many variants, names that cannot be, and names given twice."""
    names = [v.name for v in variants]
    wrong = next((n for n in names if not NAME.fullmatch(n)), None)
    twice = next((n for n in names if names.count(n) > 1), None)
    if wrong is not None or twice is not None or not fewest <= len(names) <= MOST_VARIANTS:
        said = (
            f"{wrong!r} cannot name a variant" if wrong is not None
            else f"two variants are called {twice!r}" if twice is not None
            else f"a comparison takes {fewest} to {MOST_VARIANTS} variants, these are {len(names)}"
        )  # fmt: skip
        raise LabError(
            "bad-experiment",
            field="--variant",
            value=wrong or twice or ", ".join(names) or None,
            message=f"{said[0].upper()}{said[1:]}.",
            mend="For example: --variant off:chunked_prefill=off --variant on:chunked_prefill=on",
        )


def _with_common(common: Mapping[str, str], variant: Variant) -> Variant:
    """The variant with what all share, except the parts of a technique that it switches off."""
    off = tuple(f"{name}." for name, value in variant.settings.items() if switches_off(value))
    return Variant(variant.name, {n: v for n, v in common.items() if not n.startswith(off)} | variant.settings)


def _absolute(spec: RunSpec) -> RunSpec:
    """A model given as a relative path is made absolute: runs are served from another folder."""
    model = Path(spec.engine.model).expanduser()
    if not model.exists():
        return spec
    return spec.model_copy(update={"engine": spec.engine.model_copy(update={"model": str(model.resolve())})})
