"""The chat of the Door page: one door answers, or two beside each other answer the same prompt."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from app.door.chat import Talked, talk
from app.door.open_doors import OpenDoor
from app.errors import LabError
from app.rights import Right, may
from app.words.plain import plain
from telemetry.refusal import in_words

MOST_TOKENS = 200
MOST_KEPT = 40  # messages of a talk
TALK = "door-talk"
IN_TURNS = "Both are asked the same, one after the other, so that neither slows the other down."
Message = dict[str, Any]


def chat(doors: Sequence[OpenDoor], names: Mapping[str, str]) -> None:
    """A talk with the models behind the doors, kept for this reader's visit. ``names``: of the doors, by run."""
    if not may(Right.START):
        return
    talked: list[Message] = st.session_state.setdefault(TALK, [])
    if len(doors) > 1:
        st.caption(IN_TURNS)
    for message in talked:
        with st.chat_message(message["role"]):
            _shown(message)
    asked = st.chat_input("Say something to the model", max_chars=4000, key="door-say")
    if not asked:
        return
    talked.append({"role": "user", "content": asked})
    with st.chat_message("user"):
        _message(talked[-1])
    with st.chat_message("assistant"):
        places = st.columns(len(doors)) if len(doors) > 1 else [st.container()]
        answers = [_answer(door, talked, place) for door, place in zip(doors, places, strict=True)]
    given = [answer | {"name": names.get(str(answer["run"]), "")} for answer in answers if answer is not None]
    if not given:
        talked.pop()
        return
    talked.append(given[0] if len(doors) == 1 else {"role": "assistant", "answers": given})
    del talked[:-MOST_KEPT]
    if len(given) == len(doors):
        st.rerun()


def heard_by(talked: Sequence[Message], run_id: str) -> list[dict[str, str]]:
    """The talk as one door heard it: its own answers, and only the questions that it answered, and the last one."""
    heard: list[dict[str, str]] = []
    for question, answer in zip(talked, [*talked[1:], None], strict=True):
        if question["role"] != "user":
            continue
        known = [] if answer is None else answer.get("answers", [answer])
        own = next((one["content"] for one in known if one.get("run") == run_id), None)
        if answer is None or own is not None:
            heard.append({"role": "user", "content": question["content"]})
        if own is not None:
            heard.append({"role": "assistant", "content": own})
    return heard


def where_they_part(one: str, other: str) -> str:
    """How two answers differ, in a sentence."""
    if one == other:
        return "Both answered the same text."
    same = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return f"The answers part after {same:,} characters."


def _answer(door: OpenDoor, talked: Sequence[Message], place: Any) -> Message | None:
    """Ask one door and show its answer as it comes; None where it gave none, which is said."""
    answer = Talked()
    with place:
        shown = st.empty()
        try:
            for _ in talk(door, heard_by(talked, door.run_id), MOST_TOKENS, answer):
                shown.markdown(plain(answer.text))
        except LabError as error:
            st.error(plain(in_words(error)), icon=":material/error:")
            return None
    return {
        "role": "assistant",
        "content": answer.text,
        "pieces": answer.pieces,
        "about": answer.in_words,
        "run": door.run_id,
        "request": answer.metrics.get("request"),
    }


def _shown(message: Message) -> None:
    answers = message.get("answers")
    if answers is None:
        _message(message)
        return
    for column, answer in zip(st.columns(len(answers)), answers, strict=True):
        with column:
            st.caption(plain(answer["name"]))
            _message(answer)
    if len(answers) == 2:
        st.caption(where_they_part(answers[0]["content"], answers[1]["content"]))


def _message(message: Message) -> None:
    pieces = message.get("pieces")
    if pieces is None:
        st.markdown(plain(message["content"]))
        return
    shown = "".join(
        f"<mark>{html.escape(piece)}</mark>" if tokens > 1 else html.escape(piece) for piece, tokens in pieces
    )
    st.html(
        "<style>.door-answer{white-space:pre-wrap;overflow-wrap:anywhere} "
        ".door-answer mark{background:rgba(14,116,144,.25);color:inherit}"
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
