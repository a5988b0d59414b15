"""Every run of the store: what it was, how it went, and what can be done with it."""

from __future__ import annotations

import streamlit as st

from app.lab import get_lab
from app.views.run_list import run_list

st.title("Runs", anchor=False)
run_list(get_lab())
