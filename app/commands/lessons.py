"""``servescope lessons`` and ``lessons show``: what the Learn page teaches, and whether a teacher's file is sound."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.console import Json, command, emit, say, stdout, table
from app.words.plain import counted

if TYPE_CHECKING:
    from scenarios.lessons.lesson import Lesson, Step

WIDEST = 100  # columns of text

lessons = typer.Typer(help="Lessons with a prediction before every run.", rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    app.add_typer(lessons, name="lessons")


@lessons.callback(invoke_without_command=True)
@command
def list_lessons(context: typer.Context, json: Json = False) -> None:
    """List the lessons; lessons show NAME prints one, the Learn page of servescope lab gives it."""
    if context.invoked_subcommand is not None:
        return
    from scenarios import lessons as library
    from telemetry.refusal import in_words

    known, wrong = library.lessons()
    if json:
        emit(
            {
                "lessons": [{"name": name, "title": one.title, "steps": len(one.steps)} for name, one in known.items()],
                "problems": [error.as_dict() for error in wrong],
            }
        )
        return
    rows = [(name, one.title, len(one.steps)) for name, one in known.items()]
    stdout().print(table(("name", "title", "steps"), rows, right=("steps",), whole=("name",)))
    for error in wrong:
        say(f"{error.field}: {in_words(error)}")
    say(f"{counted(len(known), 'lesson')}. One of them: servescope lessons show {next(iter(known), 'NAME')}")


@lessons.command()
@command
def show(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A lesson's name, or the path of a lesson file of your own (.yaml).")
    ],
    json: Json = False,
) -> None:
    """Check one lesson, with every setting of its runs, and print it."""
    from app.lessons.plan import plan_file
    from scenarios import lessons as library

    path = Path(name).expanduser() if name.endswith((".yaml", ".yml")) else library.path_of(name)
    lesson = plan_file(path)
    if json:
        emit({"name": path.stem} | lesson.model_dump(mode="json", by_alias=True))
        return
    for line in _lines(lesson):
        stdout().print(line, markup=False, highlight=False, soft_wrap=True)


def _lines(lesson: Lesson) -> Iterator[str]:
    yield lesson.title
    yield from textwrap.wrap(lesson.summary, WIDEST)
    for n, step in enumerate(lesson.steps, 1):
        yield ""
        yield f"{n}. {step.title}"
        yield from textwrap.wrap(step.setup, WIDEST)
        yield from textwrap.wrap(f"Prediction: {step.predict.ask}", WIDEST)
        yield from (f"  - {answer}" for answer in _answers(step))
        measure = step.measure
        runs = len(measure.variants) * len(measure.points()) * measure.repeats
        yield f"Runs: {runs} of {measure.scenario} ({', '.join(measure.variants)})"
        yield f"Code: {step.code.path} {step.code.symbol}"
        if step.notes is not None:
            yield from textwrap.wrap(f"Notes: {step.notes}", WIDEST)


def _answers(step: Step) -> Iterator[Any]:
    asked = step.predict
    if asked.kind == "choice":
        yield from (option.says for option in asked.options)
    elif asked.kind == "ordering":
        yield from asked.of
    else:
        yield f"from {asked.low:g} to {asked.high:g} {asked.unit}".rstrip()
