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
from scenarios.papers import claim_file
from scenarios.papers.claim import Claim, Gate, Predicate, Regime
from scenarios.papers.claim_file import variant_name
from store import gates, predicates, queries
from store.claim_figures import RunFigures, title_of
from store.plan import Experiment
from store.query import Query
from store.regimes import regime
from store.samples import alone
from store.slo import parse_slo

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
Runs = dict[str, list[RunFigures]]  # the experiment's variant -> its runs, by repeat


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
        self.points = claim.points(quick)
        self.places = [point.x for point in self.points if point is not None]
        slo, unloaded = parse_slo(experiment.slo), alone(con, experiment.runs_of(experiment.baseline))
        self.runs: Runs = {
            variant.name: [RunFigures.read(con, run, slo, unloaded) for run in experiment.runs_of(variant.name)]
            for variant in experiment.variants
        }
        self._figures: dict[str, np.ndarray] = {}

    def judgement(self) -> Judgement:
        gates_found = self.gate_outcomes()
        failed = [f"{gate}: {wrong}." for gate, wrong in gates_found.items() if wrong]
        regimes = [(of, regime(self.con, of.kind, self._run_of(of), of.least)) for of in self.claim.regimes]
        absent = [
            f"{reached.says}. {of.knob} would have to be {reached.size}." if reached.size else f"{reached.says}."
            for of, reached in regimes
            if reached.value is None or reached.value < of.least
        ]
        judged = [(predicate, self.judge(predicate)) for predicate in self.claim.predicates]
        verdict: Verdict = predicates.worst(result.outcome for _, result in judged)
        if absent:
            verdict = "regime not reached"
        if failed:
            verdict = "invalid"
        evidence = _about(self.claim) | {
            "reasons": failed or absent or [f"{_named(p)}: {result.says}: {result.outcome}." for p, result in judged],
            "gates": {name: wrong or "held" for name, wrong in gates_found.items()},
            "regimes": [
                {"kind": of.kind, "value": reached.value, "least": of.least, "says": reached.says}
                for of, reached in regimes
            ],
            "predicates": [{"kind": p.kind, "of": _named(p)} | asdict(result) for p, result in judged],
            "figures": {name: self._drawn(name) for name in self.claim.figures},
            "notes": self.notes(),
            "repeats": self.experiment.repeats,
        }
        return _judgement(self.con, self.experiment, verdict, evidence)

    def judge(self, predicate: Predicate) -> predicates.Judged:
        """One predicate of the claim, on its figures."""
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
            return predicates.monotone(self.figure(predicate.of), self.places, predicate.direction)
        first, second = (self.figure(name) for name in predicate.of)
        if predicate.kind == "ratio":
            return predicates.ratio(first, second, predicate.comparator, predicate.threshold)
        if predicate.kind == "difference":
            return predicates.difference(first, second, predicate.comparator, predicate.threshold)
        if predicate.kind == "slope":
            return predicates.slope(first, second, self.places, predicate.threshold)
        return predicates.crossing(first, second, self.places)

    def figure(self, name: str) -> np.ndarray:
        """A figure ``[points, repeats]``; one row of a figure at one point, or where nothing is swept."""
        if name not in self._figures:
            figure = self.claim.figures[name]
            if figure.metric is not None and figure.of is not None:
                points = [p for p in self.points if figure.at is None or (p is not None and p.x == figure.at)]
                rows = [self._measured(figure.metric, figure.of, point) for point in points]
                self._figures[name] = np.array(rows, np.float64)
            else:
                first, second = (self.figure(part) for part in figure.parts)
                with np.errstate(divide="ignore", invalid="ignore"):
                    self._figures[name] = first / second if figure.ratio else first - second
        return self._figures[name]

    def gate_outcomes(self) -> dict[str, str]:
        """Each gate in words, with what is wrong or nothing."""
        outcomes = {
            "every request served": next(filter(None, (gates.served(self.con, run) for run in self._all())), "")
        }
        for gate in self.claim.gates:
            pairs = [pair for of in gate.of for point in self.points for pair in self._pairs(of, point)]
            outcomes[f"{gate.kind} ({', '.join(gate.of)})"] = self._gate(gate, pairs)
        return outcomes

    def notes(self) -> list[str]:
        """What must be said beside the figures: percentiles of too few samples, machines that were disturbed, steps
        spent outside the model.
        """
        said = dict.fromkeys(
            f"{figure.of}: {words}"
            for figure in self.claim.figures.values()
            if figure.metric is not None and figure.of is not None
            for point in self.points
            for run in self.runs[variant_name(figure.of, point)]
            if (words := run.too_few(figure.metric))
        )
        disturbed = sorted(run.run_id for run in self._all() if run.samples.machine.get("disturbances"))
        if disturbed:
            said[
                f"Disturbed while served: {len(disturbed)} of {len(list(self._all()))} runs, such as {disturbed[0]}."
            ] = None
        host = float(np.median([run.samples.totals["host_share"] for run in self._all()]))
        outside = f"{host:.0%} of a step passes outside the model (median over runs)"
        said[
            f"{outside}: the claim is about Python more than about the technique."
            if host > HOST_SHARE
            else f"{outside}."
        ] = None
        return list(said)

    def _gate(self, gate: Gate, pairs: Sequence[gates.Pair]) -> str:
        if gate.kind == "tokens-equal":
            return gates.tokens_equal(pairs)
        if gate.kind == "matched":
            return gates.matched(self.con, pairs, gate.least or 0.0)
        if gate.kind == "budget-kept":
            return gates.budget_kept(self.con, pairs)
        return gates.prefilled_once(self.con, pairs)

    def _measured(self, metric: str, of: str, point: Any) -> list[float]:
        return [own.value(self.con, metric, base) for own, base in self._pairs(of, point)]

    def _pairs(self, of: str, point: Any) -> list[gates.Pair]:
        own, base = (self.runs[variant_name(name, point)] for name in (of, self.claim.baseline))
        return list(zip(own, base, strict=True))

    def _run_of(self, of: Regime) -> RunFigures:
        point = next((p for p in self.points if p is not None and p.x == of.at), self.points[-1])
        return self.runs[variant_name(of.of, point)][0]

    def _all(self) -> list[RunFigures]:
        return [run for runs in self.runs.values() for run in runs]

    def _drawn(self, name: str) -> dict[str, Any]:
        """A figure as a report shows it: title, places, values and intervals."""
        figure, rows = self.claim.figures[name], self.figure(name)
        if figure.metric is not None:
            title = f"{title_of(figure.metric)} ({figure.of}{'' if figure.at is None else f' @ {figure.at:g}'})"
        else:
            title = f"{figure.parts[0]} {'over' if figure.ratio else 'less'} {figure.parts[1]}"
        around = [predicates.around(row) for row in rows]
        known = [None if not np.isfinite(value) else value for value, _ in around]
        ends = [None if not np.all(np.isfinite(pair)) else pair for _, pair in around]
        places = self.places if len(rows) == len(self.places) else [None] * len(rows)
        return {"title": title, "x": places, "values": known, "intervals": ends}


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
