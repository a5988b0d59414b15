"""The KV map: every block of the pool as a cell, at any iteration."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, islice

import pyarrow as pa
import streamlit as st

from app.components.pictures import Behind, pool_picture
from app.components.selection import number_of
from app.panels.panel import FinishedRun
from app.panels.prompt_text import texts_of_run
from app.words.pictures import PICTURES
from app.words.plain import cut
from store import pool_map
from store.pool_map import PoolWindow

MOST_EVENTS_READ, MOST_TEXTS, LONGEST_TEXT = 50_000, 3000, 160


def kv_map(run: FinishedRun, iteration: int | None = None) -> None:
    """Draw the map.

    With an ``iteration`` it follows the picture of that iteration on the same page, else it has its own slider
    and begins with the selected iteration, or where the pool was fullest. The selected block, and the blocks of the
    selected request, are framed.
    """
    con, run_id = run.con, run.facts.run_id
    known = pool_map.fullest_query(run_id).rows(con)[0]
    if known["last"] is None:
        return
    key = f"kv-map-{run_id}{'' if iteration is None else '-beside'}"
    shown = iteration if iteration is not None else _asked(known)
    window = pool_map.pool_window(con, run_id, shown)
    words = PICTURES["kv-map"]
    st.markdown(f"**{words.title}**", help=words.explained)
    if window is None:
        recording = run.facts.spec.engine.recording
        st.info(
            (
                f"What happened to the blocks was not recorded (recording: {recording}). "
                "Set recording to full and run it again."
            )
            if recording != "full"
            else "Nothing happened to any block in this run."
        )
        return
    pool_picture(
        {
            "run": run_id,
            "follows": iteration is not None,
            "iteration": shown,
            "first": known["first"],
            "last": known["last"],
            "from": window.first,
            "until": window.last,
            "blocks": window.blocks,
            "block_size": run.facts.spec.engine.block_size,
            "start": window.start,
            "holders": window.holders,
            "events": window.events,
            "steps": window.steps,
            "texts": block_texts(run, window),
            "block": number_of("block"),
            "request": number_of("request"),
            "names": {str(row["request"]): row["request_id"] for row in pool_map.names_query(run_id).rows(con)},
        },
        _behind(run, shown, window.blocks),
        key=key,
    )


def _behind(run: FinishedRun, iteration: int, blocks: int) -> Behind:
    asked = pool_map.pool_at_query(run.facts.run_id, iteration)

    def table() -> pa.Table:  # all that happened to the blocks until then: read for who wants the file
        with run.lab.database.read() as con:
            return asked.table(con)

    return Behind(PICTURES["kv-map"], table, asked, "kv-map", f"{blocks} blocks after iteration {iteration}.")


def block_texts(run: FinishedRun, window: PoolWindow) -> dict[str, dict[str, str]]:
    """What the tokens in blocks say, by request and by place in its block table: of the first ``MOST_TEXTS`` blocks in
    the window that somebody wrote. Empty where the model's tokenizer is not on this machine.
    """
    tables = (window.holders, window.events)
    lies = chain.from_iterable(zip(t["request"].to_pylist(), t["position"].to_pylist(), strict=True) for t in tables)
    known = ((request, place) for request, place in lies if None not in (request, place) and min(request, place) >= 0)
    places = dict.fromkeys(islice(known, MOST_EVENTS_READ))
    places = dict.fromkeys(islice(places, MOST_TEXTS))
    size = run.facts.spec.engine.block_size
    text = texts_of_run(run, {request for request, _ in places})
    told: dict[str, dict[str, str]] = {}
    for request, position in places:
        says = text(request, position * size, (position + 1) * size)
        if says:
            told.setdefault(str(request), {})[str(position)] = cut(says, LONGEST_TEXT)
    return told


def _asked(known: Mapping[str, int]) -> int:
    """The selected iteration, if the run has it."""
    asked = number_of("iteration")
    return asked if asked is not None and known["first"] <= asked <= known["last"] else known["fullest"]
