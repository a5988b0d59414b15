"""The lab's pages: what Streamlit runs for every visit. Only dresses the page and hands over to the page that was asked
for.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from app.components.chart_card import page_palette
from app.components.fields import note_sent_fields
from app.components.pin_button import offer
from app.rights import Right, may
from app.room.room import get_room
from app.theme import page_styles
from app.views.pin import pin_dialog
from app.views.room_frame import room_frame

SIDEBAR_WIDTH = 336  # pixels: the longest title of a scenario, whole
ASSETS = Path(__file__).resolve().parent.parent / "assets"

note_sent_fields()
st.set_page_config(
    page_title="ServeScope",
    page_icon=str(ASSETS / "icon.svg"),
    layout="wide",
    initial_sidebar_state=SIDEBAR_WIDTH,
    menu_items={"Get help": None, "Report a bug": None, "About": "ServeScope, a lab for LLM serving."},
)
st.logo(str(ASSETS / "logo.svg"), icon_image=str(ASSETS / "icon.svg"), size="large")
pages = [
    st.Page("pages/live.py", title="Live", icon=":material/monitoring:", default=True),
    st.Page("pages/compare.py", title="Compare", icon=":material/balance:"),
    st.Page("pages/runs.py", title="Runs", icon=":material/list:"),
    *([st.Page("pages/reports.py", title="Reports", icon=":material/article:")] if may(Right.KEEP) else []),
    *([st.Page("pages/sql.py", title="SQL", icon=":material/database:")] if may(Right.SQL) else []),
    st.Page("pages/door.py", title="Door", icon=":material/door_open:"),
    st.Page("pages/learn.py", title="Learn", icon=":material/school:"),
    st.Page("pages/papers.py", title="Papers", icon=":material/library_books:"),
    st.Page("pages/glossary.py", title="Glossary", icon=":material/dictionary:"),
    *([st.Page("pages/room.py", title="Room", icon=":material/groups:")] if get_room() is not None else []),
]
page = st.navigation(pages, position="top")
st.html(f"<style>{page_styles(page_palette())}</style>")
offer(pin_dialog)
room_frame(pages)
page.run()
