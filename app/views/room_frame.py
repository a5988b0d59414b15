"""What a room adds to every page: the bar, and following the presenter."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import parse_qs

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from app.components.room_bar import led_to, room_bar
from app.components.selection import TURN
from app.rights import visitor
from app.room.room import get_room

UNSHARED = ("room", "sql")  # the presenter's own: links, switches, queries
ONCE = (TURN, "tab-of-address", "followed", "watched")  # what a session decides when it first sees an address


def room_frame(pages: Iterable[StreamlitPage]) -> None:
    """Draw the bar, and go where the presenter is; nothing without a room."""
    if get_room() is None:
        return
    who = visitor()
    with st.container(key="room-frame"):
        room_bar(viewer=who.is_viewer, unshared=UNSHARED)
    target = led_to()
    if target is None or not who.is_viewer:
        return
    path, query = target
    page = next((one for one in pages if one.url_path == path), None)
    if page is not None:
        for name in ONCE:
            st.session_state.pop(name, None)
        st.switch_page(page, query_params=parse_qs(query, keep_blank_values=True))
