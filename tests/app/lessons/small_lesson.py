"""A lesson on random tiny weights whose outcome is known: places for one request, or for four."""

from __future__ import annotations

from pathlib import Path

from app.home import Home
from app.lessons.plan import plan_step
from app.lessons.progress import Committed, commit
from scenarios import lessons
from scenarios.lessons.lesson_file import step_hash
from tests.app.small_runs import served_experiment

LEARNER = "learner0learner0"

TEXT = """
title: Places
summary: Four places take four requests at once.
place: 1
steps:
  - title: How many run at once
    setup: Four requests come at once. One engine has a place for one of them, the other for all.
    predict: {kind: number, ask: "How many times as many run at once?", of: times as many, low: 1, high: 9, unit: times, close: 0}
    measure: &MEASURE
    effect: {of: times as many, beyond: 1, goes: up}
    explain: &EXPLAIN
    try: {says: Give it more places and look., scenario: chat, set: {max_num_seqs: 4}}
    code: {says: A request that finds no place waits., path: engine/scheduling/builder.py, symbol: PlanBuilder.admit}
  - title: Who has more
    setup: The same requests once more. Which engine runs more of them at once?
    predict: {kind: ordering, ask: Put them in order., of: [many, few]}
    measure: &MEASURE
    effect: {of: few less many, beyond: 0, goes: up}
    explain: &EXPLAIN
    try: {says: Give it more places and look., scenario: chat, set: {max_num_seqs: 4}}
    code: {says: A request that finds no place waits., path: engine/scheduling/builder.py, symbol: PlanBuilder.admit}
"""
MEASURE = """
      repeats: 2
      scenario: memory-bound
      set:
        model: "random:tiny"
        device: cpu
        threads: 1
        kv_blocks: 200
        prefix_sharing: false
        workload.readers.requests: 4
        workload.readers.arrivals: {kind: at-once}
        workload.readers.prompt: {kind: prose}
        workload.readers.prompt_tokens: 16
        workload.readers.output_tokens: 8
        workload.readers.ignore_eos: true
      varies: [max_num_seqs]
      variants: {narrow: {max_num_seqs: 1}, wide: {max_num_seqs: 4}}
      figures:
        few: {metric: most_running, of: narrow}
        many: {metric: most_running, of: wide}
        times as many: {ratio: [many, few]}
        few less many: {difference: [few, many]}
      regimes: [{kind: queue, of: narrow, least: 0.1, knob: Places (max_num_seqs)}]
"""
EXPLAIN = """
      right: You said {predicted}, and it was {times as many} times.
      direction: More ran at once, as you said, but {times as many} times as many.
      wrong: You said {predicted}, and it was {times as many} times.
      why: The wide engine ran {many} at once and the narrow one {few} ({few interval}), in each of {repeats} repeats.
      absent: The narrow engine did not run more. {reason}
"""


def small_lesson(home: Home, name: str = "places") -> str:
    """Write the lesson as a teacher's own; its name. (The second step's effect is one that cannot show.)"""
    home.lessons.mkdir(exist_ok=True)
    text = TEXT.replace("&MEASURE", MEASURE.rstrip()).replace("&EXPLAIN", EXPLAIN.rstrip())
    path: Path = home.lessons / f"{name}.yaml"
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")
    return name


def served_step(home: Home, lesson: str, step: int, predicted: object, *, learner: str = LEARNER) -> str:
    """A step whose prediction is made and whose runs are over; the experiment's id."""
    experiment, specs = plan_step(lesson, step)
    served_experiment(home, experiment, specs)
    asked = lessons.lesson(lesson).steps[step]
    committed = Committed(predicted=predicted, experiment_id=experiment.experiment_id, hash=step_hash(asked))  # type: ignore[arg-type]
    commit(home, learner, lesson, step, committed)
    return experiment.experiment_id
