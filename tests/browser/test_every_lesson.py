"""Every lesson walked to its end in a real browser against the real engine: first with predictions at the edge of what can be said,
then, as another learner, with those that the first runs would call right. Part of ``make soak`` only: twenty minutes and more."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from app.claims.records import rows_of
from app.experiments.file import read_experiment
from app.lessons.predicted import Predicted
from app.lessons.progress import read_progress
from app.lessons.reveal import OUTCOMES, reveal
from scenarios import lessons
from scenarios.lessons.lesson import Choice, Curve, Number, Step
from tests.browser.conftest import OpenLab

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.rare, pytest.mark.timeout(5400)]
NAMES = list(lessons.lessons()[0])
MOST_MS = 900_000  # for the runs of a step, on a machine that does other things beside
EDGE, KNOWING = "edgeofwhatcanbesaid", "knowswhatcameout"


def at_the_edge(step: Step) -> Predicted:
    asked = step.predict
    if isinstance(asked, Choice):
        return 0
    if isinstance(asked, Number):
        return asked.high
    if isinstance(asked, Curve):
        return tuple([asked.low] * len(step.measure.points()))
    return tuple(asked.of)


def candidates(step: Step, measured: dict[str, Any]) -> Iterator[Predicted]:
    asked = step.predict
    if isinstance(asked, Choice):
        yield from range(len(asked.options))
    elif isinstance(asked, Number):
        yield min(max(round(measured[asked.of]["values"][0], 3), asked.low), asked.high)
    elif isinstance(asked, Curve):
        yield tuple(min(max(value, asked.low), asked.high) for value in measured[asked.of]["values"])
    else:
        yield from itertools.permutations(asked.of)


def right_by_its_runs(lab: OpenLab, name: str, n: int) -> Predicted:
    """What the runs of the first learner would have called right, or comes nearest to it."""
    step = lessons.lesson(name).steps[n]
    experiment = read_experiment(lab.home, read_progress(lab.home, EDGE).of(name)[n].experiment_id)
    with rows_of(lab.home, [experiment]) as con:
        figures = reveal(con, experiment, step, at_the_edge(step)).figures
        scored = {one: reveal(con, experiment, step, one).scored for one in candidates(step, figures)}
    return max(scored, key=lambda one: (scored[one].score == "right", scored[one].right))


def predict(page: Page, step: Step, value: Predicted) -> None:
    asked = step.predict
    if isinstance(asked, Choice):
        page.get_by_text(asked.options[int(float(str(value)))].says, exact=True).click()
    elif isinstance(asked, Number):
        page.get_by_label("Your number").fill(f"{value}")
    elif isinstance(asked, Curve):
        assert isinstance(value, tuple)
        width = (asked.high - asked.low) / 100
        sliders = page.get_by_role("slider")
        expect(sliders).to_have_count(len(value))  # they come a little after the heading
        for slider, wanted in zip(sliders.all(), value, strict=True):
            moved = round((float(wanted) - (asked.low + asked.high) / 2) / width)
            slider.focus()
            for _ in range(abs(moved)):
                page.keyboard.press("ArrowRight" if moved > 0 else "ArrowLeft")
    else:
        assert isinstance(value, tuple)
        for place, name in enumerate(value):
            page.get_by_role("combobox").nth(place).click()
            page.get_by_role("option", name=str(name), exact=True).click()
            page.mouse.move(0, 0)  # what lies below the option may explain itself, over the next field


@pytest.mark.parametrize("name", NAMES)
def test_a_lesson_is_walked_with_predictions_at_the_edge_and_with_right_ones(
    open_lab: OpenLab, open_page: Callable[..., Page], name: str
) -> None:
    lesson = lessons.lesson(name)
    for learner in (EDGE, KNOWING):
        page = open_page(open_lab.url(path=f"/learn?lesson={name}&learner={learner}"))
        for n, step in enumerate(lesson.steps):
            expect(page.get_by_role("heading", name=f"{n + 1}. {step.title}", exact=True)).to_be_visible()
            predict(page, step, at_the_edge(step) if learner == EDGE else right_by_its_runs(open_lab, name, n))
            page.get_by_role("button", name="Commit and run").click()
            expect(page.get_by_text("You predicted:")).to_be_visible()
            expect(page.locator(".st-key-reveal")).to_be_visible(timeout=MOST_MS)
            said = page.locator(".st-key-reveal h3").inner_text()
            assert any(outcome in said for outcome in OUTCOMES.values())
            assert "{" not in page.locator(".st-key-reveal").inner_text()
            if n + 1 < len(lesson.steps):
                page.get_by_role("button", name="Next step").click()
        page.get_by_role("button", name="All lessons").click()
        expect(page.locator(f".st-key-lesson-{name}").get_by_text("done")).to_be_visible()
