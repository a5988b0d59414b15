"""Reading claim files: ``claims/NAME.yaml`` beside the cards, named as the card whose claim they test."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from engine.config import ConfigError, suggest
from scenarios.load import load
from scenarios.papers.claim import OVER_A_SWEEP, Claim, Point, Setting, Settings
from scenarios.yaml_file import ScenarioError, line_of, read_as

BEGIN = "says, paper and scenario"
WORDS = {True: "on", False: "off", None: "none"}
PROSE = {"says", "paper", "differs", "plot"}
"""Keys that change nothing about what is measured or concluded."""


def folder() -> Path:
    """The folder of the claim files."""
    return Path(__file__).with_name("claims")


def names() -> list[str]:
    """The papers whose claims can be run."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


@cache
def claim(name: str) -> Claim:
    """Read and check a paper's claim.

    Raises:
        ScenarioError: there is none, or something in its file is wrong (file, line, key, value, mend).
    """
    if name not in names():
        mend = f"These have one: {', '.join(names()) or 'none yet'}."
        raise ScenarioError("paper", name, "The claim of this paper cannot be run here.", mend)
    return read_claim(folder() / f"{name}.yaml")


def read_claim(path: Path) -> Claim:
    """Read and check a claim file by itself; metrics and settings are checked where it is planned. Raises ``ScenarioError``."""
    try:
        parsed = read_as(Claim, path, BEGIN)
    except ScenarioError as error:
        raise with_line(path, error.field.partition(": ")[2], error) from None
    _refuse_unknown_names(path, parsed)
    _refuse_circles(path, parsed)
    _refuse_lone_sweeps(path, parsed)
    return parsed


def with_line(path: Path, field: str, error: ConfigError) -> ScenarioError:
    """The error, its field as ``FILE:LINE: field``."""
    line = line_of(path, field)
    where = path.name if line is None else f"{path.name}:{line}"
    return ScenarioError(f"{where}: {field}" if field else error.field, error.value, error.message, error.mend)


def refusal(path: Path, field: str, value: Any, message: str, mend: str) -> ScenarioError:
    """An error at a key of a claim file."""
    return with_line(path, field, ConfigError(field, value, message, mend))


def as_text(value: Setting) -> str:
    """A setting as ``--set`` takes it."""
    if value is None or isinstance(value, bool):
        return WORDS[value]
    return json.dumps(value) if isinstance(value, dict) else str(value)


def as_settings(*several: Settings) -> dict[str, str]:
    """Settings as ``--set`` takes them; later ones win."""
    return {name: as_text(value) for settings in several for name, value in settings.items()}


def shared_settings(claim: Claim, quick: bool) -> dict[str, str]:
    """What all variants share: the file's own, the seed, and the quick form's."""
    return as_settings({"seed": claim.seed}, claim.set, claim.quick.set if quick else {})


def repeats(claim: Claim, quick: bool) -> int:
    """How often each variant is served."""
    return claim.quick.repeats if quick else claim.repeats


def variant_name(name: str, point: Point | None) -> str:
    """What a variant is called in the experiment: ``NAME``, or ``NAME @ 512`` at a point of the sweep."""
    return name if point is None else f"{name} @ {point.x:g}"


def claim_hash(claim: Claim, quick: bool) -> str:
    """SHA-256 over everything that decides the verdict: scenario, settings, seeds, variants, figures, comparators, thresholds, gates, regimes."""
    data = claim.model_dump(mode="json", exclude=PROSE | {"quick", "repeats", "sweep"})
    data["repeats"] = repeats(claim, quick)
    data["shared"] = shared_settings(claim, quick)
    data["points"] = [point and point.model_dump(mode="json") for point in claim.points(quick)]
    data["scenario"] = load(claim.scenario).model_dump(mode="json")
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _refuse_unknown_names(path: Path, claim: Claim) -> None:
    for field, name in claim.names_of_variants():
        if name not in claim.variants:
            raise refusal(path, field, name, f"There is no variant {name!r}.", suggest(name, list(claim.variants)))
    for field, name in claim.names_of_figures():
        if name not in claim.figures:
            raise refusal(path, field, name, f"There is no figure {name!r}.", suggest(name, list(claim.figures)))


def _refuse_circles(path: Path, claim: Claim) -> None:
    """Raises ``ScenarioError`` where a figure is made of itself, by whatever way round."""
    done: set[str] = set()

    def walk(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            circle = " -> ".join((*above[above.index(name) :], name))
            message = f"A figure cannot be made of itself: {circle}."
            raise refusal(path, f"figures.{name}", None, message, "Make one of them a metric of a variant.")
        if name not in done:
            for part in claim.figures[name].parts:
                walk(part, (*above, name))
            done.add(name)

    for name in claim.figures:
        walk(name, ())


def _refuse_lone_sweeps(path: Path, claim: Claim) -> None:
    """Raises ``ScenarioError`` for what needs a sweep where there is none, and for points that are not on it."""
    for n, predicate in enumerate(claim.predicates):
        if predicate.kind in OVER_A_SWEEP and claim.sweep is None:
            message = f"A predicate of kind {predicate.kind} is about a sweep, and there is none."
            raise refusal(path, f"predicates.{n}.kind", predicate.kind, message, "Add sweep, or take another kind.")
    places = [{point.x for point in claim.points(quick) if point} for quick in (False, True)]
    named = [(f"figures.{name}.at", figure.at) for name, figure in claim.figures.items()]
    named += [(f"regimes.{n}.at", regime.at) for n, regime in enumerate(claim.regimes)]
    for field, at in named:
        if at is not None and not all(at in known for known in places):
            both = sorted(places[0] & places[1])
            mend = f"It must be one of {', '.join(f'{x:g}' for x in both)}." if both else "Leave it out."
            raise refusal(path, field, at, "The sweep has no such point, whole and quick.", mend)
