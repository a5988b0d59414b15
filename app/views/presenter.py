"""A lesson in front of a room: large type, high contrast, a key for the next step, and the speaker's notes in a second
window that follows the first.
"""

from __future__ import annotations

import streamlit as st

from app.components.chart_card import CONTRAST, high_contrast
from app.components.second_window import place_of_first_window, second_window_button
from app.rights import Right, may
from app.views.learner import LARGE, address_of
from app.words.plain import is_number, plain
from scenarios import ScenarioError, lessons
from scenarios.lessons.lesson import Choice, Lesson

NOTES = "notes"
NEXT_KEY, BACK_KEY = "PageDown", "PageUp"  # what a presenter's clicker sends


def large_type() -> bool:
    """Whether the page is read from a projector."""
    return st.query_params.get(LARGE) == "yes"


def key_of(name: str) -> str | None:
    """The key, while the page is on a projector: else it would scroll."""
    return name if large_type() else None


def presenter_row(name: str, n: int) -> None:
    """Back to the list; and what a projector needs. ``name``, ``n``: the lesson and the step shown, from 0."""
    with st.container(horizontal=True, horizontal_alignment="distribute"):
        st.button(
            "All lessons",
            key="all-lessons",
            icon=":material/arrow_back:",
            on_click=st.query_params.from_dict,
            args=(address_of(),),
        )
        with st.container(horizontal=True, width="content"):
            _turn_button(LARGE, "yes", ("Large type", "Usual type"), large_type())
            _turn_button(CONTRAST, "high", ("High contrast", "Usual contrast"), high_contrast())
            if may(Right.PRESENT):
                second_window_button("Speaker notes", NOTES, f"{name} {n + 1}")
    if large_type():
        st.caption("Page Down goes to the next step, Page Up to the one before, F shows the chart on the whole screen.")


def _turn_button(parameter: str, value: str, labels: tuple[str, str], on: bool) -> None:
    """Turns something on or off; the address says which, for a reload."""
    icons = {
        LARGE: (":material/text_increase:", ":material/text_decrease:"),
        CONTRAST: (":material/contrast:", ":material/contrast:"),
    }
    st.button(
        labels[on],
        key="large-type" if parameter == LARGE else "high-contrast",
        icon=icons[parameter][on],
        type="tertiary",
        help=HELP[parameter],
        on_click=_turn,
        args=(parameter, None if on else value),
    )


HELP = {
    LARGE: "For a projector: everything in a size that the last row can read, and keys for a clicker.",
    CONTRAST: "For a weak projector or a bright room: black on white, or white on black.",
}


def _turn(parameter: str, value: str | None) -> None:
    if value is None:
        st.query_params.pop(parameter, None)
    else:
        st.query_params[parameter] = value


def speaker_notes(name: str) -> None:
    """The second window: what to say at the step that the first shows; until that is known, at that of the address.

    A viewer of a room gets none: they say what will come out.
    """
    if not may(Right.PRESENT):
        st.caption("Speaker notes are the presenter's.")
        return
    lesson_name, _, step = (place_of_first_window() or f"{name} {st.query_params.get('step', '1')}").rpartition(" ")
    try:
        lesson = lessons.lesson(lesson_name)
    except ScenarioError:
        st.title("Speaker notes", anchor=False)
        st.caption("The first window shows no lesson. Open one there, and its notes stand here.")
        return
    n = min(int(step), len(lesson.steps)) - 1 if is_number(step) and int(step) else 0
    _notes(lesson, n)


def _notes(lesson: Lesson, n: int) -> None:
    step = lesson.steps[n]
    st.caption(f"Speaker notes. {plain(lesson.title)}, step {n + 1} of {len(lesson.steps)}")
    with st.container(key="lesson"):
        st.title(plain(step.title), anchor=False)
        if step.notes is None:
            st.markdown("This step has no notes. A lesson's file gives them with the key `notes`.")
        else:
            for paragraph in step.notes.split("\n\n"):
                st.markdown(plain(paragraph))
        st.markdown(f"**The question.** {plain(step.predict.ask)}")
        if isinstance(step.predict, Choice):
            for option in step.predict.options:
                st.markdown(f"- {plain(option.says)}")
        after = lesson.steps[n + 1].title if n + 1 < len(lesson.steps) else "the end of this lesson"
        st.markdown(f"**Next.** {plain(after)}")
