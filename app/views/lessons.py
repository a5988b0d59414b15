"""The list of lessons: what each is about, how far this browser's learner is, and which comes next."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from app.components.address import keep_in_address
from app.errors import LabError
from app.lab import Lab
from app.lessons.progress import Committed, Progress, read_progress, undo_reset
from app.rights import visitor
from app.room.lesson import progress_in
from app.room.room import viewer_in
from app.views.learner import address_of
from app.views.trash import attempt, complaint
from app.words.plain import counted, plain
from scenarios import lessons
from scenarios.lessons.lesson import Lesson
from telemetry.refusal import in_words, with_field


def lesson_list(lab: Lab, learner: str) -> None:
    """Draw a card for every lesson; above them what to do first."""
    keep_in_address({}, view="lessons")
    known, wrong = lessons.lessons()
    progress = progress_of(lab, learner)
    if progress is None:
        return
    st.markdown(
        "Predict, then run the real engine, then see how the prediction fared. A step takes about a minute; what you "
        "predict stays in this browser's progress."
    )
    complaint()
    undo_line(lab, learner, progress)
    upcoming = next((name for name, one in known.items() if len(progress.of(name)) < len(one.steps)), None)
    with st.container(key="lesson-cards"):
        for number, (name, one) in enumerate(known.items(), 1):
            _card(number, name, one, progress.of(name), is_next=name == upcoming)
    for error in wrong:
        st.error(plain(with_field(error)), icon=":material/error:")


def progress_of(lab: Lab, learner: str) -> Progress | None:
    """What was predicted, in a room by the viewer; None, with the reason on the page, where it cannot be read."""
    room = viewer_in(visitor())
    if room is not None:
        return progress_in(room, learner)
    try:
        return read_progress(lab.home, learner)
    except LabError as error:
        st.error(plain(in_words(error)), icon=":material/error:")
        return None


def undo_line(lab: Lab, learner: str, progress: Progress) -> None:
    """The last lesson that was begun anew, with a button that brings its predictions back."""
    if progress.reset is None:
        return
    name, steps = progress.reset
    known = lessons.lessons()[0].get(name)
    title = known.title if known is not None else name
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        st.markdown(f"Begun anew: {plain(title)}, {counted(len(steps), 'prediction')} taken away.", width="stretch")
        st.button(
            "Undo",
            icon=":material/undo:",
            key="undo-reset",
            help="Brings the predictions and their results back.",
            on_click=attempt,
            args=(undo_reset, lab.home, learner),
        )


def _card(number: int, name: str, lesson: Lesson, made: Mapping[int, Committed], *, is_next: bool) -> None:
    done = sum(n in made for n in range(len(lesson.steps)))
    finished = done == len(lesson.steps)
    with st.container(border=True, key=f"lesson-{name}"):
        with st.container():
            st.markdown(f"**{number}. {plain(lesson.title)}**")
            st.markdown(plain(lesson.summary))
        with st.container():
            if finished:
                st.markdown(":green-badge[:material/check: done]")
            else:
                st.caption(f"{done} of {counted(len(lesson.steps), 'step')} predicted")
            st.button(
                "Look at it again" if finished else "Go on" if done else "Begin",
                key=f"open-{name}",
                icon=":material/replay:" if finished else ":material/play_arrow:",
                type="primary" if is_next else "secondary",
                help=plain(lesson.title),
                on_click=st.query_params.from_dict,
                args=(address_of(lesson=name),),
            )
