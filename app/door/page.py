"""The Door page: open one, see how clients reach it, talk to it, close it."""

from __future__ import annotations

import html
import secrets
from typing import Any

import streamlit as st

from app.door.chat import Talked, talk
from app.door.open_doors import OpenDoor, close, has_failed, launch, log_of, open_doors
from app.errors import LabError
from app.lab import Lab
from app.rights import Right, may
from app.settings import controls as book
from app.settings.written import parse_settings
from app.words.plain import plain
from engine.config import EMBEDDED_MODEL, ConfigError, EngineConfig
from telemetry.refusal import in_words, with_field
from telemetry.status import is_final, read_status, state

LOOK_S = 1.0
MOST_TOKENS = 200
MOST_KEPT = 40  # messages of a talk
OPENING = "door-opening"
TALK = "door-talk"
LAST = "door-last"
INTRODUCTION = (
    "An OpenAI-compatible server before one engine that stays up: any client, load generator or evaluation harness can "
    "use it, and every iteration is recorded. A session is a run like any other, on this machine only."
)


def door_page(lab: Lab) -> None:
    """Draw the open door, the one being opened, or a form that opens one."""
    doors = open_doors(lab.home)
    if doors:
        st.session_state.pop(OPENING, None)
        st.session_state[LAST] = doors[0].run_id
        _open(doors[0])
        st.fragment(_while_open, run_every=LOOK_S)(lab, doors[0].run_id)
        _chat(doors[0])
    elif st.session_state.get(OPENING):
        st.fragment(_opening, run_every=LOOK_S)(lab, st.session_state[OPENING])
    else:
        _how_it_ended(lab)
        st.markdown(INTRODUCTION)
        if may(Right.START):
            _form(lab)
        else:
            st.caption("No door is open. The presenter opens one here.")


def _form(lab: Lab) -> None:
    with st.form("open-door"):
        model = st.text_input(
            "Model",
            EMBEDDED_MODEL,
            key="door-model",
            help="As in the panel: a directory, a .gguf file, random:tiny ...",
        )
        with st.container(horizontal=True):
            for technique in book.techniques():
                default = EngineConfig.model_fields[technique.path].default is not None
                st.toggle(technique.title, value=default, key=f"door-{technique.path}", help=technique.help)
        places = st.number_input("Requests at once", 1, 4096, 16, key="door-places")
        more = st.text_area(
            "Further settings", key="door-more", placeholder="kv_blocks=2000", help="KEY=VALUE, one in each line."
        )
        with st.container(horizontal=True):
            keep = st.toggle("Keep the text", key="door-keep", help="The answers' text and tokens go into the run.")
            keyed = st.toggle("Ask clients for a key", key="door-keyed", help="One is drawn and shown here.")
        if st.form_submit_button("Open the door", type="primary", icon=":material/door_open:"):
            _begin(lab, model, int(places), more, keep=keep, keyed=keyed)


def _begin(lab: Lab, model: str, places: int, more: str, *, keep: bool, keyed: bool) -> None:
    settings = {"model": model.strip(), "max_num_seqs": str(places)}
    settings |= {t.path: "on" if st.session_state[f"door-{t.path}"] else "off" for t in book.techniques()}
    try:
        settings |= parse_settings([line.strip() for line in more.splitlines() if line.strip()])
        key = secrets.token_urlsafe(24) if keyed else ""
        st.session_state[OPENING] = launch(lab.home, settings, keep_text=keep, key=key)
    except ConfigError as error:
        st.error(plain(with_field(error)), icon=":material/error:")
        return
    except LabError as error:
        st.error(plain(in_words(error)), icon=":material/error:")
        return
    st.session_state[TALK] = []
    st.rerun()


def _opening(lab: Lab, run_id: str) -> None:
    """How far the door is; opened or failed, it turns the page."""
    if open_doors(lab.home):
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


def _open(door: OpenDoor) -> None:
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**Open at** `{door.url}/v1`, model `{door.model}`", width="stretch")
            st.page_link(
                "pages/live.py",
                label="Watch it",
                icon=":material/monitoring:",
                query_params={"run": door.run_id},
                width="content",
            )
            if may(Right.CANCEL) and st.button(
                "Close the door", icon=":material/door_front:", help="Open answers are finished first."
            ):
                close(door)
                st.session_state.pop(TALK, None)
                st.toast("The door is being closed.")
        with st.expander("How clients reach it"):
            key = door.key if may(Right.START) else ""
            st.code(_python(door, key), language="python", wrap_lines=True)
            st.code(_curl(door, key), language="bash", wrap_lines=True)


def _while_open(lab: Lab, run_id: str) -> None:
    """Turns the page once the door is closed, by whomever."""
    if run_id not in {door.run_id for door in open_doors(lab.home)}:
        st.rerun()


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


def _chat(door: OpenDoor) -> None:
    """A talk with the model behind the door, kept for this reader's visit."""
    if not may(Right.START):
        return
    talked: list[dict[str, Any]] = st.session_state.setdefault(TALK, [])
    for message in talked:
        with st.chat_message(message["role"]):
            _message(message)
    asked = st.chat_input("Say something to the model", max_chars=4000, key="door-say")
    if not asked:
        return
    talked.append({"role": "user", "content": asked})
    with st.chat_message("user"):
        _message(talked[-1])
    answer = Talked()
    with st.chat_message("assistant"):
        place = st.empty()
        try:
            messages = [{"role": each["role"], "content": each["content"]} for each in talked]
            for _ in talk(door, messages, MOST_TOKENS, answer):
                place.markdown(plain(answer.text))
        except LabError as error:
            talked.pop()
            st.error(plain(in_words(error)), icon=":material/error:")
            return
    talked.append({"role": "assistant", "content": answer.text, "pieces": answer.pieces, "about": answer.in_words})
    talked[-1] |= {"run": door.run_id, "request": answer.metrics.get("request")}
    del talked[:-MOST_KEPT]
    st.rerun()


def _message(message: dict[str, Any]) -> None:
    pieces = message.get("pieces")
    if pieces is None:
        st.markdown(plain(message["content"]))
        return
    shown = "".join(
        f"<mark>{html.escape(piece)}</mark>" if tokens > 1 else html.escape(piece) for piece, tokens in pieces
    )
    st.html(
        "<style>.door-answer{white-space:pre-wrap} .door-answer mark{background:rgba(14,116,144,.25);color:inherit}"
        f"</style><div class='door-answer'>{shown}</div>"
    )
    about = message["about"]
    if any(tokens > 1 for _, tokens in pieces):
        about += ". Marked: several tokens in one step, guesses that were right and the one after them"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(plain(about), width="stretch")
        if message.get("request") is not None:
            st.page_link(
                "pages/live.py",
                label=f"Request {message['request']}",
                icon=":material/search:",
                query_params={"run": message["run"], "request": str(message["request"])},
                help="What it waited for and what ran between its tokens, once the session is over.",
                width="content",
            )
