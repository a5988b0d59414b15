"""The Live page: start a run, watch it, read it afterwards. ``?run=RUN_ID`` opens a run of its own, ``&iteration=``,
``&request=``, ``&block=``, ``&from=``, ``&to=`` (s) a part of it, ``&tab=`` one of its tabs.
"""

from __future__ import annotations

from functools import partial

import streamlit as st

from app.components.when_seen import once_idle
from app.errors import LabError
from app.lab import get_lab
from app.rights import visitor
from app.runs.facts import load_run
from app.views.finished import finished_run
from app.views.foreign import foreign_run, reported_run
from app.views.header import run_header, why_it_ended
from app.views.latest import latest
from app.views.missing import damaged_run
from app.views.question import scenario_question
from app.views.room_start import viewers_panel
from app.views.running import running_board
from app.views.selection import say_not_over
from app.views.start import nothing_yet, start_panel
from app.views.step_cost import explained_now
from app.views.tour import first_visit
from app.views.which import run_to_show

PANEL = 640  # pixels of the sidebar that the panel fills at least

lab = get_lab()
panel = viewers_panel if visitor().is_viewer else start_panel
run_id = run_to_show(lab)
if run_id is None:
    with st.sidebar:
        once_idle(partial(panel, lab, run_id), key="panel", height=PANEL, now=True)
    nothing_yet(lab)
    st.stop()
try:
    facts = load_run(lab.home, run_id)
except LabError as error:
    damaged_run(lab, run_id, error)
else:
    run_header(lab, facts)
    scenario_question(facts)
    why_it_ended(facts)
    if facts.spec.attached:
        foreign_run(lab, facts)
    elif facts.spec.reported:
        reported_run(lab, facts)
    else:
        on_board = running_board(lab, facts)
        if not facts.is_final:
            say_not_over(facts)
            if on_board:
                explained_now(lab, run_id)
        else:
            finished_run(lab, facts, below_board=on_board)
latest(lab)
with st.sidebar:
    # after the run, which the reader waits for, and by itself: what is switched there changes nothing of the run
    once_idle(partial(panel, lab, run_id), key="panel", height=PANEL)
first_visit(lab, run_id)
