"""The Papers page: a gallery of cards. ``?paper=NAME`` opens one; ``?words=``, ``?class=``, ``?technique=``,
``?from=``, ``?to=``, ``?status=``, ``?verdict=`` narrow; ``?report`` is the page of verdicts.
"""

from __future__ import annotations

import streamlit as st

from app.lab import get_lab
from app.views.paper_card import paper_card
from app.views.paper_report import report_page
from app.views.papers import gallery

lab = get_lab()
name = st.query_params.get("paper")
if name is not None:
    paper_card(lab, name)
elif "report" in st.query_params:
    report_page(lab)
else:
    st.title("Papers", anchor=False)
    gallery(lab)
