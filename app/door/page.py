"""The Door page: open one, see how clients reach it, talk to it, close it."""

from __future__ import annotations

import secrets

import streamlit as st

from app.door.open_doors import OpenDoor, close, has_failed, launch, log_of, open_doors
from app.door.talk_page import TALK, chat
from app.errors import LabError
from app.lab import Lab
from app.rights import Right, may
from app.runs.facts import load_run
from app.settings import controls as book
from app.settings.controls import Control
from app.settings.more_techniques import label_of
from app.settings.written import parse_settings
from app.words.plain import plain
from engine.config import EMBEDDED_MODEL, ConfigError, EngineConfig
from telemetry.refusal import in_words, with_field
from telemetry.status import is_final, read_status, state

LOOK_S = 1.0
MOST_SHOWN = 2  # doors
OPENING = "door-opening"
LAST = "door-last"
INTRODUCTION = (
    "An OpenAI-compatible server before one engine that stays up: any client, load generator or evaluation harness can "
    "use it, and every iteration is recorded. A session is a run like any other, on this machine only."
)

SECOND = (
    "Another variant, or another model, that answers the same prompts in the chat below. Both engines share the "
    "device, so times say less than those of one alone; on a GPU say how much memory each may take (`kv_blocks`)."
)


def door_page(lab: Lab) -> None:
    """Draw the open door, the one being opened, or a form that opens one."""
    doors = open_doors(lab.home)[:MOST_SHOWN]
    if st.session_state.get(OPENING) in {door.run_id for door in doors}:
        st.session_state.pop(OPENING)
    if doors:
        st.session_state[LAST] = doors[0].run_id
        for door in doors:
            _open(lab, door)
        st.fragment(_while_open, run_every=LOOK_S)(lab, {door.run_id for door in doors})
        if st.session_state.get(OPENING):
            st.fragment(_opening, run_every=LOOK_S)(lab, st.session_state[OPENING])
        elif len(doors) < MOST_SHOWN and may(Right.START):
            with st.expander("Open a second door beside it", icon=":material/splitscreen_right:"):
                st.markdown(SECOND)
                _form(lab, beside=True)
        chat(doors, {door.run_id: switches_of(lab, door) for door in doors})
    elif st.session_state.get(OPENING):
        st.fragment(_opening, run_every=LOOK_S)(lab, st.session_state[OPENING])
    else:
        _how_it_ended(lab)
        st.markdown(INTRODUCTION)
        if may(Right.START):
            _form(lab)
        else:
            st.caption("No door is open. The presenter opens one here.")


def _form(lab: Lab, *, beside: bool = False) -> None:
    """``beside``: of a door that is open, whose device it then shares."""
    with st.form("open-door"):
        model = st.text_input(
            "Model",
            EMBEDDED_MODEL,
            key="door-model",
            help="As in the panel: a directory, a .gguf file, random:tiny ...",
        )
        with st.container(horizontal=True):
            for technique in book.leading_techniques():
                _switch(technique)
        further = book.further_techniques()
        on = sum(bool(st.session_state.get(f"door-{technique.path}")) for technique in further)
        with st.expander(label_of(on), key="door-more-techniques", expanded=on > 0), st.container(horizontal=True):
            for technique in further:
                _switch(technique)
        places = st.number_input("Requests at once", 1, 4096, 16, key="door-places")
        more = st.text_area(
            "Further settings", key="door-more", placeholder="kv_blocks=2000", help="KEY=VALUE, one in each line."
        )
        with st.container(horizontal=True):
            keep = st.toggle("Keep the text", key="door-keep", help="The answers' text and tokens go into the run.")
            keyed = st.toggle("Ask clients for a key", key="door-keyed", help="One is drawn and shown here.")
        if st.form_submit_button("Open the door", type="primary", icon=":material/door_open:"):
            _begin(lab, model, int(places), more, keep=keep, keyed=keyed, beside=beside)


def _switch(technique: Control) -> None:
    default = EngineConfig.model_fields[technique.path].default is not None
    st.toggle(technique.title, value=default, key=f"door-{technique.path}", help=technique.help)


def _begin(lab: Lab, model: str, places: int, more: str, *, keep: bool, keyed: bool, beside: bool) -> None:
    settings = {"model": model.strip(), "max_num_seqs": str(places)}
    settings |= {t.path: "on" if st.session_state[f"door-{t.path}"] else "off" for t in book.techniques()}
    try:
        settings |= parse_settings([line.strip() for line in more.splitlines() if line.strip()])
        key = secrets.token_urlsafe(24) if keyed else ""
        st.session_state[OPENING] = launch(lab.home, settings, keep_text=keep, key=key, shared=beside)
    except ConfigError as error:
        st.error(plain(with_field(error)), icon=":material/error:")
        return
    except LabError as error:
        st.error(plain(in_words(error)), icon=":material/error:")
        return
    if not beside:
        st.session_state[TALK] = []
    st.rerun()


def _opening(lab: Lab, run_id: str) -> None:
    """How far the door is; opened or failed, it turns the page."""
    if run_id in {door.run_id for door in open_doors(lab.home)}:
        st.rerun()
    run_dir = lab.home.run_dir(run_id)
    status = read_status(run_dir) if run_dir.is_dir() else {}
    if has_failed(run_id) or is_final(status):
        st.session_state.pop(OPENING, None)
        about = status.get("error") or {}
        st.error(plain(in_words(about) or "The door could not be opened."), icon=":material/error:")
        log = log_of(lab.home, run_id)
        if log.is_file():
            st.code(log.read_text("utf-8", "replace")[-2000:], language=None, wrap_lines=True)
        st.button("Back", icon=":material/arrow_back:")
        return
    progress = status.get("progress") or {}
    phase = progress.get("phase") or (state(status) if status else "starting")
    if phase == "queued":
        phase = "waits until the device is free"
    st.info(plain(f"The door is being opened: {phase} ..."), icon=":material/hourglass_top:")


def _open(lab: Lab, door: OpenDoor) -> None:
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**Open at** `{door.url}/v1`, model `{door.model}`", width="stretch")
            st.caption(plain(switches_of(lab, door)), width="content")
            st.page_link(
                "pages/live.py",
                label="Watch it",
                icon=":material/monitoring:",
                query_params={"run": door.run_id},
                width="content",
            )
            if may(Right.CANCEL) and st.button(
                "Close the door",
                icon=":material/door_front:",
                key=f"close-{door.run_id}",
                help="Open answers are finished first.",
            ):
                close(door)
                st.toast("The door is being closed.")
        with st.expander("How clients reach it"):
            key = door.key if may(Right.START) else ""
            st.code(_python(door, key), language="python", wrap_lines=True)
            st.code(_curl(door, key), language="bash", wrap_lines=True)


def _while_open(lab: Lab, shown: set[str]) -> None:
    """Turns the page once one of its doors is closed, by whomever."""
    if not shown <= {door.run_id for door in open_doors(lab.home)}:
        st.rerun()


def switches_of(lab: Lab, door: OpenDoor) -> str:
    """Which techniques are on behind a door."""
    try:
        return load_run(lab.home, door.run_id).switches
    except LabError:
        return ""


def _how_it_ended(lab: Lab) -> None:
    """What became of the door that this reader saw open last."""
    run_id = st.session_state.get(LAST)
    if run_id is None or not lab.home.run_dir(run_id).is_dir():
        return
    status = read_status(lab.home.run_dir(run_id))
    if not is_final(status):
        st.fragment(_until_over, run_every=LOOK_S)(lab, run_id)
        return
    if state(status) in ("failed", "crashed"):
        st.error(plain(f"The engine ended: {in_words(status.get('error') or {})}"), icon=":material/error:")
    st.page_link(
        "pages/live.py",
        label=f"The last session, {run_id}",
        icon=":material/monitoring:",
        query_params={"run": run_id},
        width="content",
    )


def _until_over(lab: Lab, run_id: str) -> None:
    if is_final(read_status(lab.home.run_dir(run_id))):
        st.rerun()
    st.caption("The door is being closed ...")


def _python(door: OpenDoor, key: str) -> str:
    return f"""from openai import OpenAI

client = OpenAI(base_url={door.url + "/v1"!r}, api_key={key or "none"!r})
answer = client.chat.completions.create(
    model={door.model!r}, messages=[{{"role": "user", "content": "Hello"}}], max_completion_tokens=64
)
print(answer.choices[0].message.content)"""


def _curl(door: OpenDoor, key: str) -> str:
    header = f" -H 'Authorization: Bearer {key}'" if key else ""
    body = '{"prompt": "Once upon a time", "max_tokens": 32, "stream": true}'
    return f"curl -N{header} {door.url}/v1/completions -d '{body}'"
