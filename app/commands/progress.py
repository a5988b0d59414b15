"""The moving line of a run on a terminal: requests done, tokens/s, running, waiting and KV use."""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING

from app.commands.console import say, stderr
from telemetry.status import Status, read_status, state

if TYPE_CHECKING:
    from app.experiments.plan import Experiment
    from app.home import Home

RATE_WINDOW_S = 3.0


class RunProgress:
    """Shows what ``status.json`` says; on something that is no terminal it only says when the state changes."""

    def __init__(self, run_id: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = stderr()
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
        )
        self._task = self._bar.add_task(run_id, total=None, figures="")
        self._state = ""
        self._seen: deque[tuple[float, int]] = deque()

    def __enter__(self) -> RunProgress:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def show(self, status: Status, note: str = "") -> None:
        """Draw one status; ``note`` says why a queued run waits."""
        progress = status.get("progress") or {}
        now = state(status)
        phase = progress.get("phase") if now == "loading" else None
        words = " ".join(filter(None, [now, f"({phase})" if phase else "", note]))
        if not self._console.is_terminal:
            if now != self._state:
                say(f"{status.get('run_id', '')}: {words}")
            self._state = now
            return
        if now in ("running", "finished"):
            self._bar.update(
                self._task,
                description=now,
                total=progress.get("requests_total"),
                completed=progress.get("requests_done", 0),
                figures=self._figures(progress),
            )
        else:
            self._bar.update(self._task, description=words)

    def _figures(self, progress: Status) -> str:
        tokens = int(progress.get("output_tokens", 0))
        parts = [
            f"{self._rate(tokens):.1f} tokens/s",
            f"{progress.get('running', 0)} running",
            f"{progress.get('waiting', 0)} waiting",
            f"KV {100 * float(progress.get('kv_used_share') or 0):.0f} %",
        ]
        return " | ".join(parts)

    def _rate(self, tokens: int) -> float:
        """Output tokens per second over the last seconds."""
        now = time.monotonic()
        if not self._seen or self._seen[-1][1] != tokens:
            self._seen.append((now, tokens))
        while len(self._seen) > 2 and now - self._seen[0][0] > RATE_WINDOW_S:
            self._seen.popleft()
        (first, before), (_, after) = self._seen[0], self._seen[-1]
        return (after - before) / (now - first) if now > first else 0.0


class ExperimentProgress:
    """A bar over the runs of an experiment, with the run being served and the time left; without a terminal, a line per
    run.
    """

    def __init__(self, home: Home) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._home, self._console = home, stderr()
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[runs]}"),
            TextColumn("{task.fields[left]}"),
            TimeElapsedColumn(),
            console=self._console,
        )
        self._task = self._bar.add_task("waiting", total=None, runs="", left="")
        self._shown = ""

    def __enter__(self) -> ExperimentProgress:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def show(self, experiment: Experiment) -> None:
        """Draw the experiment as it is."""
        from app.experiments.drive import current_turn, runs_planned, seconds_left
        from app.experiments.plan import turn_in_words

        planned, done = runs_planned(experiment), sum(turn.done for turn in experiment.turns)
        turn, left = current_turn(experiment), seconds_left(self._home, experiment)
        about = "" if left is None else f"about {left:.0f} s left"
        name = "" if turn is None else turn_in_words(turn)
        if not self._console.is_terminal:
            line = f"[{min(done + 1, planned)}/{planned}] {name}"
            now = f"{done} {turn.attempts if turn else 0}"
            if turn is not None and turn.run_id and now != self._shown:
                say(f"{line}, {about}" if about else line)
                self._shown = now
            return
        part = 0.0 if turn is None or not turn.run_id else self._part_of_run(turn.run_id)
        self._bar.update(
            self._task,
            description=name,
            total=planned,
            completed=done + part,
            runs=f"{done} of {planned} runs",
            left=about,
        )

    def _part_of_run(self, run_id: str) -> float:
        """How much of the run being served is done, from its requests."""
        progress = read_status(self._home.runs / run_id).get("progress") or {}
        total = progress.get("requests_total") or 0
        return min(1.0, progress.get("requests_ended", 0) / total) if total else 0.0
