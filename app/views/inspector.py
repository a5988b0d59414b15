"""One iteration under the lens: who computed what in it, its steps, its place on the roofline, what was decided."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pyarrow.compute as pc
import streamlit as st

from app.components.chart_links import open_clicked
from app.components.pictures import Behind, iteration_picture
from app.components.selection import number_of
from app.panels import PANELS
from app.panels.panel import FinishedRun
from app.panels.sentences import decision_in_words
from app.views.pool_map import kv_map
from app.views.timeline import following_requests
from app.words.decisions import iteration_in_words, touched_in_words
from app.words.pictures import PICTURES
from app.words.selection import nothing_recorded
from app.words.text import PROVENANCE
from store import iteration_window
from store.limits import are_known
from telemetry.rows import IterationRow, columns


def iteration_inspector(run: FinishedRun) -> None:
    """Draw the selected iteration, else the longest one, and let the reader go on from there."""
    con, run_id = run.con, run.facts.run_id
    known = iteration_window.bounds(con, run_id)
    if known is None:
        st.info(nothing_recorded(run.facts.spec.engine.recording))
        return
    asked = number_of("iteration")
    shown = asked if asked is not None and known.first <= asked <= known.last else known.longest
    window = iteration_window.window(con, run_id, shown, known)
    behind = Behind(
        PICTURES["iteration"],
        window.slices.filter(pc.field("iteration") == shown),
        iteration_window.slices_query(run_id, shown, shown),
        "iteration",
        f"Iteration {shown} of {known.last}.",
    )
    iteration_picture(_picture(run, known, window, shown), behind, key=f"iteration-{run_id}", on_open=open_clicked)
    kv_map(run, shown)
    following_requests(run)
    for panel in PANELS:
        if panel.is_on(run.facts.spec.engine):
            panel.draw_iteration(run, shown)


def _picture(
    run: FinishedRun, known: iteration_window.Bounds, window: iteration_window.Window, shown: int
) -> dict[str, Any]:
    """What the picture draws, beside its palette."""
    decided = defaultdict(list)
    for decision in window.decisions:
        decided[str(decision["iteration"])].append(decision_in_words(decision))
    peaks = run.row.get("peaks")
    recording = run.facts.spec.engine.recording
    return {
        "run": run.facts.run_id,
        "iteration": shown,
        "request": number_of("request"),
        "first": known.first,
        "last": known.last,
        "longest": known.longest,
        "recording": recording,
        "recorded": recording == "full",
        "peaks": {name: peaks[name] for name in ("flops_per_s", "bytes_per_s")} if are_known(peaks) else None,
        "steps": window.steps,
        "slices": window.slices,
        "sentences": [iteration_in_words(row) for row in window.steps.to_pylist()],
        "decisions": decided,
        "touched": {str(row["iteration"]): touched_in_words(row) for row in window.touched},
        "names": {str(request): named for request, named in window.names.items()},
        "columns": [
            [name, column.unit, column.help, PROVENANCE[column.provenance].split(":")[0].lower()]
            for name, column in columns(IterationRow).items()
        ],
    }
