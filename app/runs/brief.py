"""What lists and pages read of a run: its spec without the requests, and once it is over what disturbed it; kept in
``brief.json``.

A spec may have thousands of prompts, and a list shows hundreds of runs. The file is drawn from ``spec.json``, written
with it, and drawn anew where it is missing, of another version, or not of the spec that is there now.
"""

from __future__ import annotations

import contextlib
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from engine.config import SPEC_VERSION, RunSpec
from telemetry.folder import SPEC
from telemetry.json_file import Count, Nanoseconds, Unreadable, read_as, write_json
from telemetry.limits import MOST_SPEC_BYTES
from telemetry.run_facts import SpecHead
from telemetry.status import Label, Labels, Words

FILE = "brief.json"
ATTACHED = "attached"
"""The scenario of a run that watches another engine; clients ask that one while it runs, so it is ``served``, too."""
FOREIGN = "foreign"
"""The label of a run that another engine served: what its spec says of settings is not that engine's."""
REPORTED = "report"
"""The scenario of a run that is a load generator's report; of that one, too, clients asked."""
Stamp = tuple[Count, Annotated[int, Field(ge=0)]]  # bytes of spec.json, and when it was changed


class Brief(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    version: Literal[SPEC_VERSION] = SPEC_VERSION  # type: ignore[valid-type]
    stamp: Stamp = (0, 0)
    scenario: Words = ""
    title: Words = ""
    engine: dict[str, JsonValue] = {}
    labels: Labels = []
    experiment_id: Label | None = None
    created_unix_ns: Nanoseconds = 0
    served: bool = False  # clients asked while it ran
    requests: Count = 0
    expected_tokens: Count = 0  # output tokens if no request ends early
    workload_hash: Label = ""
    sizing: Words = ""  # how the requests were made to fit the machine, in words
    workload: dict[str, str] = {}  # workload settings that were given, by dotted name
    disturbances: Labels | None = None  # of a run that is over what disturbed it; None: not looked at yet
    problem: Words | None = None  # why the spec cannot be read; never in the file


def brief_of(run_dir: Path) -> Brief:
    """The spec in brief. One that cannot be read says so in ``problem``, with what its head says all the same."""
    stamp = _stamp(run_dir)
    try:
        kept = read_as(Brief, run_dir / FILE)
    except (FileNotFoundError, Unreadable):
        kept = None
    if kept is not None and kept.stamp == stamp and kept.problem is None:
        return kept
    return _drawn(run_dir, stamp)


def keep_brief(run_dir: Path, spec: RunSpec) -> Brief:
    """Draw the brief of a spec that was just written, and keep it where the disk lets us."""
    brief = Brief(
        stamp=_stamp(run_dir),
        scenario=spec.scenario,
        title=spec.title,
        engine=spec.engine.model_dump(mode="json"),
        labels=list(spec.labels),
        experiment_id=spec.experiment_id,
        created_unix_ns=spec.created_unix_ns,
        served=spec.served,
        requests=len(spec.requests),
        expected_tokens=sum(request.max_tokens for request in spec.requests),
        workload_hash=spec.workload_hash,
        sizing=spec.sizing.in_words if spec.sizing is not None else "",
        workload=spec.workload,
    )
    with contextlib.suppress(OSError):
        write_json(run_dir / FILE, brief, durable=False)
    return brief


@lru_cache(maxsize=512)
def _drawn(run_dir: Path, stamp: Stamp) -> Brief:
    try:
        return keep_brief(run_dir, read_as(RunSpec, run_dir / SPEC, MOST_SPEC_BYTES))
    except (FileNotFoundError, Unreadable, ValidationError) as error:
        problem = str(error) if isinstance(error, Unreadable) else f"{SPEC} cannot be read"
    try:
        head = read_as(SpecHead, run_dir / SPEC, MOST_SPEC_BYTES)
    except (FileNotFoundError, Unreadable):
        return Brief(stamp=stamp, problem=problem)
    shown = head.model_dump(
        include=Brief.model_fields.keys() & SpecHead.model_fields.keys() - {"requests", "workload_hash"}
    )
    return Brief(stamp=stamp, problem=problem, **shown)


def _stamp(run_dir: Path) -> Stamp:
    try:
        about = (run_dir / SPEC).stat()
    except OSError:
        return (0, 0)
    return (about.st_size, about.st_mtime_ns)
