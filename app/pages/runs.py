"""Every run and experiment of the store: what it was, how it went, and what can be done with it; above, the queue.
``?words=``, ``?kind=``, ``?tag=`` narrow the list.
"""

from __future__ import annotations

import streamlit as st

from app.lab import get_lab
from app.views.queue import queue_panel
from app.views.run_list import run_list

lab = get_lab()
st.title("Runs", anchor=False)
queue_panel(lab)
run_list(lab)
