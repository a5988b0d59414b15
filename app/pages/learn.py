"""The Learn page: lessons with a prediction before every run. ``?lesson=NAME`` opens one, ``&step=2`` a step of it;
``?learner=`` names the learner where the browser keeps no name of its own.
"""

from __future__ import annotations

import streamlit as st

from app.lab import get_lab
from app.views.learner import this_learner
from app.views.lesson import lesson_page
from app.views.lessons import lesson_list

lab = get_lab()
learner = this_learner()
name = st.query_params.get("lesson")
if learner is None:
    st.title("Learn", anchor=False)
    st.caption("Looking for what this browser has learned so far.")
elif name is not None:
    lesson_page(lab, learner, name)
else:
    st.title("Learn", anchor=False)
    lesson_list(lab, learner)
