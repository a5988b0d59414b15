"""A page of two parts, and another page, drawn by Streamlit for tests/app/server/test_turns.py."""

from __future__ import annotations

import streamlit as st

from tests.turned import act


def first() -> None:
    act("first")
    with st.container():
        for n in range(5):
            st.text(f"first {n}")
    act("first is drawn")


def second() -> None:
    st.text("second")


def two_parts() -> None:
    st.fragment(first)()
    st.fragment(second)()


def other() -> None:
    act("other")
    st.text("the other page")


st.navigation([st.Page(two_parts, default=True), st.Page(other, url_path="other")], position="hidden").run()
