"""The list of runs and experiments: one table for all kinds, and what can be done with what is chosen in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from app.experiments.listing import KINDS, Entry, kind_in_list, list_all, title_of
from app.lab import Lab
from app.retention import with_sizes
from app.runs.run_figures import COLUMNS, figure
from app.views.chosen import chosen_one, facts_of
from app.views.chosen_several import chosen_several
from app.views.disk import disk_panel
from app.views.list_results import look_again, results
from app.views.run_filters import known_tags, run_filters, state_of
from app.views.trash import trash_list, undo_line
from app.words.plain import clock, counted, cut
from store import queries

NEWEST = 200
ABOUT = "Choose a row to open, name, tag or delete it; choose several to see them side by side."


def run_list(lab: Lab) -> None:
    """Draw the list, newest first; a chosen row shows what can be done with it."""
    undo_line(lab)
    entries = list_all(lab.home)
    runs = with_sizes(lab.home, (entry for entry in entries if entry["kind"] == "run"))
    if entries:
        _table(lab, entries, {run["id"]: run["bytes"] for run in runs})
    else:
        st.info("There is no run yet. Start one on the Live page.")
    disk_panel(lab, runs)
    trash_list(lab)


def _table(lab: Lab, entries: Sequence[Entry], sizes: Mapping[str, int]) -> None:
    wanted = run_filters(entries)
    experiments = {entry["id"] for entry in entries if entry["kind"] != "run"}
    found = [entry for entry in entries if wanted.matches(entry)]
    matching = [entry for entry in found if not wanted.folds(entry, experiments)]
    st.caption(f"{_how_many(matching)}. {_left_out(len(found) - len(matching), len(matching))}{ABOUT}")
    shown = matching[:NEWEST]
    told, waiting = results(lab, shown)
    with lab.database.read() as con:
        figures = queries.figures_of(con, [entry["id"] for entry in shown if entry["kind"] == "run"])
    selection = st.dataframe(
        [
            _row(
                lab,
                entry,
                told.get(entry["id"], ""),
                sizes.get(entry["id"]),
                {COLUMNS[name]: _shown(figure(figures.get(entry["id"]), name)) for name in wanted.columns},
            )
            for entry in shown
        ],
        hide_index=True,
        # A selection is kept by place: with other rows in the list it would stand on another one, so it begins anew.
        key=f"run-table-{hash(tuple(entry['id'] for entry in shown))}",
        on_select="rerun",
        selection_mode="multi-row",
        column_config={
            "pinned": st.column_config.CheckboxColumn(width=70, help="Never deleted to make room."),
            "disk, MB": st.column_config.NumberColumn(format="localized", help="What a run's folder takes on disk."),
            "kind": st.column_config.TextColumn(width=140),
            "result": st.column_config.TextColumn(width="medium"),
            "notes": st.column_config.TextColumn(width="medium"),
            "tags": st.column_config.ListColumn(width="small"),
            "labels": st.column_config.ListColumn(),
            **{COLUMNS[name]: st.column_config.NumberColumn(format="localized") for name in wanted.columns},
        },
        placeholder="",
        alt=f"{_how_many(shown)}, newest first",
    )
    picked = [shown[row] for row in selection["selection"]["rows"] if row < len(shown)]
    if len(picked) == 1:
        chosen_one(lab, picked[0], known_tags(entries))
    elif picked:
        chosen_several(lab, picked, known_tags(entries))
    if waiting:
        look_again()


def _shown(value: float | None) -> float | None:
    """Three digits that count, and every digit before the point."""
    return None if value is None else round(value, max(0, 2 - math.floor(math.log10(abs(value) or 1))))


def _row(lab: Lab, entry: Entry, result: str, taken: int | None, figures: dict[str, float | None]) -> dict[str, Any]:
    """``taken``: bytes on disk. The id stands near the front, where a narrow screen shows it, too."""
    one = "request" if entry["kind"] == "run" else "run"
    return {
        "name": title_of(entry),
        "id": entry["id"],
        "kind": KINDS[kind_in_list(entry)],
        "state": state_of(entry),
        "result": result,
        **figures,
        "done": f"{entry['done']} of {counted(entry['total'], one)}",
        "disk, MB": None if taken is None else round(taken / 1e6, 2),
        "pinned": entry["pinned"],
        "tags": entry["tags"],
        "notes": cut(" ".join(entry["notes"].split())),
        "started": clock(entry["started_unix_ns"] or entry["created_unix_ns"]),
        "served": _served(lab, entry),
        "model": entry["model"],
        "labels": entry["labels"],
    }


def _served(lab: Lab, entry: Entry) -> str:
    """How: the techniques of a run, the variants of an experiment."""
    if entry["kind"] != "run":
        return " / ".join(entry["variants"])
    facts = facts_of(lab, entry["id"])
    return "the spec cannot be read" if facts is None else facts.switches


def _how_many(entries: Sequence[Entry]) -> str:
    runs = sum(entry["kind"] == "run" for entry in entries)
    others = len(entries) - runs
    parts = [counted(runs, "run")] if runs or not others else []
    return " and ".join([*parts, counted(others, "experiment")] if others else parts)


def _left_out(folded: int, matching: int) -> str:
    """What the list leaves out, in sentences."""
    said = f"{counted(folded, 'run')} of experiments folded away. " if folded else ""
    return said + (f"The newest {NEWEST} are shown. " if matching > NEWEST else "")
