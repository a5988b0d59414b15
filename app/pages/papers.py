"""The Papers page: a gallery of cards. ``?paper=NAME`` opens one; ``?words=``, ``?class=``, ``?technique=``, ``?from=``, ``?to=``, ``?status=`` narrow."""

from __future__ import annotations

import streamlit as st

from app.views.papercard import paper_card
from app.views.papers import gallery

name = st.query_params.get("paper")
if name is None:
    st.title("Papers", anchor=False)
    gallery()
else:
    paper_card(name)
