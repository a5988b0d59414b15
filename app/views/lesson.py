"""One lesson, a step at a time: set-up, prediction, live run, reveal.

Nothing of a run is shown before the prediction.
"""

from __future__ import annotations

import streamlit as st

from app.components.address import keep_in_address
from app.errors import LabError, nearest, on_page
from app.experiments.drive import pause
from app.experiments.file import read_experiment
from app.experiments.missing_runs import missing_runs, without
from app.lab import Lab
from app.lessons.plan import begin_again
from app.lessons.predicted import in_words
from app.lessons.progress import NOT_BEGUN, Committed, Progress, reset, take_back
from app.rights import Right, may
from app.room.lesson import commit_here, reached_in, share_again
from app.room.room import get_room
from app.runs.facts import load_run
from app.runs.machine_rates import measure_for
from app.views.experiments import experiment_progress
from app.views.learner import address_of
from app.views.lessons import progress_of, undo_line
from app.views.missing import rows_of, say_missing, wait_for_rows
from app.views.prediction_form import given, prediction_form
from app.views.presenter import BACK_KEY, NEXT_KEY, key_of, large_type, presenter_row
from app.views.reveal import revealed
from app.views.room_answers import room_answers, waiting_for_runs
from app.views.running import running_board
from app.views.trash import attempt, complaint
from app.words.plain import counted, is_number, plain
from engine.config import ConfigError
from scenarios import ScenarioError, lessons
from scenarios.lessons.lesson import Lesson, Step
from scenarios.lessons.lesson_file import step_hash
from scenarios.measurement_file import as_settings
from store.errors import StoreError
from store.plan import Experiment
from telemetry.folder import is_run
from telemetry.refusal import in_words as refusal_in_words
from telemetry.refusal import with_field

LOOK_S = 0.5
FEWEST_REPEATS = 2  # with an interval


def lesson_page(lab: Lab, learner: str, name: str) -> None:
    """Draw the lesson of this name at the step that the address names, or at the first that is left to do."""
    progress = progress_of(lab, learner)
    try:
        lesson = lessons.lesson(name)
    except ScenarioError as error:
        presenter_row(name, 0)
        _unreadable(name, error)
        return
    made = progress.of(name) if progress is not None else {}
    reached = max(_reached(lab, lesson, made), min(reached_in(get_room(), name), len(lesson.steps) - 1))
    n = _step_to_show(lesson, reached)
    presenter_row(name, n)
    if progress is None:
        return
    keep_in_address({"step": [str(n + 1)]}, view=f"lesson {name} {n}")
    with st.container(key="lesson-large" if large_type() else "lesson"):
        st.title(plain(lesson.title), anchor=False)
        complaint()
        undo_line(lab, learner, progress)
        _where(name, lesson, made, reached, n)
        _step(lab, learner, name, lesson, n, made.get(n))
        room_answers(lab, learner, name, n, lesson.steps[n], made.get(n))
        _begin_anew(lab, learner, name, progress)


def _unreadable(name: str, error: ScenarioError) -> None:
    st.title("Learn", anchor=False)
    like_it = nearest(name, lessons.paths())
    words = plain(with_field(error) if error.field != "lesson" else f"There is no lesson {name!r}.")
    st.error(words, icon=":material/search_off:")
    if like_it:
        st.caption(plain(f"Did you mean {' or '.join(like_it)}? All lessons lists every one."))


def _reached(lab: Lab, lesson: Lesson, made: dict[int, Committed]) -> int:
    """The step that the learner has come to: the first without a prediction or with runs not over, else the last."""
    for n in range(len(lesson.steps)):
        if n not in made:
            return n
        try:
            over = read_experiment(lab.home, made[n].experiment_id).state == "finished"
        except LabError:
            return n  # deleted: the page offers to serve them again
        if not over:
            return n
    return len(lesson.steps) - 1


def _step_to_show(lesson: Lesson, reached: int) -> int:
    """The step of the address, as far as the learner has come."""
    asked = st.query_params.get("step", "")
    return min(int(asked) - 1, reached) if is_number(asked) and 1 <= int(asked) <= len(lesson.steps) else reached


def _where(name: str, lesson: Lesson, made: dict[int, Committed], reached: int, n: int) -> None:
    """The steps in a row: those that were predicted can be looked at again."""
    if len(lesson.steps) == 1:
        return
    with st.container(horizontal=True, key="lesson-steps"):
        for place in range(len(lesson.steps)):
            st.button(
                f"{place + 1}",
                key=f"step-{place + 1}",
                type="primary" if place == n else "secondary",
                icon=":material/check:" if place in made else None,
                disabled=place > reached,
                help=f"Step {place + 1}: {plain(lesson.steps[place].title)}",
                shortcut=key_of(BACK_KEY) if place == n - 1 else None,
                on_click=st.query_params.from_dict,
                args=(address_of(lesson=name, step=str(place + 1)),),
            )


def _step(lab: Lab, learner: str, name: str, lesson: Lesson, n: int, committed: Committed | None) -> None:
    step = lesson.steps[n]
    st.subheader(f"{n + 1}. {plain(step.title)}", anchor=False)
    st.markdown(plain(step.setup))
    _served(step)
    if committed is None:
        _predict(lab, learner, name, n, step)
        return
    with st.container(border=True, key="predicted"):
        st.markdown(plain(step.predict.ask))
        if committed.hash == step_hash(step):
            said = plain(in_words(step, committed.predicted))
            who = "The presenter" if committed.by_presenter else "You"
            st.markdown(f":material/lock: {who} predicted: **{said}**")
    if committed.hash != step_hash(step):
        _changed_since(lab, learner, name, n)
        return
    if _answer(lab, learner, name, n, committed):
        _next(name, lesson, n)


def _served(step: Step) -> None:
    """What will be served, from the file: never a result."""
    measure = step.measure
    runs = len(measure.variants) * len(measure.points()) * measure.repeats
    with st.expander("What will be served", icon=":material/play_circle:"):
        rows = [
            {"Served as": f"**{plain(variant)}**", "Its settings": _settings(own) or "as all"}
            for variant, own in measure.variants.items()
        ]
        st.table(rows, border="horizontal", hide_index=True, alt="The ways to serve and their settings")
        shared = _settings(measure.set)
        swept = f" at {counted(len(measure.points()), 'point')} ({plain(measure.sweep.axis)})" if measure.sweep else ""
        st.caption(
            f"Scenario {plain(measure.scenario)}{f' with {shared}' if shared else ''}. "
            f"{counted(runs, 'run')}{swept}, every way {measure.repeats} times in turns, after a short one to warm up."
        )


def _settings(settings: object) -> str:
    return ", ".join(f"`{key}={text}`" for key, text in as_settings(settings).items())  # type: ignore[arg-type]


def _predict(lab: Lab, learner: str, name: str, n: int, step: Step) -> None:
    with st.container(border=True, key="prediction"):
        st.markdown(":material/psychology_alt: **Your prediction**")
        prediction_form(step, f"predict-{name}-{n}")
        runs = may(Right.MEASURE)
        st.button(
            "Commit and run" if runs else "Commit",
            key="commit",
            type="primary",
            icon=":material/lock:",
            help=f"Writes your prediction down{' and starts the runs' if runs else ''}. It cannot be changed.",
            on_click=_commit,
            args=(lab, learner, name, n, step),
        )
        if "prediction-problem" in st.session_state:
            st.error(st.session_state.pop("prediction-problem"), icon=":material/error:")


def _commit(lab: Lab, learner: str, name: str, n: int, step: Step) -> None:
    value = given(step, f"predict-{name}-{n}")
    if value is None:
        st.session_state["prediction-problem"] = "Predict first: what you think counts only before the run."
        return
    _attempt(lambda: commit_here(lab.home, learner, name, n, value, measure_for(lab.home)))
    st.query_params.from_dict(address_of(lesson=name, step=str(n + 1)))  # it stays the one that is shown


def _run_again(lab: Lab, learner: str, name: str, n: int) -> None:
    _attempt(lambda: begin_again(lab.home, learner, name, n, measure=measure_for(lab.home)))
    share_again(lab.home, learner, name, n)


def _attempt(act: object) -> None:
    try:
        act()  # type: ignore[operator]
    except ConfigError as error:
        st.session_state["prediction-problem"] = plain(with_field(error))
    except (LabError, StoreError) as error:
        st.session_state["prediction-problem"] = plain(refusal_in_words(error))
    except OSError as error:
        st.session_state["prediction-problem"] = f"The disk refuses: {plain(error.strerror or error)}. Free some space."


def _changed_since(lab: Lab, learner: str, name: str, n: int) -> None:
    st.warning(
        "This step of the lesson was changed after you predicted, so your prediction is about something else.",
        icon=":material/edit_note:",
    )
    st.button(
        "Predict anew",
        key="predict-anew",
        icon=":material/replay:",
        on_click=attempt,
        args=(take_back, lab.home, learner, name, n),
    )


def _answer(lab: Lab, learner: str, name: str, n: int, committed: Committed) -> bool:
    """Draw the runs of a prediction as far as they are, or what they say; whether they said it."""
    if "prediction-problem" in st.session_state:
        st.error(st.session_state.pop("prediction-problem"), icon=":material/error:")
    if committed.experiment_id == NOT_BEGUN:
        waiting_for_runs()
        return False
    try:
        experiment = read_experiment(lab.home, committed.experiment_id)
    except LabError as error:
        _lost(lab, learner, name, n, on_page(error))
        return False
    if experiment.state != "finished":
        experiment_progress(lab, experiment)
        if experiment.state == "running":
            st.fragment(_board, run_every=LOOK_S)(lab, experiment.experiment_id)
        else:
            _again_button(lab, learner, name, n)
        return False
    missing = missing_runs(lab.home, experiment)
    say_missing(lab, experiment, missing)
    left = without(experiment, missing)
    if left.complete_repeats() < FEWEST_REPEATS:
        _again_button(lab, learner, name, n)
        return False
    waiting = rows_of(lab, [left])
    if waiting:
        wait_for_rows(lab, waiting)
        return False
    if revealed(lab, name, n, committed, left) == "open":
        _again_button(lab, learner, name, n, primary=True)
    return True


def _board(lab: Lab, experiment_id: str) -> None:
    """The live board of the run that is served now, or was served last."""
    try:
        experiment = read_experiment(lab.home, experiment_id)
    except LabError:
        st.rerun()
    begun = [turn.run_id for turn in experiment.turns if turn.run_id and is_run(lab.home.run_dir(turn.run_id))]
    if begun:
        running_board(lab, load_run(lab.home, begun[-1]))
    else:
        st.caption("The engine is starting.")


def _lost(lab: Lab, learner: str, name: str, n: int, why: str) -> None:
    st.warning(plain(f"The runs of this prediction are not there any more: {why}"), icon=":material/delete:")
    _again_button(lab, learner, name, n)


def _again_button(lab: Lab, learner: str, name: str, n: int, *, primary: bool = False) -> None:
    if not may(Right.MEASURE):
        return
    st.button(
        "Serve all runs again",
        key="serve-again",
        type="primary" if primary else "secondary",
        icon=":material/replay:",
        help="New runs for the same prediction, which stays as it is.",
        on_click=_run_again,
        args=(lab, learner, name, n),
    )


def _next(name: str, lesson: Lesson, n: int) -> None:
    """What comes after the reveal: the next step, the next lesson, or the end."""
    known = list(lessons.lessons()[0])
    after = known[known.index(name) + 1] if name in known and known.index(name) + 1 < len(known) else None
    if n + 1 < len(lesson.steps):
        label, then = "Next step", {"lesson": name, "step": str(n + 2)}
    elif after is not None:
        label, then = f"Next lesson: {lessons.lesson(after).title}", {"lesson": after}
    else:
        st.success("That was the last lesson.", icon=":material/school:")
        return
    st.button(
        plain(label),
        key="next",
        type="primary",
        icon=":material/arrow_forward:",
        shortcut=key_of(NEXT_KEY),
        on_click=st.query_params.from_dict,
        args=(address_of(**then),),
    )


def _begin_anew(lab: Lab, learner: str, name: str, progress: Progress) -> None:
    if progress.of(name) and may(Right.KEEP):
        st.button(
            "Begin this lesson anew",
            key="begin-anew",
            type="tertiary",
            icon=":material/restart_alt:",
            help="Takes your predictions of this lesson away, which can be undone. The runs stay in the store.",
            on_click=attempt,
            args=(_reset, lab, learner, name, progress),
        )


def _reset(lab: Lab, learner: str, name: str, progress: Progress) -> None:
    """Begin anew; runs that are still going on are stopped, since nobody waits for them."""
    for committed in progress.of(name).values():
        try:
            running: Experiment = read_experiment(lab.home, committed.experiment_id)
        except LabError:
            continue
        if running.state == "running":
            pause(lab.home, running.experiment_id, lab.queue.cancel)
    reset(lab.home, learner, name)
    st.query_params.from_dict(address_of(lesson=name))
