"""A paper's claim as an experiment: what is wrong with its file is said before anything runs, by file, line and key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from app.experiments.measurement import plan_measurement
from engine.config import RunSpec
from scenarios.measurement_file import Place
from scenarios.papers import claim_file
from scenarios.papers.claim import Claim
from scenarios.papers.claim_file import repeats, shared_settings
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
    experiment, specs = plan_measurement(
        claim,
        Place(path),
        points=claim.points(quick),
        settings=shared_settings(claim, quick),
        repeats=repeats(claim, quick),
        measure=measure,
    )
    mark = ClaimMark(path.stem, claim_file.claim_hash(claim, quick), quick)
    return replace(experiment, claim=mark, title=f"{path.stem}: {experiment.title}", question=claim.says), specs
