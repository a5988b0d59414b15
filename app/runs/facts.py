"""What a page needs to know about a run before it draws anything: its spec in brief, its status, how it differs from
another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from app.errors import LabError
from app.home import Home
from app.runs.brief import ATTACHED, FOREIGN, REPORTED, brief_of
from app.runs.folder import read_spec
from app.runs.listing import asked_of, labels_of
from app.runs.notes import notes_or_none
from app.settings import controls as book
from app.words.text import in_sentence
from engine.config import EngineConfig, RunSpec
from telemetry.json_file import first_fault
from telemetry.status import FINAL_STATES, Status, read_status, state

MOST_LOOKED_AT = 12  # earlier runs whose workload is compared before giving up


@dataclass(frozen=True)
class SpecInBrief:
    """The parts of a spec pages show; prompts stay on disk."""

    scenario: str
    title: str
    engine: EngineConfig
    requests: int
    expected_tokens: int  # output tokens if no request ends early
    workload_hash: str
    created_unix_ns: int
    sizing: str = ""  # how the requests were made to fit the machine, in words
    workload: Mapping[str, str] = field(default_factory=dict)  # workload settings that were given, by dotted name
    served: bool = False  # clients asked while it ran

    @property
    def attached(self) -> bool:
        """Whether the run watches another engine."""
        return self.served and self.scenario == ATTACHED

    @property
    def reported(self) -> bool:
        """Whether the run is a load generator's report."""
        return self.served and self.scenario == REPORTED


@dataclass(frozen=True)
class RunFacts:
    """A run as its folder tells it."""

    run_id: str
    spec: SpecInBrief
    status: Status
    name: str
    labels: tuple[str, ...]

    @property
    def state(self) -> str:
        return state(self.status)

    @property
    def is_final(self) -> bool:
        return self.state in FINAL_STATES

    @property
    def heading(self) -> str:
        return self.name or self.spec.title or self.spec.scenario

    @property
    def foreign(self) -> bool:
        """Whether another engine served it: its settings are not those of the spec."""
        return FOREIGN in self.labels or self.spec.attached or self.spec.reported

    @property
    def switches(self) -> str:
        """Which techniques were on: ``with chunked prefill``."""
        if self.foreign:
            return "another engine, settings not known"
        on = [in_sentence(t.title) for t in book.techniques() if getattr(self.spec.engine, t.path) is not None]
        return f"with {', '.join(on)}" if on else "every technique off"


def load_run(home: Home, run_id: str) -> RunFacts:
    """The facts of a run. Raises ``LabError`` for an unknown run or an unreadable spec."""
    run_dir = home.existing_run_dir(run_id)
    status = read_status(run_dir)
    notes, _ = notes_or_none(home, run_id)
    return RunFacts(run_id, _in_brief(run_dir, status), status, notes.name, tuple(labels_of(run_dir, status)))


def prompts_of(home: Home, run_id: str) -> dict[str, str]:
    """Prompt text by request id, for requests that were asked in text. Raises as ``load_run`` does."""
    spec = read_spec(home.existing_run_dir(run_id))
    return {request.request_id: request.prompt or "" for request in spec.requests}


def flipped(spec: RunSpec, technique: str, run_id: str, created_unix_ns: int) -> RunSpec:
    """The same requests with one technique switched: on becomes off, off becomes on with its default settings."""
    on = getattr(spec.engine, technique) is not None
    data: dict[str, Any] = spec.engine.model_dump() | {technique: None if on else {}, "policy": None}
    engine = EngineConfig.model_validate(data)
    return spec.model_copy(update={"engine": engine, "run_id": run_id, "created_unix_ns": created_unix_ns})


def differences(before: EngineConfig, after: EngineConfig) -> list[str]:
    """How two runs' settings differ, each in a few words about ``before``: ``chunked prefill off``."""
    phrases = []
    for control in book.controls():
        technique = control.path.rpartition(".")[0]
        if technique in {t.path for t in book.techniques()} and None in (
            getattr(before, technique),
            getattr(after, technique),
        ):
            continue
        name = control.path.rpartition(".")[2]
        if technique and not all(getattr(side, technique).reads(name) for side in (before, after)):
            continue
        old, new = (
            book.as_text(control, book.value_of(before, control.path)),
            book.as_text(control, book.value_of(after, control.path)),
        )
        if old != new:
            phrases.append(f"{in_sentence(control.title)} {'automatic' if old == 'none' else old}")
    return phrases


def told_apart(one: RunFacts, other: RunFacts) -> list[str]:
    """How a run differs from another, in phrases about ``one``; none where their settings say nothing of it."""
    if one.foreign != other.foreign:
        return ["another engine" if one.foreign else "this lab's engine"]
    return [] if one.foreign else differences(one.spec.engine, other.spec.engine)


def asked_apart(*several: RunFacts) -> str:
    """Why runs were not asked the same requests; "" where they were."""
    if len({facts.spec.workload_hash for facts in several}) <= 1:
        return ""
    if any(facts.spec.attached for facts in several):
        return "of an engine that is watched only sums are known, and not what it was asked"
    if any(facts.spec.reported for facts in several):
        return "a load generator's report tells figures, and not what was asked"
    if any(facts.spec.served for facts in several):
        return "requests at the door come from clients, when and as they like, so no two sessions are asked the same"
    return "their workload hashes differ"


def comparable_runs(
    home: Home, facts: RunFacts, runs: list[dict[str, Any]], *, also_later: bool = False
) -> list[RunFacts]:
    """Earlier finished runs of the same workload with other settings or of another engine, newest first;
    ``also_later``: later ones too.

    ``runs``: rows with ``run_id``, ``state`` and ``scenario``, newest first.
    """
    comparable: list[RunFacts] = []
    looked_at = 0
    for row in runs:
        if row["scenario"] != facts.spec.scenario or row["state"] != "finished" or row["run_id"] == facts.run_id:
            continue
        looked_at += 1
        if looked_at > MOST_LOOKED_AT:
            break
        try:
            other = load_run(home, row["run_id"])
        except LabError:  # gone, or damaged: no run to compare with
            continue
        earlier = other.spec.created_unix_ns < facts.spec.created_unix_ns
        same_workload = other.spec.workload_hash == facts.spec.workload_hash
        told = told_apart(other, facts) or other.foreign
        if (earlier or also_later) and same_workload and told:
            comparable.append(other)
    return comparable


def _in_brief(run_dir: Path, status: Status) -> SpecInBrief:
    brief = brief_of(run_dir)
    if brief.problem is not None:
        read_spec(run_dir)  # says what is wrong
    try:
        engine = EngineConfig.model_validate(brief.engine)
    except ValidationError as error:
        raise LabError("bad-spec", message=f"The run's settings cannot be read: {first_fault(error)}.") from error
    return SpecInBrief(
        brief.scenario,
        brief.title,
        engine,
        asked_of(brief, status),
        brief.expected_tokens,
        brief.workload_hash,
        brief.created_unix_ns,
        brief.sizing,
        brief.workload,
        brief.served,
    )
