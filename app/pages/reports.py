"""The Reports page: charts that were pinned, with notes. ``?report=ID`` opens one."""

from __future__ import annotations

import streamlit as st

from app.lab import get_lab
from app.views.reports import report_list, report_page

lab = get_lab()
report_id = st.query_params.get("report")
if report_id is None:
    st.title("Reports", anchor=False)
    report_list(lab)
else:
    report_page(lab, report_id)
