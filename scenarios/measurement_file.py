"""Measurements in files: settings as text, what a variant is called, and what is wrong with one, by file, line and key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import ConfigError, suggest
from scenarios.load import load
from scenarios.measurement import Measurement, Point, Setting, Settings
from scenarios.yaml_file import ScenarioError, line_of

WORDS = {True: "on", False: "off", None: "none"}


@dataclass(frozen=True)
class Place:
    """Where a measurement stands: a file, and the dotted key in it, empty for the file as a whole."""

    path: Path
    key: str = ""

    def within(self, field: str) -> str:
        """A key of the measurement as one of the file."""
        return ".".join(part for part in (self.key, field) if part)

    def with_line(self, field: str, error: ConfigError) -> ScenarioError:
        """The error, its field as ``FILE:LINE: field``."""
        return with_line(self.path, self.within(field), error)

    def refusal(self, field: str, value: Any, message: str, mend: str) -> ScenarioError:
        """An error at a key of the measurement."""
        return self.with_line(field, ConfigError(field, value, message, mend))


def with_line(path: Path, field: str, error: ConfigError) -> ScenarioError:
    """The error, its field as ``FILE:LINE: field``."""
    line = line_of(path, field)
    where = path.name if line is None else f"{path.name}:{line}"
    return ScenarioError(f"{where}: {field}" if field else error.field, error.value, error.message, error.mend)


def as_text(value: Setting) -> str:
    """A setting as ``--set`` takes it."""
    if value is None or isinstance(value, bool):
        return WORDS[value]
    return json.dumps(value) if isinstance(value, dict) else str(value)


def as_settings(*several: Settings) -> dict[str, str]:
    """Settings as ``--set`` takes them; later ones win."""
    return {name: as_text(value) for settings in several for name, value in settings.items()}


def variant_name(name: str, point: Point | None) -> str:
    """What a variant is called in the experiment: ``NAME``, or ``NAME @ 512`` at a point of the sweep."""
    return name if point is None else f"{name} @ {point.x:g}"


def measured_hash(
    measurement: Measurement, points: Sequence[Point | None], settings: Mapping[str, str], others: Mapping[str, Any]
) -> str:
    """SHA-256 over everything that decides what is measured, with ``others`` beside it. ``settings``: what all variants share."""
    data = measurement.model_dump(mode="json", include=set(Measurement.model_fields) - {"sweep"}) | dict(others)
    data["shared"] = dict(settings)
    data["points"] = [point and point.model_dump(mode="json") for point in points]
    data["scenario"] = load(measurement.scenario).model_dump(mode="json")
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def refuse_unsound(measurement: Measurement, place: Place) -> None:
    """Raises ``ScenarioError`` for names that nothing has, figures made of themselves, and points that no sweep has."""
    _refuse_unknown_names(measurement, place)
    _refuse_circles(measurement, place)
    _refuse_lone_points(measurement, place)


def _refuse_unknown_names(measurement: Measurement, place: Place) -> None:
    for field, name in measurement.names_of_variants():
        if name not in measurement.variants:
            raise place.refusal(
                field, name, f"There is no variant {name!r}.", suggest(name, list(measurement.variants))
            )
    for field, name in measurement.names_of_figures():
        if name not in measurement.figures:
            raise place.refusal(field, name, f"There is no figure {name!r}.", suggest(name, list(measurement.figures)))


def _refuse_circles(measurement: Measurement, place: Place) -> None:
    done: set[str] = set()

    def walk(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            circle = " -> ".join((*above[above.index(name) :], name))
            message = f"A figure cannot be made of itself: {circle}."
            raise place.refusal(f"figures.{name}", None, message, "Make one of them a metric of a variant.")
        if name not in done:
            for part in measurement.figures[name].parts:
                walk(part, (*above, name))
            done.add(name)

    for name in measurement.figures:
        walk(name, ())


def _refuse_lone_points(measurement: Measurement, place: Place) -> None:
    places = [{point.x for point in form if point} for form in measurement.forms()]
    named = [(f"figures.{name}.at", figure.at) for name, figure in measurement.figures.items()]
    named += [(f"regimes.{n}.at", regime.at) for n, regime in enumerate(measurement.regimes)]
    for field, at in named:
        if at is not None and not all(at in known for known in places):
            both = sorted(set.intersection(*places))
            mend = f"It must be one of {', '.join(f'{x:g}' for x in both)}." if both else "Leave it out."
            raise place.refusal(field, at, "The sweep has no such point, whole and quick.", mend)
