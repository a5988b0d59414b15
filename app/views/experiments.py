"""Experiments on the page: choose one, follow it, stop it, let it go on, take it away as a file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import streamlit as st

from app.errors import LabError, on_page
from app.experiments.drive import current_turn, is_bounded, pause, resume, runs_planned, seconds_left
from app.experiments.file import read_experiment
from app.experiments.listing import plan_of
from app.experiments.plan import Experiment, turn_in_words
from app.exports.export import export
from app.exports.import_file import import_file, imported_in_words
from app.lab import Lab
from app.rights import Right, may, offered_with
from app.runs.notes import notes_or_none
from app.views.trash import delete_damaged
from app.views.uploads import forget
from app.words.plain import counted, plain
from store.errors import StoreError
from telemetry.refusal import in_words

LOOK_S = 1.0
FILES = {
    ".html": (
        "Page",
        ":material/article:",
        "text/html",
        "One file with everything on this page; opens anywhere, offline.",
    ),
    ".servescope": ("All rows", ":material/inventory_2:", "application/zip", "Another lab can import this."),
    ".json": ("Trace", ":material/timeline:", "application/json", "Iterations and requests, for ui.perfetto.dev."),
    ".csv": ("Figures", ":material/table:", "text/csv", "Every figure with its intervals."),
}


def experiment_picker(lab: Lab) -> str | None:
    """The experiment of the address, else the newest; a list to change it, and a place to drop a snapshot."""
    known = sorted(lab.home.experiment_ids(), reverse=True)
    titles = _titles(lab, known)
    named = st.query_params.get("experiment")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = named
        if known:
            place = known.index(named) if named in known else 0
            chosen = st.selectbox(
                "Experiment",
                known,
                index=place,
                format_func=lambda experiment_id: titles.get(experiment_id, experiment_id),
                key=f"experiment-{named}-{len(known)}",
            )
        if may(Right.KEEP):
            with st.popover("Import", icon=":material/upload:", help="A .servescope file from this or another lab"):
                _import(lab)
    if "imported" in st.session_state:
        st.success(st.session_state.pop("imported"), icon=":material/check:")
    if chosen is not None and chosen != named and (named is None or named in known):
        st.query_params["experiment"] = chosen
    return named if named is not None and named not in known else chosen


def damaged_experiment(lab: Lab, experiment_id: str, error: LabError) -> None:
    """In place of an experiment: what is wrong with its files, and a button that deletes it."""
    st.error(plain(on_page(error)), icon=":material/search_off:")
    if error.kind == "bad-experiment":
        delete_damaged("Delete this experiment", lab.delete_experiment, experiment_id)


def experiment_progress(lab: Lab, experiment: Experiment) -> None:
    """How far it is; stop and go on. A running one is looked at every second."""
    if experiment.state == "running":
        st.fragment(_while_it_lasts, run_every=LOOK_S)(lab, experiment.experiment_id, _milestone(experiment))
        return
    if experiment.problem:
        st.error(plain(experiment.problem), icon=":material/error:")
    if experiment.state in ("paused", "failed"):
        done = sum(turn.done for turn in experiment.turns)
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"Stopped after {done} of {counted(runs_planned(experiment), 'run')}; what is done is kept.")
            if may(Right.MEASURE) and st.button("Go on", icon=":material/play_arrow:", key="resume"):
                resume(lab.home, experiment.experiment_id)
                lab.experimenter.take_up(experiment.experiment_id)
                st.rerun()


def exchange_row(lab: Lab, experiment: Experiment, slo: str | None) -> None:
    """Buttons for the files of an experiment; figures by the objective ``slo``."""
    take_away(lab, experiment.experiment_id, slo)


@offered_with(Right.EXPORT)
def take_away(lab: Lab, name: str, slo: str | None) -> None:
    """Buttons that make the files of a run or an experiment at the moment they are pressed."""
    st.markdown("**Take it away**")
    with st.container(horizontal=True):
        for suffix, (label, icon, mime, words) in FILES.items():
            st.download_button(
                label,
                data=_maker(lab, name, suffix, slo),
                file_name=f"{name}{suffix}",
                mime=mime,
                icon=icon,
                help=words,
                key=f"export{suffix}",
                on_click="ignore",
            )


def _maker(lab: Lab, name: str, suffix: str, slo: str | None) -> Callable[[], bytes]:
    def make() -> bytes:
        with tempfile.TemporaryDirectory(prefix="servescope-export-") as folder:  # the home's disk may be full
            path = Path(folder) / f"export{suffix}"
            export(lab.home, name, path, slo)
            return path.read_bytes()

    return make


def _while_it_lasts(lab: Lab, experiment_id: str, seen: int) -> None:
    if experiment_id not in lab.home.experiment_ids():
        st.rerun()  # it was deleted meanwhile; the page says so
    experiment = read_experiment(lab.home, experiment_id)
    if experiment.state != "running" or _milestone(experiment) != seen:
        st.rerun()
    done = sum(turn.done for turn in experiment.turns)
    turn, left = current_turn(experiment), seconds_left(lab.home, experiment)
    planned = runs_planned(experiment)
    words = f"Run {done + 1} of {'at most ' if is_bounded(experiment) else ''}{planned}"
    if turn is not None:
        words += f": {turn_in_words(turn)}"
    if left is not None:
        words += f", about {_duration(left)} left"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.progress(min(1.0, done / planned), text=plain(words))
        if may(Right.CANCEL) and st.button(
            "Stop", icon=":material/stop_circle:", key="stop", help="What is done is kept; it can go on later."
        ):
            try:
                pause(lab.home, experiment_id, lab.queue.cancel)
            except LabError as error:
                st.error(plain(in_words(error)))
            st.rerun()


def _milestone(experiment: Experiment) -> int:
    """Changes when there is more to draw."""
    if experiment.kind == "capacity":
        return sum(turn.done for turn in experiment.turns)
    return experiment.complete_repeats()


def _import(lab: Lab) -> None:
    turn = st.session_state.setdefault(
        "import-turn", 0
    )  # a fresh uploader after each file: the one before is forgotten
    upload = st.file_uploader(
        "A .servescope file, or the JSON of a load generator", type=["servescope", "json"], key=f"import-{turn}"
    )
    if "import-problem" in st.session_state:
        st.error(st.session_state.pop("import-problem"), icon=":material/error:")
    if upload is None or not st.button("Take it in", key="import-now", type="primary"):
        return
    with tempfile.TemporaryDirectory(dir=lab.home.root, prefix=".upload-") as folder:
        path = Path(folder) / f"upload{Path(upload.name).suffix}"
        path.write_bytes(upload.getbuffer())
        forget(upload)
        st.session_state["import-turn"] = turn + 1
        try:
            imported = import_file(lab.home, path, upload.name)
        except (LabError, StoreError) as error:
            st.session_state["import-problem"] = plain(in_words(error))
            st.rerun()
    for run_id in imported.changed:
        lab.collector.notify(run_id)
    st.session_state["imported"] = plain(" ".join(imported_in_words(imported)))
    if imported.experiment_id:
        st.query_params["experiment"] = imported.experiment_id
    st.rerun()


def _titles(lab: Lab, known: list[str]) -> dict[str, str]:
    """What each experiment is called."""
    titles = {}
    for experiment_id in known:
        named = notes_or_none(lab.home, experiment_id)[0].name
        try:
            plan = plan_of(lab.home, experiment_id)
        except LabError:
            titles[experiment_id] = _title(named, (), experiment_id)
        else:
            titles[experiment_id] = _title(named or plan.title, [v.name for v in plan.variants], experiment_id)
    return titles


def _title(title: str, variants: Sequence[str], experiment_id: str) -> str:
    if not variants:
        return f"{experiment_id} (damaged)"
    return f"{title}: {' / '.join(variants[:4])} ({experiment_id})"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def compared_link(experiment_id: str) -> None:
    """A link to the page that compares an experiment's runs."""
    st.page_link(
        "pages/compare.py",
        label="The runs, compared",
        icon=":material/balance:",
        query_params={"experiment": experiment_id},
        width="content",
        help="Every figure of these runs, beside each other.",
    )
