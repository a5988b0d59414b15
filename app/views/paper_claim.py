"""A paper's claim on its card: run it, watch it, read the verdicts so far."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import streamlit as st

from app.charts import CONFIG
from app.charts.claims import claim_chart
from app.claims.judge import VERDICTS, Judgement, judge_claim
from app.claims.plan import plan_claim
from app.claims.records import claim_experiments, latest
from app.claims.words import heading
from app.components.chart_card import page_palette
from app.errors import LabError
from app.experiments.file import create_experiment, read_experiment
from app.experiments.measured import figure_rows
from app.experiments.missing_runs import as_it_is
from app.lab import Lab, get_lab
from app.rights import Right, needs, offered_with
from app.runs.machine_rates import measure_for
from app.views.experiments import compared_link, experiment_progress
from app.views.missing import rows_of, wait_for_rows
from app.words.plain import plain
from engine.config import ConfigError
from scenarios.papers import claim_file
from store.plan import Experiment
from telemetry.refusal import in_words, with_field

VERDICT_COLOURS = {
    "reproduced": "green",
    "direction only": "blue",
    "not reproduced": "orange",
    "regime not reached": "violet",
    "inconclusive": "gray",
    "invalid": "red",
    "stale": "gray",
}
WITHOUT = "not run here"
"""In place of a verdict, of a claim that has none on this machine."""


def claim_here(lab: Lab, name: str) -> None:
    """Draw a paper's claim: buttons, the run in progress, and every verdict that its runs give. Nothing where it has
    none.
    """
    if name not in claim_file.names():
        return
    claim = claim_file.claim(name)
    st.subheader("On this machine", anchor=False)
    st.markdown(plain(claim.says))
    experiments = claim_experiments(lab.home, name)
    going = next((one for one in experiments if one.state == "running"), None)
    _buttons(lab, name, idle=going is None)
    if "claim-problem" in st.session_state:
        st.error(st.session_state.pop("claim-problem"), icon=":material/error:")
    if experiments and experiments[0].state != "finished":
        experiment_progress(lab, experiments[0])
    _verdicts(lab, name, [one for one in experiments if one.state != "running"])


@offered_with(Right.MEASURE)
def _buttons(lab: Lab, name: str, *, idle: bool) -> None:
    with st.container(horizontal=True):
        for quick, label, words in (
            (True, "Quick run", "Smaller sizes and fewer repeats: a minute or two on two cores."),
            (False, "Run", "The whole form, with the repeats that the claim asks for."),
        ):
            st.button(
                label,
                key=f"claim-{'quick' if quick else 'whole'}",
                type="primary" if quick else "secondary",
                icon=":material/bolt:" if quick else ":material/play_arrow:",
                help=words,
                disabled=not idle,
                on_click=_start,
                args=(lab, name, quick),
            )


def verdicts_here(lab: Lab) -> dict[str, str]:
    """Each paper's verdict on this machine, of those that have one."""
    judgements = [one for experiment in claim_experiments(lab.home) if (one := judgement_here(lab, experiment))]
    return {name: one.verdict for name, one in latest(judgements).items()}


def verdict_badge(verdict: str) -> str:
    """A verdict as Markdown."""
    return f":{VERDICT_COLOURS[verdict]}-badge[{verdict}]"


def judgements_here(lab: Lab) -> list[Judgement]:
    """Every verdict that the store's rows give now."""
    return [one for experiment in claim_experiments(lab.home) if (one := judgement_here(lab, experiment))]


@needs(Right.MEASURE)
def _start(lab: Lab, name: str, quick: bool) -> None:
    try:
        experiment, specs = plan_claim(name, quick=quick, measure=measure_for(lab.home))
        lab.home.require_space()
        create_experiment(lab.home, experiment, specs)
    except ConfigError as error:
        st.session_state["claim-problem"] = plain(with_field(error))
    except LabError as error:
        st.session_state["claim-problem"] = plain(in_words(error))


def _verdicts(lab: Lab, name: str, experiments: list[Experiment]) -> None:
    """The verdicts, the newest first and open."""
    waiting = rows_of(lab, [one for one in experiments if one.state == "finished"])
    if waiting:
        wait_for_rows(lab, waiting)
    judgements = [one for experiment in experiments if (one := judgement_here(lab, experiment)) is not None]
    if not judgements:
        if not experiments:
            st.caption("It was not run on this machine yet.")
        return
    for place, one in enumerate(judgements):
        title = f"{verdict_badge(one.verdict)} {plain(heading(one).partition(', ')[2])}"
        with st.expander(title, expanded=place == 0, key=f"verdict-{one.experiment_id}"):
            _judgement(name, one)


def _judgement(name: str, judgement: Judgement) -> None:
    evidence = judgement.evidence
    st.markdown(f"**{plain(VERDICTS[judgement.verdict])}**")
    if "paper" in evidence:
        ours, theirs = st.columns(2)
        with ours:
            st.markdown("Here\n\n" + "\n".join(f"- {plain(reason)}" for reason in evidence["reasons"]))
        with theirs:
            differs = "\n".join(f"- {plain(line)}" for line in evidence["differs"])
            paper = evidence["paper"]
            st.markdown(
                f"In the paper\n\n- {plain(paper['figure'])}\n- {plain(paper['setup'])}\n\nWhat differs\n\n{differs}"
            )
    else:
        st.markdown("\n".join(f"- {plain(reason)}" for reason in evidence["reasons"]))
    rows = figure_rows(judgement.figures)
    if rows:
        claim = claim_file.claim(name)
        drawing = claim_chart(
            claim.plot.kind,
            claim.plot.of,
            evidence["figures"],
            page_palette(),
            title=claim.plot.title,
            axis=claim.sweep.axis if claim.sweep else "",
        )
        alt = (
            f"{claim.plot.title}: {'; '.join(f'{row[0]} {row[2]} {row[3]}' for row in rows if row[0] in claim.plot.of)}"
        )
        st.plotly_chart(drawing, alt=alt, key=f"chart-{judgement.experiment_id}", config=CONFIG, theme=None)
        head = ("Figure", "What it is", "At", "Here")
        table: list[dict[str, Any]] = [dict(zip(head, map(plain, row), strict=True)) for row in rows]
        st.table(table, border="horizontal", hide_index=True, alt="The figures of the claim, with their intervals")
        gates = "; ".join(f"{gate}: {said}" for gate, said in evidence["gates"].items())
        st.caption(plain(f"{gates}."))
    for note in evidence.get("notes", ()):
        st.caption(plain(note))
    compared_link(judgement.experiment_id)


def judgement_here(lab: Lab, experiment: Experiment) -> Judgement | None:
    """The verdict; None where there is none, or not all rows are there yet."""
    if experiment.claim is None or experiment.state in ("running", "paused") or rows_of(lab, [experiment]):
        return None
    paper, quick = experiment.claim.paper, experiment.claim.quick
    now = claim_file.claim_hash(claim_file.claim(paper), quick) if paper in claim_file.names() else ""
    runs = tuple(run for variant in experiment.variants for run in experiment.runs_of(variant.name))
    return _judged(experiment.experiment_id, experiment.state, runs, now)


@lru_cache(maxsize=256)
def _judged(experiment_id: str, state: str, runs: tuple[str, ...], hash_now: str) -> Judgement | None:
    """Everything after the id says whether what is kept still holds."""
    lab = get_lab()
    experiment = as_it_is(lab.home, read_experiment(lab.home, experiment_id))
    with lab.cursor() as con:
        try:
            return judge_claim(con, experiment)
        except LabError:
            return None
