"""The Glossary page: every word of the field that the pages use. ``?words=`` narrows it."""

from __future__ import annotations

import streamlit as st

from app.views.glossary import glossary_list

st.title("Glossary", anchor=False)
glossary_list()
