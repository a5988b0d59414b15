"""The part of the Door page that begins to watch another engine."""

from __future__ import annotations

import streamlit as st

from app.attach.launch import has_failed, launch, log_of
from app.errors import LabError
from app.lab import Lab
from app.rights import Right, may, visitor
from app.words.plain import plain
from telemetry.refusal import in_words

LOOK_S = 1.0
WATCHING = "attach-run"


def attach_part(lab: Lab) -> None:
    """A form for whoever may start runs here and is no viewer; then a link to the run."""
    if not may(Right.START) or visitor().is_viewer:
        return
    with st.expander("Watch another engine", icon=":material/visibility:", key="attach", on_change="rerun") as part:
        if not part.open and WATCHING not in st.session_state:
            return
        st.markdown(
            "A running vLLM, SGLang or llama.cpp server on this machine is read by its metrics and drawn on the "
            "Live page. Only sums are known of it, and where it sends spans the latencies of each request. For other "
            "machines use the command line, `servescope attach --help`."
        )
        with st.form("attach-form"):
            url = st.text_input("Address", placeholder="http://127.0.0.1:8000", key="attach-url")
            events = st.text_input(
                "KV events",
                placeholder="tcp://127.0.0.1:5557",
                key="attach-kv",
                help="A ZeroMQ publisher, if it has one.",
            )
            replay = st.text_input(
                "Replay of KV events",
                placeholder="tcp://127.0.0.1:5558",
                key="attach-replay",
                help="Where batches that were lost on the way are asked for again: the publisher's replay_endpoint.",
            )
            passes = st.text_input(
                "Forward-pass metrics",
                placeholder="ipc:///tmp/engine",
                key="attach-fpm",
                help="A ZeroMQ publisher, if it has one.",
            )
            spans = st.number_input(
                "Port for spans of requests",
                min_value=1024,
                max_value=65535,
                value=None,
                step=1,
                placeholder="4318",
                key="attach-spans",
                help="An engine that sends OpenTelemetry spans, such as vLLM with --otlp-traces-endpoint, sends them "
                "to this port of 127.0.0.1, path /v1/traces, as http/protobuf: then requests have latencies.",
            )
            if st.form_submit_button("Watch it", icon=":material/visibility:"):
                _begin(lab, url.strip(), events.strip(), passes.strip(), replay.strip(), spans)
        if run_id := st.session_state.get(WATCHING):
            st.fragment(_beginning, run_every=LOOK_S)(lab, run_id)


def _begin(lab: Lab, url: str, events: str, passes: str, replay: str, spans: int | None) -> None:
    try:
        st.session_state[WATCHING] = launch(lab.home, url, events, passes, replay, spans)
    except LabError as error:
        st.session_state.pop(WATCHING, None)
        st.error(plain(in_words(error)), icon=":material/error:")


def _beginning(lab: Lab, run_id: str) -> None:
    """A link once the run is there; why there is none, if the process ended."""
    if lab.home.run_dir(run_id).is_dir():
        st.page_link(
            "pages/live.py",
            label="Watch it",
            icon=":material/monitoring:",
            query_params={"run": run_id},
            width="content",
        )
    elif has_failed(run_id):
        log = log_of(lab.home, run_id)
        words = log.read_text("utf-8", "replace")[-600:] if log.is_file() else "It ended without a word."
        st.error(plain(words), icon=":material/error:")
    else:
        st.caption("Asking the engine ...")
