"""The Door page: an OpenAI-compatible server before the engine, opened, watched, talked to and closed."""

from __future__ import annotations

import streamlit as st

from app.attach.page import attach_part
from app.door.page import door_page
from app.lab import get_lab

lab = get_lab()
st.title("Door", anchor=False)
door_page(lab)
attach_part(lab)
