"""The verdict on a paper's claim, computed from an experiment's rows whenever it is asked for, and never kept without
them.

In this order: a claim file that changed since makes the verdict *stale*; a gate that fails makes it *invalid*, whatever
the speed; a regime that is not there makes it *regime not reached*; then the predicates' intervals decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import duckdb
import numpy as np

from app.errors import LabError
from app.experiments.measured import Measured, absent
from scenarios.papers import claim_file
from scenarios.papers.claim import Claim, Gate, Predicate
from store import gates, predicates, queries
from store.plan import Experiment
from store.query import Query

Verdict = Literal[
    "reproduced", "direction only", "not reproduced", "regime not reached", "inconclusive", "invalid", "stale"
]
VERDICTS: Mapping[Verdict, str] = {
    "reproduced": "The whole interval satisfies the claim.",
    "direction only": "The effect has the claimed sign and is smaller than claimed.",
    "not reproduced": "The interval lies outside the claim.",
    "regime not reached": "At these sizes the effect cannot exist on this machine.",
    "inconclusive": "The interval is too wide to tell.",
    "invalid": "The outputs are not what they must be, so no speed counts.",
    "stale": "The claim was changed after the runs; run it again.",
}
HOST_SHARE = 0.5  # of the steps' time outside the model, above which a claim is about Python


@dataclass(frozen=True)
class Judgement:
    """A verdict and everything it rests on, as plain data."""

    paper: str
    verdict: Verdict
    experiment_id: str
    quick: bool
    ended_unix_ns: int
    evidence: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def figures(self) -> dict[str, Any]:
        """The claim's figures as a report shows them; none where it was not judged by them (stale, broken books)."""
        return dict(self.evidence.get("figures", {}))


def judge_claim(con: duckdb.DuckDBPyConnection, experiment: Experiment) -> Judgement:
    """The verdict of a claim's experiment from the database.

    Raises ``LabError`` where there is none: no claim's experiment, not finished, or runs that are gone.
    """
    mark = experiment.claim
    if mark is None:
        raise LabError(
            "no-claim", field="experiment", value=experiment.experiment_id, message="It tests no paper's claim."
        )
    claim = claim_file.claim(mark.paper) if mark.paper in claim_file.names() else None
    if claim is None or claim_file.claim_hash(claim, mark.quick) != mark.hash:
        return _judgement(con, experiment, "stale", {"reasons": ["The claim file is not the one that was run."]})
    broken = _broken_books(con, experiment)
    if broken:
        return _judgement(con, experiment, "invalid", _about(claim) | {"reasons": [broken]})
    repeats = experiment.complete_repeats()
    if repeats < experiment.repeats:
        raise LabError(
            "unfinished",
            field="experiment",
            value=experiment.experiment_id,
            message=f"{repeats} of {experiment.repeats} repeats are there, and the claim takes {experiment.repeats}.",
            mend=experiment.problem or f"Go on with: servescope compare --resume {experiment.experiment_id}",
        )
    return _Case(con, experiment, claim, mark.quick).judgement()


BROKEN = ("integrity", "not-finite")
"""Kinds of errors by which a run says that its outputs are wrong."""


class _Case:
    """One experiment's runs, held against its claim."""

    def __init__(self, con: duckdb.DuckDBPyConnection, experiment: Experiment, claim: Claim, quick: bool) -> None:
        self.con, self.experiment, self.claim = con, experiment, claim
        self.measured = Measured(con, experiment, claim, claim.points(quick))
        self.figure = self.measured.figure

    def judgement(self) -> Judgement:
        gates_found = self.gate_outcomes()
        failed = [f"{gate}: {wrong}." for gate, wrong in gates_found.items() if wrong]
        regimes = self.measured.regimes()
        not_reached = absent(regimes)
        judged = [(predicate, self.judge(predicate)) for predicate in self.claim.predicates]
        verdict: Verdict = predicates.worst(result.outcome for _, result in judged)
        if not_reached:
            verdict = "regime not reached"
        if failed:
            verdict = "invalid"
        evidence = _about(self.claim) | {
            "reasons": failed
            or not_reached
            or [f"{_named(p)}: {result.says}: {result.outcome}." for p, result in judged],
            "gates": {name: wrong or "held" for name, wrong in gates_found.items()},
            "regimes": [
                {"kind": of.kind, "value": reached.value, "least": of.least, "says": reached.says}
                for of, reached in regimes
            ],
            "predicates": [{"kind": p.kind, "of": _named(p)} | asdict(result) for p, result in judged],
            "figures": {name: self.measured.drawn(name) for name in self.claim.figures},
            "notes": self.notes(),
            "repeats": self.experiment.repeats,
        }
        return _judgement(self.con, self.experiment, verdict, evidence)

    def judge(self, predicate: Predicate) -> predicates.Judged:
        """One predicate of the claim, on its figures."""
        places = self.measured.places
        if predicate.kind == "rank":
            return predicates.rank([self.figure(name) for name in predicate.of], predicate.of)
        if predicate.kind == "within":
            others = [self.figure(name) for name in predicate.others]
            return predicates.within(self.figure(predicate.of), others, predicate.share, predicate.better)
        if predicate.kind == "level":
            return predicates.level(
                self.figure(predicate.of), predicate.comparator, predicate.threshold, predicate.neutral
            )
        if predicate.kind == "monotone":
            return predicates.monotone(self.figure(predicate.of), places, predicate.direction)
        first, second = (self.figure(name) for name in predicate.of)
        if predicate.kind == "ratio":
            return predicates.ratio(first, second, predicate.comparator, predicate.threshold)
        if predicate.kind == "difference":
            return predicates.difference(first, second, predicate.comparator, predicate.threshold)
        if predicate.kind == "slope":
            return predicates.slope(first, second, places, predicate.threshold)
        return predicates.crossing(first, second, places)

    def gate_outcomes(self) -> dict[str, str]:
        """Each gate in words, with what is wrong or nothing."""
        served = (gates.served(self.con, run) for run in self.measured.all_runs())
        outcomes = {"every request served": next(filter(None, served), "")}
        for gate in self.claim.gates:
            pairs = [
                pair for of in gate.of for point in self.measured.points for pair in self.measured.pairs(of, point)
            ]
            outcomes[f"{gate.kind} ({', '.join(gate.of)})"] = self._gate(gate, pairs)
        return outcomes

    def notes(self) -> list[str]:
        """What must be said beside the figures: percentiles of too few samples, machines that were disturbed, steps
        spent outside the model.
        """
        host = float(np.median([run.samples.totals["host_share"] for run in self.measured.all_runs()]))
        outside = f"{host:.0%} of a step passes outside the model (median over runs)"
        said = (
            f"{outside}: the claim is about Python more than about the technique."
            if host > HOST_SHARE
            else f"{outside}."
        )
        return [*self.measured.notes(), said]

    def _gate(self, gate: Gate, pairs: Sequence[gates.Pair]) -> str:
        if gate.kind == "tokens-equal":
            return gates.tokens_equal(pairs)
        if gate.kind == "matched":
            return gates.matched(self.con, pairs, gate.least or 0.0)
        if gate.kind == "budget-kept":
            return gates.budget_kept(self.con, pairs)
        return gates.prefilled_once(self.con, pairs)


def _about(claim: Claim) -> dict[str, Any]:
    """What stands beside our figure, always: what is claimed, the paper's own figure and what differs."""
    return {"claim": claim.says, "paper": claim.paper.model_dump(), "differs": list(claim.differs)}


def _named(predicate: Predicate) -> str:
    """A predicate in a few words."""
    of = predicate.of
    if isinstance(of, str):
        return f"{of} {predicate.direction}" if predicate.kind == "monotone" else of
    joined = {"ratio": " over ", "difference": " less ", "rank": " < "}.get(predicate.kind, " against ")
    return f"{'slope of ' if predicate.kind == 'slope' else ''}{joined.join(of)}"


def _broken_books(con: duckdb.DuckDBPyConnection, experiment: Experiment) -> str:
    """Why an experiment failed, where the engine's own checks ended a run; else empty."""
    if experiment.state != "failed":
        return ""
    for turn in experiment.turns:
        error = (queries.run(con, turn.run_id) or {}).get("error") if turn.run_id and not turn.done else None
        if error and error.get("kind") in BROKEN:
            return f"The engine's own checks ended {turn.run_id}: {error.get('message')}"
    return ""


def _judgement(
    con: duckdb.DuckDBPyConnection, experiment: Experiment, verdict: Verdict, evidence: dict[str, Any]
) -> Judgement:
    assert experiment.claim is not None
    ids = [turn.run_id for turn in experiment.turns if turn.run_id]
    query = Query("SELECT max(ended_unix_ns) AS ended FROM runs WHERE run_id IN (SELECT unnest($runs))", {"runs": ids})
    ended = (query.one(con) or {}).get("ended") or experiment.created_unix_ns
    mark = experiment.claim
    return Judgement(mark.paper, verdict, experiment.experiment_id, mark.quick, int(ended), evidence)
