"""A measurement of a file as an experiment: what is wrong is said before anything runs, by file, line and key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from app.experiments.plan import WORKLOAD, Variant, plan
from engine.config import ConfigError, RunSpec, suggest
from scenarios.measurement import Measurement, Point
from scenarios.measurement_file import Place, as_settings, as_text, variant_name
from scenarios.yaml_file import ScenarioError
from store import claim_figures
from store.plan import Experiment
from store.slo import DEFAULT_SLO

if TYPE_CHECKING:
    from scenarios.build import Measure


def plan_measurement(
    measurement: Measurement,
    place: Place,
    *,
    points: Sequence[Point | None],
    settings: Mapping[str, str],
    repeats: int,
    slo: str = DEFAULT_SLO,
    measure: Measure | None = None,
) -> tuple[Experiment, dict[str, RunSpec]]:
    """The experiment, and each variant's spec: every variant at each of the ``points``, all of them with ``settings``.

    Raises:
        ScenarioError: something in the file is wrong (file, line, key, value, mend).
    """
    refuse_unknown_metrics(measurement, place)
    variants = [
        Variant(variant_name(name, point), as_settings(point.set if point else {}, own))
        for point in points
        for name, own in measurement.variants.items()
    ]
    asks = any(key.startswith(WORKLOAD) for variant in variants for key in variant.settings)
    kind: Literal["sweep", "compare"] = "sweep" if asks else "compare"
    try:
        experiment, specs = plan(
            measurement.scenario, variants, repeats, common=settings, kind=kind, slo=slo, measure=measure
        )
    except ConfigError as error:
        raise _in_file(measurement, place, error) from None
    for point in points:
        names = {name: variant_name(name, point) for name in measurement.variants}
        refuse_unnamed_differences(measurement, place, {name: specs[full] for name, full in names.items()})
    return experiment, specs


def refuse_unknown_metrics(measurement: Measurement, place: Place) -> None:
    """Raises ``ScenarioError`` for a figure of a metric that does not exist."""
    known = claim_figures.names()
    for name, figure in measurement.figures.items():
        if figure.metric is not None and figure.metric not in known:
            message = f"There is no metric {figure.metric!r}."
            raise place.refusal(f"figures.{name}.metric", figure.metric, message, suggest(figure.metric, known))


def refuse_unnamed_differences(measurement: Measurement, place: Place, specs: Mapping[str, RunSpec]) -> None:
    """Raises ``ScenarioError`` where variants, at one point, differ in what ``varies`` does not name. ``specs``: by
    variant.
    """
    base = specs[measurement.baseline]
    before = dict(_leaves(base.engine.model_dump()))
    for name, spec in specs.items():
        after = dict(_leaves(spec.engine.model_dump()))
        different = [key for key in {**before, **after} if before.get(key) != after.get(key)]
        asked = any(key.startswith(WORKLOAD) for key in measurement.varies)
        if not asked and spec.workload_hash != base.workload_hash:
            different.append("workload")
        for key in different:
            if not any(key == named or key.startswith(f"{named}.") for named in measurement.varies):
                message = f"It differs from {measurement.baseline} in {key}, which varies does not name."
                mend = f"Set it for all under set, or add {key} to varies if the difference is meant."
                raise place.refusal(f"variants.{name}", None, message, mend)


def _leaves(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield f"{prefix}{key}", True  # switched on
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _in_file(measurement: Measurement, place: Place, error: ConfigError) -> ScenarioError:
    """An error about a setting, or the scenario, at its place in the file."""
    candidates = [
        (as_text(value) == str(error.value), len(name), f"{key}.{name}")
        for key, settings in measurement.given_settings()
        for name, value in settings.items()
        if f"{error.field}.".startswith(f"{name}.")
    ]
    if candidates:
        return place.with_line(max(candidates)[2], error)
    if isinstance(error, ScenarioError) and error.field == "scenario":
        return place.with_line("scenario", error)
    return ScenarioError(f"{place.path.name}: {place.within(error.field)}", error.value, error.message, error.mend)
