"""The Room page: links with a code to point a telephone at, what viewers may do, results; a viewer's own things."""

from __future__ import annotations

import io
from functools import lru_cache

import streamlit as st

from app.lab import Lab
from app.rights import visitor
from app.room.files import LONGEST_NAME
from app.room.handout import handout
from app.room.results import as_csv, as_json, told_of
from app.room.room import Room
from app.views.trash import attempt, complaint
from app.words.plain import counted, plain

CODE_WIDTH = 340  # pixels: read from the last row


def presenters_room(lab: Lab, room: Room) -> None:
    """Draw the presenter's page."""
    complaint()
    _links(room)
    st.toggle(
        "Viewers may start runs",
        room.kept.viewers_may_start,
        key="room-may-start",
        help="They queue like yours. Viewers can never cancel, delete, rename, export or query, whatever stands here.",
        on_change=lambda: attempt(room.allow_starts, bool(st.session_state["room-may-start"])),
    )
    _results(lab, room)
    with st.popover("End the room", icon=":material/logout:"):
        st.markdown("Its links open nothing any more, and viewers are sent away. What was predicted stays on disk.")
        st.button("End it for everybody", key="room-end", on_click=attempt, args=(room.end,))


def members_room(lab: Lab, room: Room, member: str) -> None:
    """Draw a viewer's page."""
    complaint()
    known = room.members.get(member)
    st.markdown("Nobody has to say a name. With one, the presenter's table of results has it beside your predictions.")
    st.text_input(
        "Your name, if you like",
        known.name if known is not None else "",
        key="room-name",
        max_chars=LONGEST_NAME,
        width=340,
        on_change=lambda: attempt(room.call, visitor().member, st.session_state["room-name"]),
    )
    told = told_of(lab, room, [member])
    if not told:
        st.caption("What you predict in the lessons stands here, to take home.")
        return
    st.table(
        [
            {"Step": plain(t.answer.title), "You predicted": plain(t.answer.predicted), "Result": t.answer.outcome}
            for t in told
        ],
        border="horizontal",
        hide_index=True,
        alt="What you predicted",
    )
    st.download_button(
        "Take it home",
        data=handout(lab, room, member),
        file_name="servescope-hand-out.html",
        mime="text/html",
        key="room-hand-out",
        icon=":material/download:",
        help="Your predictions with what was measured, as one HTML file that opens anywhere.",
        on_click="ignore",
    )


def _links(room: Room) -> None:
    viewers, presenters = room.address(room.kept.viewers_token), room.address(room.kept.presenters_token)
    with st.container(border=True, key="room-viewers-link"):
        st.markdown("**For everybody in the room**")
        with st.container(horizontal=True, vertical_alignment="center"):
            st.image(qr_code(viewers), width=CODE_WIDTH, caption="The viewers' link, for a telephone")
            st.code(viewers, language=None, wrap_lines=True)
    with st.expander("The presenter's link", icon=":material/key:"):
        st.markdown("Whoever opens it can do all that you can. Do not show it on the projector.")
        st.code(presenters, language=None, wrap_lines=True)


@lru_cache(maxsize=8)
def qr_code(text: str) -> bytes:
    """A QR code of the text as PNG, black on white in every theme."""
    import segno

    sink = io.BytesIO()
    segno.make(text, error="m", micro=False).save(sink, kind="png", scale=8, border=4)
    return sink.getvalue()


def _results(lab: Lab, room: Room) -> None:
    st.subheader("Results of the room", anchor=False)
    rows = [told.answer for told in told_of(lab, room, list(room.members))]
    if not rows:
        st.caption("Predictions of the lessons stand here as they come.")
        return
    st.caption(f"{counted(len(rows), 'prediction')} of {counted(len(room.members), 'person', 'people')}.")
    st.dataframe(
        [
            {
                "who": one.name or f"{one.member}",
                "lesson": one.title,
                "step": one.step,
                "predicted": one.predicted,
                "result": one.outcome,
            }
            for one in rows
        ],
        hide_index=True,
        alt=f"{len(rows)} predictions of the room",
    )
    with st.container(horizontal=True):
        for label, make, suffix, mime in (
            ("JSON", as_json, "json", "application/json"),
            ("CSV", as_csv, "csv", "text/csv"),
        ):
            st.download_button(
                label,
                data=make(lab, room),
                file_name=f"{room.room_id}.{suffix}",
                mime=mime,
                key=f"room-{suffix}",
                icon=":material/download:",
                on_click="ignore",
            )
