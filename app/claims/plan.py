"""A claim file as an experiment: what is wrong with it is said before anything runs, by file, line and key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.experiments.plan import WORKLOAD, Variant, plan
from engine.config import ConfigError, RunSpec, suggest
from scenarios.papers import claim_file
from scenarios.papers.claim import Claim
from scenarios.papers.claim_file import as_settings, as_text, refusal, repeats, shared_settings, variant_name, with_line
from scenarios.yaml_file import ScenarioError
from store import claim_figures
from store.plan import ClaimMark, Experiment

if TYPE_CHECKING:
    from scenarios.build import Measure


def plan_claim(paper: str, *, quick: bool, measure: Measure | None = None) -> tuple[Experiment, dict[str, RunSpec]]:
    """The experiment that tests a paper's claim, with the claim's hash in it, and each variant's spec.

    Raises:
        ScenarioError: there is no claim of this name, or something in its file is wrong (file, line, key, value, mend).
    """
    claim = claim_file.claim(paper)
    return planned(claim, claim_file.folder() / f"{paper}.yaml", quick=quick, measure=measure)


def planned(
    claim: Claim, path: Path, *, quick: bool, measure: Measure | None = None
) -> tuple[Experiment, dict[str, RunSpec]]:
    """``plan_claim`` of a claim that was read from ``path``, whose name is the paper's."""
    refuse_unknown_metrics(claim, path)
    points = claim.points(quick)
    variants = [
        Variant(variant_name(name, point), as_settings(point.set if point else {}, settings))
        for point in points
        for name, settings in claim.variants.items()
    ]
    asks = any(key.startswith(WORKLOAD) for variant in variants for key in variant.settings)
    try:
        experiment, specs = plan(
            claim.scenario,
            variants,
            repeats(claim, quick),
            common=shared_settings(claim, quick),
            kind="sweep" if asks else "compare",
            measure=measure,
        )
    except ConfigError as error:
        raise _in_file(claim, path, error) from None
    for point in points:
        names = {name: variant_name(name, point) for name in claim.variants}
        refuse_unnamed_differences(claim, path, {name: specs[full] for name, full in names.items()})
    mark = ClaimMark(path.stem, claim_file.claim_hash(claim, quick), quick)
    return replace(experiment, claim=mark, title=f"{path.stem}: {experiment.title}", question=claim.says), specs


def refuse_unknown_metrics(claim: Claim, path: Path) -> None:
    """Raises ``ScenarioError`` for a figure of a metric that does not exist."""
    known = claim_figures.names()
    for name, figure in claim.figures.items():
        if figure.metric is not None and figure.metric not in known:
            message = f"There is no metric {figure.metric!r}."
            raise refusal(path, f"figures.{name}.metric", figure.metric, message, suggest(figure.metric, known))


def refuse_unnamed_differences(claim: Claim, path: Path, specs: Mapping[str, RunSpec]) -> None:
    """Raises ``ScenarioError`` where variants, at one point, differ in what ``varies`` does not name. ``specs``: by
    variant.
    """
    base = specs[claim.baseline]
    before = dict(_leaves(base.engine.model_dump()))
    for name, spec in specs.items():
        after = dict(_leaves(spec.engine.model_dump()))
        different = [key for key in {**before, **after} if before.get(key) != after.get(key)]
        if not any(key.startswith(WORKLOAD) for key in claim.varies) and spec.workload_hash != base.workload_hash:
            different.append("workload")
        for key in different:
            if not any(key == named or key.startswith(f"{named}.") for named in claim.varies):
                message = f"It differs from {claim.baseline} in {key}, which varies does not name."
                mend = f"Set it for all under set, or add {key} to varies if the claim is about it."
                raise refusal(path, f"variants.{name}", None, message, mend)


def _leaves(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield f"{prefix}{key}", True  # switched on
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _in_file(claim: Claim, path: Path, error: ConfigError) -> ScenarioError:
    """An error about a setting, or the scenario, at its place in the claim file."""
    places = [("set", claim.set), ("quick.set", claim.quick.set)]
    places += [(f"variants.{name}", settings) for name, settings in claim.variants.items()]
    for key, points in (("sweep.points", claim.points(False)), ("quick.points", claim.quick.points or ())):
        places += [(f"{key}.{n}.set", point.set) for n, point in enumerate(points) if point is not None]
    candidates = [
        (as_text(value) == str(error.value), len(name), f"{place}.{name}")
        for place, settings in places
        for name, value in settings.items()
        if f"{error.field}.".startswith(f"{name}.")
    ]
    if candidates:
        return with_line(path, max(candidates)[2], error)
    if isinstance(error, ScenarioError) and error.field == "scenario":
        return with_line(path, "scenario", error)
    return ScenarioError(f"{path.name}: {error.field}", error.value, error.message, error.mend)
