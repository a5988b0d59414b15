"""The Compare page: start a comparison, follow it, read it. ``?experiment=ID`` opens one; ``?scenario=``,
``?technique=`` prefill. ``?run=ID&beside=ID`` sets two runs beside each other step by step, ``&request=`` one in both.
"""

from __future__ import annotations

import streamlit as st

from app.errors import LabError
from app.experiments.file import read_experiment
from app.lab import get_lab
from app.views.capacity import capacity_view
from app.views.comparison import comparison
from app.views.experiments import damaged_experiment, exchange_row, experiment_picker, experiment_progress
from app.views.new_comparison import new_comparison
from app.views.pair import BESIDE
from app.views.two_runs import two_runs
from app.words.plain import plain
from app.words.states import DRAWN_ANEW

lab = get_lab()
st.title("Compare", anchor=False)
with st.sidebar:
    new_comparison(lab)
if "run" in st.query_params and BESIDE in st.query_params:
    two_runs(lab, st.query_params["run"], st.query_params[BESIDE])
    st.stop()
experiment_id = experiment_picker(lab)
if experiment_id is None:
    st.markdown(
        "The same requests, served in two or more ways, several times and in turns. Set the variants up in the sidebar "
        "and press **Compare**. The answer comes with its uncertainty."
    )
    st.stop()
try:
    experiment = read_experiment(lab.home, experiment_id)
except LabError as error:
    damaged_experiment(lab, experiment_id, error)
    st.stop()
if experiment.sizing:
    st.caption(plain(experiment.sizing))
if experiment.draws:
    st.caption(plain(DRAWN_ANEW))
experiment_progress(lab, experiment)
if experiment.kind == "capacity":
    capacity_view(lab, experiment)
    exchange_row(lab, experiment, None)
elif experiment.complete_repeats():
    slo = comparison(lab, experiment)
    exchange_row(lab, experiment, slo)
