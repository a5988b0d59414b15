"""How much disk runs take, and a rule that keeps them below a limit: ``HOME/retention.json``.

What goes first is the oldest run that is over. What somebody pinned or tagged, what an experiment or a report rests on,
and what is not over never goes. A run goes to the trash, from which it can be brought back.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import LabError
from app.experiments.file import read_experiment
from app.home import Home
from app.reports import Report, list_reports
from app.rights import Right, needs
from app.runs import trash
from app.runs.listing import list_runs
from telemetry.json_file import Unreadable, first_fault, read_as, write_json
from telemetry.status import FINAL_STATES

GB = 10**9
FILE = "retention.json"


class Rule(BaseModel):
    """The whole file. ``limit_gb``: how much runs may take, None for as much as they need; ``by_itself``: the lab keeps
    to it at its start and before every run, else only when somebody says so.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    limit_gb: Annotated[float, Field(gt=0, le=1e6)] | None = None
    by_itself: bool = False


@dataclass(frozen=True)
class Plan:
    """What the rule would do now. ``goes``, ``stays``: entries of ``app.runs.listing``; with ``bytes``, and ``why`` one
    stays.
    """

    rule: Rule
    used: int
    trashed: int
    goes: tuple[dict[str, Any], ...]
    stays: tuple[dict[str, Any], ...]

    @property
    def named(self) -> list[str]:
        """Ids of what goes."""
        return [run["id"] for run in self.goes]

    @property
    def left(self) -> int:
        """Bytes that runs take after it."""
        return self.used - sum(run["bytes"] for run in self.goes)

    @property
    def suffices(self) -> bool:
        """Whether runs are then below the limit."""
        return self.rule.limit_gb is None or self.left <= self.rule.limit_gb * GB


def read_rule(home: Home) -> Rule:
    """The rule; off where nobody set one. Raises ``LabError`` for a file that cannot be read: nothing goes by it."""
    try:
        return read_as(Rule, home.root / FILE)
    except FileNotFoundError:
        return Rule()
    except Unreadable as error:
        raise LabError(
            "bad-rule",
            field=FILE,
            value=str(home.root / FILE),
            message=f"{error}.",
            mend="servescope retention --off writes it anew.",
        ) from error


@needs(Right.KEEP)
def write_rule(home: Home, limit_gb: float | None, by_itself: bool) -> Rule:
    """Set the rule. Raises ``LabError`` for a limit that cannot be."""
    try:
        rule = Rule(limit_gb=limit_gb, by_itself=by_itself and limit_gb is not None)
    except ValidationError as error:
        raise LabError(
            "bad-limit",
            field="limit",
            value=str(limit_gb),
            message=f"The limit cannot be {limit_gb} GB: {first_fault(error)}.",
            mend="Give a number of GB above 0, such as 20.",
        ) from error
    write_json(home.root / FILE, rule)
    return rule


def plan_retention(home: Home, rule: Rule, known: Sequence[Mapping[str, Any]] | None = None) -> Plan:
    """What goes by a rule, the oldest first, until the runs are below its limit; nothing is changed.

    ``known``: the store's runs as ``list_runs`` gives them, with their ``bytes``, where somebody has them at hand.
    """
    listed = with_sizes(home, list_runs(home)) if known is None else known
    runs = sorted((dict(run) for run in listed), key=lambda run: (run["created_unix_ns"], run["id"]))
    used = sum(run["bytes"] for run in runs)
    kept_for = _rested_on(home)
    told = [run | {"why": _why_it_stays(run, kept_for)} for run in runs]
    limit = float("inf") if rule.limit_gb is None else rule.limit_gb * GB
    goes, left = [], used
    for run in told:
        if left > limit and not run["why"]:
            goes.append(run)
            left -= run["bytes"]
    stays = tuple(run for run in told if run["why"])
    return Plan(rule, used, bytes_of(home.trash), tuple(goes), stays)


def with_sizes(home: Home, runs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The runs with their ``bytes`` on disk."""
    return [{**run, "bytes": bytes_of(home.run_dir(run["id"]))} for run in runs]


@needs(Right.DELETE)
def keep_to(home: Home, rule: Rule, only: Collection[str] | None = None) -> list[str]:
    """Move what goes by a rule to the trash; the ids of what went. ``only``: of these, which somebody saw listed; what
    was begun, pinned or tagged since stays.
    """
    gone = []
    for run in plan_retention(home, rule).goes:
        if only is None or run["id"] in only:
            trash.delete_run(home, run["id"])
            gone.append(run["id"])
    return gone


def bytes_of(folder: Path) -> int:
    """Bytes of all files in a folder and below; of one that is gone, 0."""
    whole, folders = 0, [os.fspath(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        whole += entry.stat(follow_symlinks=False).st_size
        except OSError:  # deleted while we looked
            continue
    return whole


def _rested_on(home: Home) -> dict[str, str]:
    """Runs that something rests on, and what."""
    told: dict[str, str] = {}
    for report_id, report in list_reports(home).items():
        runs: Iterable[str] = report.runs if isinstance(report, Report) else ()
        told |= dict.fromkeys(runs, f"in the report {report_id}")
    for experiment_id in home.experiment_ids():
        try:
            turns = read_experiment(home, experiment_id).turns
        except LabError:
            continue
        told |= {turn.run_id: f"part of {experiment_id}" for turn in turns if turn.run_id}
    return told


def _why_it_stays(run: dict[str, Any], rested_on: dict[str, str]) -> str:
    """Why the rule leaves a run alone; empty where it may go."""
    if run["status"] not in FINAL_STATES:
        return f"not over ({run['status']})"
    if run["pinned"]:
        return "pinned"
    if run["tags"]:
        return f"tagged {', '.join(run['tags'])}"
    if run["id"] in rested_on:
        return rested_on[run["id"]]
    return f"part of {run['experiment_id']}" if run["experiment_id"] else ""
