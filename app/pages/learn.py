"""The Learn page: lessons with a prediction before every run. ``?lesson=NAME`` opens one, ``&step=2`` a step of it;
``?learner=`` names the learner where the browser keeps no name of its own; ``&notes=yes`` is the speaker's second
window.
"""

from __future__ import annotations

import streamlit as st

from app.lab import get_lab
from app.views.learner import this_learner
from app.views.lesson import lesson_page
from app.views.lessons import lesson_list
from app.views.presenter import NOTES, speaker_notes

lab = get_lab()
name = st.query_params.get("lesson")
if name is not None and NOTES in st.query_params:
    speaker_notes(name)
    st.stop()
learner = this_learner()
if learner is None:
    st.title("Learn", anchor=False)
    st.caption("Looking for what this browser has learned so far.")
elif name is not None:
    lesson_page(lab, learner, name)
else:
    st.title("Learn", anchor=False)
    lesson_list(lab, learner)
