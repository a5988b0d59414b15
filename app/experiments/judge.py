"""The result of an experiment: the object ``servescope compare --json`` prints and the Compare page draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import numpy as np

from app.errors import LabError
from app.experiments import stop_rule
from app.experiments.disturbed import without_disturbed
from app.experiments.expectations import Side, expectations
from app.experiments.file import read_experiment
from app.experiments.missing_runs import as_it_is
from app.experiments.plan import WORKLOAD, Experiment, is_synthetic
from app.experiments.rate_search import capacity_result
from app.home import Home
from app.runs.latencies import NO_GROUP
from app.settings import controls as book
from engine.config import EngineConfig, spec_of_today
from store import queries
from store.aside import rows_aside
from store.samples import RunSamples, alone, attainment_by_scale, read_samples, with_slo
from store.slo import GOODPUT_ATTAINMENT, STRICT_ATTAINMENT, Alone, Slo, goodput, parse_slo
from store.statistics import OF_A_GROUP, STATISTICS, Effect, compare, in_words

Effects = dict[str, dict[str, Effect]]
SCALES = tuple(float(scale) for scale in np.round(np.geomspace(0.1, 10, 21), 4))


def result_of_experiment(
    home: Home, experiment_id: str, slo: str | None = None, *, calm: bool = False
) -> dict[str, Any]:
    """The result from the runs' own spools, whether or not a lab has the database open. ``calm``: of a comparison,
    without the repeats in which a run was disturbed.

    Raises ``LabError`` for an unknown experiment, or one that cannot be judged, with the reason.
    """
    experiment = as_it_is(home, read_experiment(home, experiment_id))
    if experiment.kind == "capacity":
        return capacity_result(home, experiment)
    if calm:
        experiment = without_disturbed(home, experiment)
    runs = (run_id for variant in experiment.variants for run_id in experiment.runs_of(variant.name))
    with rows_aside(home.runs, runs) as rows:
        return judge(rows.con, experiment, slo)


def judge(con: duckdb.DuckDBPyConnection, experiment: Experiment, slo: str | None = None) -> dict[str, Any]:
    """The result from the database; ``slo``: an objective other than the experiment's.

    Raises ``LabError`` where the runs cannot be compared, with the reason; ``StoreError`` for an objective that is
    none.
    """
    objective = parse_slo(slo or experiment.slo)
    repeats = _complete_repeats(experiment)
    runs = {v.name: experiment.runs_of(v.name)[:repeats] for v in experiment.variants}
    rows = {run_id: queries.run(con, run_id) for ids in runs.values() for run_id in ids}
    _refuse_unlike_runs(experiment, runs, rows)
    unloaded = alone(con, runs[experiment.baseline])
    samples = {
        name: [with_slo(read_samples(con, run_id), objective, unloaded) for run_id in ids] for name, ids in runs.items()
    }
    effects = effects_of(experiment, samples)
    digests = {name: {run.output_digest for run in kept} for name, kept in samples.items()}
    return {
        **experiment.about(),
        "repeats": repeats,
        "repeats_planned": experiment.repeats,
        "labels": sorted({label for row in rows.values() for label in (row or {}).get("labels", [])}),
        "variants": {
            v.name: {
                "settings": v.settings,
                "workload_hash": experiment.workload_hashes[v.name],
                "runs": runs[v.name],
                "same_tokens_as_baseline": digests[v.name] == digests[experiment.baseline]
                and None not in digests[v.name],
                "machine": [run.machine for run in samples[v.name]],
                "disturbed": [run.run_id for run in samples[v.name] if run.machine.get("disturbances")],
            }
            for v in experiment.variants
        },
        "differs": what_differs(experiment, {name: rows[ids[0]] or {} for name, ids in runs.items()}),
        "metrics": {
            name: {variant: effect.as_dict() for variant, effect in by_variant.items()}
            for name, by_variant in effects.items()
        },
        "groups": _by_group(experiment, samples),
        "slo": _slo_figures(objective, unloaded, samples),
        "goodput": goodputs(experiment, samples, effects.get("slo_attainment", {})),
        "stop": stop_rule.about(experiment),
        "expect": expectations(
            con, experiment.scenario, _sides(experiment, runs, rows), [run for own in samples.values() for run in own]
        ),
        "summary": [
            in_words(effects, v.name, base)
            for v in experiment.variants
            if (base := baseline_of(experiment, v.name)) != v.name
        ],
    }


def _sides(
    experiment: Experiment, runs: Mapping[str, Sequence[str]], rows: Mapping[str, Mapping[str, Any] | None]
) -> list[Side]:
    """The variants that were asked the same as the baseline, with their settings as they were served."""
    alike = [v.name for v in experiment.variants if baseline_of(experiment, v.name) == experiment.baseline]
    return [Side(name, _engine(rows[runs[name][0]] or {}), runs[name]) for name in alike]


def _engine(row: Mapping[str, Any]) -> EngineConfig:
    return EngineConfig.model_validate(spec_of_today(row.get("spec") or {}).get("engine") or {})


def _complete_repeats(experiment: Experiment) -> int:
    """How many repeats every side has finished. Raises ``LabError`` for none, and for a search for capacity."""
    if experiment.kind == "capacity":
        raise LabError(
            "not-comparable",
            field="experiment",
            value=experiment.experiment_id,
            message="This is a search for capacity: each of its runs was asked at another rate.",
            mend="Its result is that of servescope capacity.",
        )
    repeats = experiment.complete_repeats()
    if repeats == 0:
        raise LabError(
            "unfinished",
            field="experiment",
            value=experiment.experiment_id,
            message="No repeat of this experiment is finished on every side.",
            mend=experiment.problem or f"Go on with: servescope compare --resume {experiment.experiment_id}",
        )
    return repeats


def what_differs(experiment: Experiment, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Setting -> variant -> value, of the settings that differ in what was served. ``rows``: variant -> a run's row.

    Parts of a technique that is off on a side have no say there, and say so.
    """
    engines = {name: _engine(row) for name, row in rows.items()}
    differences: dict[str, dict[str, str]] = {}
    for control in book.controls():
        technique = control.path.rpartition(".")[0]
        told = {
            name: book.as_text(control, book.value_of(engine, control.path))
            for name, engine in engines.items()
            if not technique or getattr(engine, technique) is not None
        }
        if len(set(told.values())) > 1:
            differences[control.path] = {name: told.get(name, "no say") for name in engines}
    asked = dict.fromkeys(
        key for variant in experiment.variants for key in variant.settings if key.startswith(WORKLOAD)
    )
    for key in asked:
        told = {variant.name: variant.settings.get(key, "as the scenario has it") for variant in experiment.variants}
        if len(set(told.values())) > 1:
            differences[key] = told
    return differences


def baseline_of(experiment: Experiment, name: str) -> str:
    """What a variant is set against: the first variant with the same requests (in a comparison, the first of all)."""
    wanted = experiment.workload_hashes[name]
    return next(v.name for v in experiment.variants if experiment.workload_hashes[v.name] == wanted)


def _by_group(experiment: Experiment, samples: dict[str, list[RunSamples]]) -> dict[str, Any]:
    """Latencies of each group of requests as ``metrics`` has those of all, by the group's name; empty where there is
    one group.
    """
    runs = [run for own in samples.values() for run in own]
    names = sorted(set.intersection(*(set(run.groups) for run in runs))) if runs else []
    return {
        group or NO_GROUP: {
            name: {variant: effect.as_dict() for variant, effect in by_variant.items()}
            for name, by_variant in effects_of(
                experiment, {v: [run.of_group(group) for run in own] for v, own in samples.items()}, OF_A_GROUP
            ).items()
        }
        for group in (names if len(names) > 1 else ())
    }


def effects_of(
    experiment: Experiment, samples: dict[str, list[RunSamples]], statistics: Sequence[str] = tuple(STATISTICS)
) -> Effects:
    """Every statistic of every variant, each against the baseline that was asked the same."""
    effects: Effects = {name: {} for name in STATISTICS}
    groups: dict[str, dict[str, list[RunSamples]]] = {}
    for variant in experiment.variants:
        groups.setdefault(baseline_of(experiment, variant.name), {})[variant.name] = samples[variant.name]
    for base, group in groups.items():
        for name, by_variant in compare(group, base, statistics=statistics).items():
            effects[name] |= by_variant
    return {name: by_variant for name, by_variant in effects.items() if by_variant}


def _slo_figures(objective: Slo, unloaded: Alone, samples: dict[str, list[RunSamples]]) -> dict[str, Any]:
    """The objective, what a request alone would see, and each variant's attainment with both bounds scaled."""
    return {
        "name": objective.name,
        "words": objective.words,
        "source": objective.source,
        "relative": objective.relative,
        "ttft": objective.ttft,
        "tpot": objective.tpot,
        "alone": {"step_ms": _known(unloaded.step_ms), "prompt_token_ms": _known(unloaded.prompt_token_ms)},
        "scales": list(SCALES),
        "attainment": {
            name: attainment_by_scale(runs, objective, unloaded, np.array(SCALES)).tolist()
            for name, runs in samples.items()
        },
    }


def goodputs(
    experiment: Experiment, samples: dict[str, list[RunSamples]], attainment: Mapping[str, Effect]
) -> list[dict[str, Any]]:
    """Of a sweep over how fast requests come: the highest rate that is still served in time, by the other settings.

    Rates are requests/s as they came; attainment of 90 % (DistServe's goodput) and of 99 %.
    """
    rate_keys = [key for key in experiment.over if is_rate(key)]
    groups: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
    intervals: dict[tuple[float, float], tuple[float, float] | None] = {}
    for variant in experiment.variants if rate_keys else ():
        others = tuple((key, variant.settings[key]) for key in experiment.over if key not in rate_keys)
        runs = samples[variant.name]
        offered = float(np.mean([run.totals.get("offered_per_s", np.nan) for run in runs]))
        reached = float(np.mean([run.totals["slo_attainment"] for run in runs]))
        if np.isfinite(offered) and np.isfinite(reached):
            groups.setdefault(others, []).append((offered, reached))
            intervals[offered, reached] = attainment[variant.name].interval
    return [
        {
            "settings": dict(others),
            "measured": sorted(points),
            "intervals": [intervals[point] for point in sorted(points)],
            "requests_per_s": goodput([rate for rate, _ in points], [share for _, share in points], GOODPUT_ATTAINMENT),
            "strict_requests_per_s": goodput([r for r, _ in points], [share for _, share in points], STRICT_ATTAINMENT),
        }
        for others, points in groups.items()
    ]


def goodput_in_words(goodput: dict[str, Any]) -> str:
    """One line of ``goodputs``."""
    where = ", ".join(f"{key}={value}" for key, value in goodput["settings"].items()) or "Goodput"
    rate = goodput["requests_per_s"]
    said = "none of the rates" if rate is None else f"up to {rate:.3g} requests/s"
    return f"{where}: {said} with {GOODPUT_ATTAINMENT:.0%} of the requests in time."


def is_rate(key: str) -> bool:
    """Whether a setting says how fast requests come."""
    return key == "workload.speed" or (key.startswith("workload.") and key.endswith((".rate", ".speed")))


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _refuse_unlike_runs(
    experiment: Experiment, runs: dict[str, list[str]], rows: dict[str, dict[str, Any] | None]
) -> None:
    """What the runs themselves say must agree, whatever the plan said."""
    base_row = rows[runs[experiment.baseline][0]]
    repeat_of = {turn.run_id: turn.repeat for turn in experiment.turns}
    for name, ids in runs.items():
        for run_id in ids:
            row = rows[run_id]
            reason = None
            if row is None or base_row is None or row["state"] != "finished" or "unfinished" in row["labels"]:
                reason = f"run {run_id} is not finished"
            elif row["workload_hash"] and row["workload_hash"] != experiment.hash_of(name, repeat_of[run_id]):
                reason = f"run {run_id} was asked other requests (its workload hash differs)"
            elif _weights(row) != _weights(base_row):
                reason = f"run {run_id} served other weights"
            elif is_synthetic(row["labels"]) != is_synthetic(base_row["labels"]):
                reason = f"of {run_id} and the baseline, one is synthetic and the other is not"
            if reason is not None:
                raise LabError(
                    "not-comparable",
                    field="run",
                    value=run_id,
                    message=f"These runs cannot be compared: {reason}.",
                    mend="Run the comparison again.",
                )


def _weights(row: dict[str, Any]) -> Any:
    """What tells one model's weights from another's: its name, shape and number of parameters."""
    spec, model = row.get("spec") or {}, row.get("model") or {}
    return (spec.get("engine") or {}).get("model"), model.get("name"), model.get("parameters")
