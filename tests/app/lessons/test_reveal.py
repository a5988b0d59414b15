"""The reveal of real runs on random tiny weights: every score, the effect that shows, and the one that cannot."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from app.claims.records import rows_of
from app.experiments.file import read_experiment
from app.home import Home
from app.lessons.predicted import Predicted
from app.lessons.reveal import Reveal, interval_in_words, reveal
from scenarios import lessons
from tests.app.lessons.small_lesson import served_step, small_lesson


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, str, list[str]]]:
    """A home in which both steps of the small lesson were served."""
    home = Home(tmp_path_factory.mktemp("home")).prepare()
    lessons.look_also_in(home.lessons)
    name = small_lesson(home)
    yield home, name, [served_step(home, name, 0, 4.0), served_step(home, name, 1, ("few", "many"))]
    lessons.look_also_in(None)


def told(served: tuple[Home, str, list[str]], step: int, predicted: Predicted) -> Reveal:
    home, name, experiments = served
    experiment = read_experiment(home, experiments[step])
    with rows_of(home, [experiment]) as con:
        return reveal(con, experiment, lessons.lesson(name).steps[step], predicted)


@pytest.mark.parametrize(("predicted", "outcome"), [(4.0, "right"), (2.0, "direction"), (1.0, "wrong")])
def test_a_prediction_is_held_against_what_the_engine_did(
    served: tuple[Home, str, list[str]], predicted: float, outcome: str
) -> None:
    one = told(served, 0, predicted)
    assert one.outcome == outcome
    assert one.showed
    assert len(one.paragraphs) == 2
    assert (
        one.paragraphs[1]
        == "The wide engine ran 4 requests at once and the narrow one 1 request (the same in every repeat), in each of 2 repeats."
    )


def test_every_figure_of_the_explanation_is_one_of_this_run(served: tuple[Home, str, list[str]]) -> None:
    one = told(served, 0, 2.0)
    measured = {"4", "1", "2"}  # what ran at once, their ratio, and the repeats
    for paragraph in (*one.paragraphs, one.to_try, one.code):
        assert set(re.findall(r"\d+(?:\.\d+)?", paragraph)) <= measured
        assert "{" not in paragraph


@pytest.mark.parametrize(
    ("ends", "unit", "words"),
    [
        ((12.14, 12.61), "ms", "12.1 to 12.6 ms"),
        ((0.4, 0.45), "share", "40 to 45 %"),
        ((4.0, 4.0), "requests", "the same in every repeat"),
        ((1.0, 4.0), "requests", "1 to 4 requests"),
        (None, "ms", "no interval"),
        ((1.5, 1.7), "", "1.5 to 1.7"),
    ],
)
def test_an_interval_in_words(ends: tuple[float, float] | None, unit: str, words: str) -> None:
    assert interval_in_words(ends, unit) == words


def test_an_effect_that_does_not_show_is_said_with_its_reason(served: tuple[Home, str, list[str]]) -> None:
    wrong = told(served, 1, ("many", "few"))
    assert wrong.outcome == "did not show here"
    (said,) = wrong.paragraphs
    assert "does not lie wholly above no effect" in said
    assert "A request waited in" in said, "the regime's own words: it was reached, so it is not to blame"


def test_a_right_prediction_stays_right_where_the_effect_does_not_show(served: tuple[Home, str, list[str]]) -> None:
    one = told(served, 1, ("few", "many"))
    assert (one.outcome, one.showed) == ("right", False)


def test_a_regime_that_is_not_reached_is_the_reason(served: tuple[Home, str, list[str]]) -> None:
    home, name, experiments = served
    step = lessons.lesson(name).steps[1]
    regime = step.measure.regimes[0].model_copy(update={"least": 2.0})
    step = step.model_copy(update={"measure": step.measure.model_copy(update={"regimes": (regime,)})})
    experiment = read_experiment(home, experiments[1])
    with rows_of(home, [experiment]) as con:
        one = reveal(con, experiment, step, ("many", "few"))
    assert "200% is needed" in one.paragraphs[0]
    assert "Places (max_num_seqs) would have to be" in one.paragraphs[0]
