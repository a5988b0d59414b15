"""Draws the workload's controls: how many requests come when, what they ask and how long the answers are."""

from __future__ import annotations

from itertools import groupby

import streamlit as st

from app.home import Home
from app.settings import workload
from app.settings.form import Form
from app.settings.held import hold, key_of
from app.settings.traces import keep_trace
from app.words.plain import plain
from scenarios.build import WORKLOAD_PREFIX
from telemetry.refusal import Refusal, in_words


def workload_form(form: Form, home: Home) -> None:
    """Draw the expander; its controls only once it is open."""
    wrong = [path for path in form.wrong if path.startswith(WORKLOAD_PREFIX)]
    # An expander whose label changed would be another one, and closed.
    box = st.expander("Workload", icon=":material/group:", key=f"workload-{form.scope}", on_change="rerun")
    if not box.open:
        form.say_closed([path for path in {**form.before, **form.wrong} if path.startswith(WORKLOAD_PREFIX)])
        return
    values = {path: st.session_state[key_of(form.scope, path)] for path in _held_paths(form.scope)}
    fields = sorted(
        workload.fields(form.scenario.workload, values),
        key=lambda field: not workload.group_of(field.control.path),  # of the whole workload last
    )
    several = len(form.scenario.workload.groups) > 1
    drawn: list[str] = []
    with box:
        for group, its in groupby(fields, key=lambda field: workload.group_of(field.control.path)):
            drawn += _group(form, home, group, list(its), several)
        form.complain([*drawn, *(path for path in form.wrong if path not in wrong)])


def _group(form: Form, home: Home, group: str, fields: list[workload.Field], several: bool) -> list[str]:
    """Draw a group's controls, the further ones on request; the paths of those drawn."""
    title = group if group and several else "Requests" if group else "All requests"
    st.markdown(f"**{plain(title)}**")
    further = any(field.control.advanced for field in fields) and st.toggle(
        "All its settings", key=f"more:{form.scope}:{group}", help="Also those that are seldom changed."
    )
    shown = [field for field in fields if further or not field.control.advanced]
    kind = key_of(form.scope, f"{WORKLOAD_PREFIX}{group}.arrivals{workload.KIND}")
    traced = st.session_state.get(kind) == "trace"
    for field in shown:
        form.control(field.control, field.begins)
        if field.control.path.endswith("arrivals.path") and traced:
            _trace_place(form, home, group)
    return [field.control.path for field in shown]


def _trace_place(form: Form, home: Home, group: str) -> None:
    """A place to drop a trace file."""
    key = f"trace:{form.scope}:{group}"
    st.file_uploader(
        "Drop a trace file here",
        type=["csv", "jsonl", "json", "gz"],
        key=key,
        on_change=_take_trace,
        args=(form, home, group, key),
        help="Azure, BurstGPT, Mooncake or Bailian; it is kept in the lab's store, and lengths become the trace's.",
    )
    if f"{key}-problem" in st.session_state:
        st.error(plain(st.session_state.pop(f"{key}-problem")), icon=":material/error:")


def _take_trace(form: Form, home: Home, group: str, key: str) -> None:
    upload = st.session_state.get(key)
    if upload is None:
        return
    try:
        kept = keep_trace(home, upload.name, upload.getvalue())
    except Refusal as error:
        st.session_state[f"{key}-problem"] = in_words(error)
        return
    own = f"{WORKLOAD_PREFIX}{group}."
    hold(
        form.scope,
        {
            f"{own}arrivals.path": str(kept.path),
            f"{own}prompt_tokens.kind": "trace",
            f"{own}output_tokens.kind": "trace",
            f"{own}prompt.kind": "trace-blocks" if kept.has_blocks else "tokens",
            f"{own}requests": kept.rows,
        },
    )


def _held_paths(scope: str) -> list[str]:
    begin = key_of(scope, "")
    return [key[len(begin) :] for key in map(str, list(st.session_state)) if key.startswith(begin)]
