"""The SQL page: one SELECT over everything recorded.

``?query=`` puts one into the box, ``?run=`` chooses the examples' run.
"""

from __future__ import annotations

import streamlit as st

from app.lab import get_lab
from app.views.sql import sql_box

st.title("SQL", anchor=False)
sql_box(get_lab())
