"""The Room page of a workshop: the presenter's links, switches and results; a viewer's name and hand-out."""

from __future__ import annotations

import streamlit as st

from app.lab import get_lab
from app.rights import visitor
from app.room.room import get_room
from app.views.room import members_room, presenters_room

st.title("Room", anchor=False)
room = get_room()
if room is None:
    st.info("No room is open in this lab. servescope lab --workshop opens one.", icon=":material/groups:")
elif visitor().is_viewer:
    members_room(get_lab(), room, visitor().member)
else:
    presenters_room(get_lab(), room)
