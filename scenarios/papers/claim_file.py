"""Reading claim files: ``claims/NAME.yaml`` beside the cards, named as the card whose claim they test."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from scenarios.measurement import Measurement
from scenarios.measurement_file import Place, as_settings, measured_hash, refuse_unsound, with_line
from scenarios.papers.claim import OVER_A_SWEEP, Claim
from scenarios.yaml_file import ScenarioError, read_as

BEGIN = "says, paper and scenario"
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
    refuse_unsound(parsed, Place(path))
    _refuse_lone_sweeps(parsed, Place(path))
    return parsed


def shared_settings(claim: Claim, quick: bool) -> dict[str, str]:
    """What all variants share: the file's own, the seed, and the quick form's."""
    return as_settings({"seed": claim.seed}, claim.set, claim.quick.set if quick else {})


def repeats(claim: Claim, quick: bool) -> int:
    """How often each variant is served."""
    return claim.quick.repeats if quick else claim.repeats


def claim_hash(claim: Claim, quick: bool) -> str:
    """SHA-256 over everything that decides the verdict: scenario, settings, seeds, variants, figures, comparators, thresholds, gates, regimes."""
    decides = claim.model_dump(mode="json", exclude=PROSE | {"quick", "repeats", *Measurement.model_fields})
    others = decides | {"repeats": repeats(claim, quick)}
    return measured_hash(claim, claim.points(quick), shared_settings(claim, quick), others)


def _refuse_lone_sweeps(claim: Claim, place: Place) -> None:
    """Raises ``ScenarioError`` for a predicate that needs a sweep where there is none."""
    for n, predicate in enumerate(claim.predicates):
        if predicate.kind in OVER_A_SWEEP and claim.sweep is None:
            message = f"A predicate of kind {predicate.kind} is about a sweep, and there is none."
            raise place.refusal(f"predicates.{n}.kind", predicate.kind, message, "Add sweep, or take another kind.")
