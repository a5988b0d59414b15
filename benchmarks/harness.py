"""What every benchmark shares: figures with goals, one JSON form for results, and fair repetition.

A benchmark is a module run as ``python -m benchmarks.NAME [--json FILE] [--check]``. It fills a ``Report`` and ends with
``report.finish(options)``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import psutil
from rich.console import Console
from rich.table import Table

from engine.config import allocator
from telemetry.machine import environment

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
BUSY_PERCENT = 15.0  # more of the machine than this in others' hands, and a figure is marked
MARK = "RESULT "  # begins the line in which a child process hands back its measurement

Better = Literal["higher", "lower"]
T = TypeVar("T")


@dataclass(frozen=True)
class Figure:
    """One number a benchmark stands for.

    ``goal`` is the least value (``better`` higher) or the most (lower); ``spread`` is the lowest and highest repeat.
    """

    name: str
    value: float
    unit: str
    better: Better = "higher"
    goal: float | None = None
    spread: tuple[float, float] | None = None
    note: str | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.better == "higher" else self.value <= self.goal


class Report:
    """Collects a benchmark's figures and tables, prints them, saves them, and knows whether the goals are met."""

    def __init__(self, name: str, *, device: str = "cpu", console: Console | None = None) -> None:
        self.name = name
        self.figures: list[Figure] = []
        self.details: dict[str, Any] = {}
        self.busiest_percent: float | None = None
        self._device = device
        self._console = console or Console()
        self._started = datetime.now(UTC)

    def figure(
        self,
        name: str,
        value: float,
        unit: str,
        *,
        goal: float | None = None,
        better: Better = "higher",
        spread: tuple[float, float] | None = None,
        note: str | None = None,
    ) -> Figure:
        """Add a figure; returns it."""
        figure = Figure(name, float(value), unit, better, goal, spread, note)
        self.figures.append(figure)
        return figure

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Print a table and keep it with the results."""
        kept = [[_cell(value) for value in row] for row in rows]
        table = Table(title=title, title_justify="left")
        for index, column in enumerate(columns):
            table.add_column(column, justify="left" if index == 0 else "right")
        for row in kept:
            table.add_row(*row)
        self._console.print(table)
        self.details.setdefault("tables", []).append({"title": title, "columns": list(columns), "rows": kept})

    def note_load(self) -> float:
        """Sample how busy the machine is with others' work (a second) and remember the most seen, in percent."""
        load = psutil.cpu_percent(interval=1.0)
        self.busiest_percent = max(load, self.busiest_percent or 0.0)
        return load

    @property
    def missed(self) -> list[Figure]:
        return [figure for figure in self.figures if figure.met is False]

    def check(self) -> int:
        """Exit code: 0 where every stated goal is met, else 1."""
        return 1 if self.missed else 0

    def as_dict(self) -> dict[str, Any]:
        """Everything needed to judge and to repeat the measurement."""
        return {
            "benchmark": self.name,
            "command": command(self.name),
            "commit": commit(),
            "date": self._started.isoformat(timespec="seconds"),
            "busiest_percent": self.busiest_percent,
            "environment": _without_build(environment(self._device)),
            "figures": [asdict(figure) | {"met": figure.met} for figure in self.figures],
            "details": self.details,
        }

    def save(self, path: Path) -> None:
        """Write the results as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.as_dict(), indent=1) + "\n", encoding="utf-8")

    def finish(self, options: argparse.Namespace) -> int:
        """Print the figures, save where ``--json`` says, and return the exit code (with ``--check``: 1 on a missed goal)."""
        print_figures(self._console, self.name, self.figures)
        if (self.busiest_percent or 0.0) > BUSY_PERCENT:
            self._console.print(
                f"The machine was {self.busiest_percent:.0f} % busy with other work: measure again when it is quiet."
            )
        if options.json:
            self.save(options.json)
        return self.check() if options.check else 0


def _without_build(machine: dict[str, Any]) -> dict[str, Any]:
    """The machine's description without the build of its kernel, which names who runs it."""
    return machine | {"system": str(machine["system"]).split("-", 1)[0]}


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    return parser


def some_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """For ``type=`` of an option that takes some of ``names`` with commas between; refuses what is none of them."""
    known = list(names)

    def read(text: str) -> list[str]:
        chosen = [name.strip() for name in text.split(",")]
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return chosen

    return read


def print_figures(console: Console, title: str, figures: Iterable[Figure]) -> None:
    """A table of figures with their goals."""
    table = Table(title=title, title_justify="left")
    table.add_column("figure", no_wrap=True)
    for column in ("value", "spread", "goal", ""):
        table.add_column(column, justify="right")
    notes = []
    for figure in figures:
        spread = "" if figure.spread is None else f"{number(figure.spread[0])} .. {number(figure.spread[1])}"
        goal = "" if figure.goal is None else f"{'>=' if figure.better == 'higher' else '<='} {number(figure.goal)}"
        verdict = {True: "[green]met[/]", False: "[red]missed[/]", None: ""}[figure.met]
        table.add_row(figure.name, f"{number(figure.value)} {figure.unit}", spread, goal, verdict)
        if figure.note:
            notes.append(f"{figure.name}: {figure.note}")
    console.print(table)
    for note in notes:
        console.print(note, markup=False, style="dim")


def number(value: float) -> str:
    """Four significant digits, thousands separated."""
    if value == 0 or not abs(value) < float("inf"):
        return str(value)
    digits = max(0, 3 - len(str(int(abs(value)))) + 1) if abs(value) >= 1 else 4
    return f"{value:,.{digits}f}"


def interleave(
    measures: Mapping[str, Callable[[], T]], repeats: int, before: Callable[[], Any] = lambda: None
) -> dict[str, list[T]]:
    """Measure everything ``repeats`` times in the order A B C, C B A, A B C, ...: drift of the machine hits all alike.

    ``before`` is called ahead of each measurement.
    """
    results: dict[str, list[T]] = {name: [] for name in measures}
    for round_number in range(repeats):
        names = list(measures) if round_number % 2 == 0 else list(reversed(list(measures)))
        for name in names:
            before()
            results[name].append(measures[name]())
    return results


@dataclass(frozen=True)
class Summary:
    """The median of some repeats, and their lowest and highest."""

    median: float
    low: float
    high: float

    @property
    def spread(self) -> tuple[float, float]:
        return (self.low, self.high)


def summarise(values: Sequence[float]) -> Summary:
    return Summary(statistics.median(values), min(values), max(values))


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Summary:
    """The ratio in each round, where both were measured next to each other."""
    return summarise([a / b for a, b in zip(ours, theirs, strict=True)])


class ChildFailed(RuntimeError):
    """A measurement's process ended without a result; the message ends with what it last said."""


def as_a_worker() -> None:
    """Start this process over with the memory settings an engine worker gets, unless it has them."""
    if not allocator.here():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], allocator.with_tunables(os.environ))


def in_child(
    module: str,
    *options: str,
    timeout_s: float = 1800,
    worker: bool = False,
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run ``python -m MODULE OPTIONS`` in a process of its own and return what it handed to ``hand_back``.

    ``worker``: with the memory settings an engine worker gets. ``python``: of another environment, for a module that
    imports nothing of ours. ``environment``: variables that it is given beside those of this process.

    Raises:
        ChildFailed: it failed, said nothing or took too long.
    """
    try:
        done = subprocess.run(
            [python, "-m", module, *options],
            cwd=ROOT,
            env=(allocator.with_tunables(os.environ) if worker else dict(os.environ)) | dict(environment or {}),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise ChildFailed(f"{module} {' '.join(options)} did not end within {timeout_s:g} s") from late
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode != 0 or not lines:
        last = "\n".join((done.stderr or done.stdout).splitlines()[-12:])
        raise ChildFailed(f"{module} {' '.join(options)} ended with {done.returncode}:\n{last}")
    return json.loads(lines[-1].removeprefix(MARK))


def undisturbed(measure: Callable[[], dict[str, Any]], most_percent: float, tries: int) -> dict[str, Any]:
    """A measurement by a child process during which other processes took little of the machine: it is made again until it is,
    at most ``tries`` times, and the least disturbed one is returned, with ``others_percent``."""
    best: dict[str, Any] | None = None
    for _ in range(tries):
        before, began = _processor_seconds(), time.perf_counter()
        measured = measure()
        capacity = (time.perf_counter() - began) * (psutil.cpu_count() or 1)
        others = 100 * max(0.0, _processor_seconds() - before) / capacity
        measured["others_percent"] = others
        if best is None or others < best["others_percent"]:
            best = measured
        if others <= most_percent:
            break
    assert best is not None
    return best


def _processor_seconds() -> float:
    """Of all processes but this one and its children that have ended."""
    machine, ours = psutil.cpu_times(), os.times()
    taken = machine.user + machine.nice + machine.system
    return taken - (ours.user + ours.system + ours.children_user + ours.children_system)


def hand_back(result: Mapping[str, Any]) -> None:
    """In a child process: give the measurement to the process that called ``in_child``."""
    print(MARK + json.dumps(result), flush=True)


def seconds(work: Callable[[], Any], repeats: int, warm: int = 2) -> float:
    """The median time of a short piece of work, in seconds, after ``warm`` unmeasured runs."""
    times = []
    for _ in range(warm + repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[warm:])


def command(name: str) -> str:
    """How this measurement is repeated: the module and its options, without where the results went."""
    options = iter(sys.argv[1:])
    kept = []
    for option in options:
        if option == "--json":
            next(options, None)
        elif not option.startswith("--json="):
            kept.append(option)
    return " ".join(["python -m", f"benchmarks.{name}", *kept]).replace("-m  ", "-m ")


def commit() -> dict[str, Any]:
    """The commit of the measured code, and whether it had changes that are in no commit.

    A copy of the files whose history is another or is not there is told by ``SERVESCOPE_COMMIT`` which commit it is of; what was changed
    it cannot tell.
    """
    if told := os.environ.get("SERVESCOPE_COMMIT"):
        return {"id": told, "dirty": None}

    def git(*words: str) -> str:
        try:
            return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
        except OSError:  # no git on this machine
            return ""

    known = git("rev-parse", "HEAD")
    if not known:
        return {"id": None, "dirty": None}
    changed = [line for line in git("status", "--porcelain").splitlines() if "benchmarks/results/" not in line]
    return {"id": known, "dirty": bool(changed)}


def _cell(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)
