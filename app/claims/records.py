"""The experiments of this store that test papers' claims, and the verdicts their rows give."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import duckdb

from app.claims.judge import Judgement, judge_claim
from app.errors import LabError
from app.experiments.file import read_experiment
from app.experiments.missing_runs import as_it_is
from app.home import Home
from store.aside import rows_aside
from store.plan import Experiment


def claim_experiments(home: Home, paper: str | None = None) -> list[Experiment]:
    """Experiments that test a claim, of one paper or of all, the newest first, resting on the runs that are there.
    Damaged ones are left out.
    """
    experiments = []
    for experiment_id in home.experiment_ids():
        with contextlib.suppress(LabError):
            experiment = read_experiment(home, experiment_id)
            if experiment.claim is not None and paper in (None, experiment.claim.paper):
                experiments.append(as_it_is(home, experiment))
    return sorted(experiments, key=lambda experiment: experiment.created_unix_ns, reverse=True)


def judgement_of_experiment(home: Home, experiment_id: str) -> Judgement:
    """The verdict from the runs' own spools, whether or not a lab has the database open. Raises ``LabError`` where
    there is none.
    """
    experiment = as_it_is(home, read_experiment(home, experiment_id))
    with rows_of(home, [experiment]) as con:
        return judge_claim(con, experiment)


def judgements(con: duckdb.DuckDBPyConnection, experiments: Iterable[Experiment]) -> list[Judgement]:
    """The verdicts of those that have one."""
    verdicts = []
    for experiment in experiments:
        with contextlib.suppress(LabError):
            verdicts.append(judge_claim(con, experiment))
    return verdicts


def judgements_in(home: Home, paper: str | None = None) -> list[Judgement]:
    """The verdicts of a store's experiments, of one paper or of all, the newest first; from the runs' own spools."""
    experiments = claim_experiments(home, paper)
    if not experiments:
        return []
    with rows_of(home, experiments) as con:
        return judgements(con, experiments)


def latest(verdicts: Iterable[Judgement]) -> dict[str, Judgement]:
    """Each paper's newest verdict: of a whole run before one of a quick run, and any before a stale one."""
    best: dict[str, Judgement] = {}
    for judgement in verdicts:
        known = best.get(judgement.paper)
        if known is None or _rank(judgement) > _rank(known):
            best[judgement.paper] = judgement
    return best


def _rank(judgement: Judgement) -> tuple[bool, bool, int]:
    return judgement.verdict != "stale", not judgement.quick, judgement.ended_unix_ns


@contextlib.contextmanager
def rows_of(home: Home, experiments: Iterable[Experiment]) -> Iterator[duckdb.DuckDBPyConnection]:
    """The rows of these experiments' runs, unfinished ones included."""
    runs = [
        turn.run_id
        for experiment in experiments
        for turn in experiment.turns
        if turn.run_id and not turn.warm_up and home.run_dir(turn.run_id).is_dir()
    ]
    with rows_aside(home.runs, runs) as rows:
        yield rows.con
