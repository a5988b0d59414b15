"""The form that starts a comparison or a sweep."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from app import controls as book
from app.capacity import plan_capacity
from app.commands.run import parse_settings
from app.errors import LabError
from app.experiment import Experiment, Variant, grid, plan
from app.experimentfile import create_experiment
from app.services import Lab
from app.sizing import measure_for
from app.views.plain import plain
from engine.config import ConfigError, RunSpec
from scenarios import ScenarioError, available, load
from store.errors import StoreError
from store.slo import DEFAULT_SLO, PRESETS

MOST_SIDES = 6
LETTERS = "ABCDEF"


@st.cache_data(show_spinner=False)
def _scenarios() -> dict[str, str]:
    return {info.name: info.title for info in available()}


def new_comparison(lab: Lab) -> None:
    """Draw the form; a pressed button plans the experiment and turns the page to it."""
    titles = _scenarios()
    asked = st.query_params.get("scenario")
    scenario = st.selectbox(
        "Scenario",
        list(titles),
        index=list(titles).index(asked) if asked in titles else 0,
        format_func=lambda name: titles[name],
        key="compare-scenario",
    )
    repeats = int(
        st.number_input("Repeats", 1, 100, 5, key="compare-repeats", help="Fewer than two cannot give a verdict.")
    )
    slo = st.text_input(
        "Objective (SLO)",
        DEFAULT_SLO,
        key="compare-slo",
        help=f"ttft=250,tpot=100 (ms), 5x (times what a request alone would see), or one of {', '.join(PRESETS)}.",
    )
    measure = measure_for(lab.home)
    sides, sweep, capacity = st.tabs(["Variants", "Sweep", "Capacity"], key="compare-kind")
    with sides:
        variants = _variants(scenario)
        if st.button("Compare", type="primary", width="stretch", icon=":material/balance:", key="compare-start"):
            _start(lab, lambda: plan(scenario, _named(variants), repeats, slo=slo, measure=measure))
    with sweep:
        over = _over()
        if st.button("Sweep", type="primary", width="stretch", icon=":material/grid_on:", key="sweep-start"):
            _start(lab, lambda: plan(scenario, grid(over), repeats, kind="sweep", over=over, slo=slo, measure=measure))
    with capacity:
        st.caption(
            "The highest rate of arrivals that each variant of the first tab still serves in time, by bisection."
        )
        low = st.number_input(
            "Lowest rate, requests/s", 0.0, value=None, key="rate-low", placeholder="a quarter of its own"
        )
        high = st.number_input("Highest rate", 0.0, value=None, key="rate-high", placeholder="eight times its own")
        if st.button("Search", type="primary", width="stretch", icon=":material/speed:", key="capacity-start"):
            _start(lab, lambda: plan_capacity(scenario, _named(variants), low=low, high=high, slo=slo, measure=measure))


def _variants(scenario: str) -> list[tuple[str, list[str]]]:
    """Name and settings (``key=value``) of each side."""
    count = int(st.number_input("How many", 2, MOST_SIDES, 2, key="compare-count"))
    engine = load(scenario).engine
    known = [control.path for control in book.techniques()]
    asked = st.query_params.get("technique") or load(scenario).technique
    technique = asked if asked in known else known[0]
    found = []
    for n in range(count):
        with st.container(border=True, gap="small"):
            settings = []
            name = st.text_input("Name", value=LETTERS[n], key=f"side-{n}", max_chars=60)
            for control in book.techniques():
                before = book.value_of(engine, control.path)
                value = (n == 0) if control.path == technique else before
                on = st.toggle(
                    control.title, value=value, key=f"side-{n}-{control.path}-{scenario}-{technique}", help=control.help
                )
                if on != before:
                    settings.append(f"{control.path}={'on' if on else 'off'}")
            more = st.text_area(
                "More settings, one per line",
                key=f"side-{n}-more",
                placeholder="policy=orca\nkv_blocks=64",
                height=68,
            )
            settings += [line.strip() for line in (more or "").splitlines() if line.strip()]
            found.append((name.strip() or LETTERS[n], settings))
    return found


def _over() -> dict[str, list[str]]:
    """Settings and values to go through."""
    over = {}
    for n, (setting, values) in enumerate((("chunked_prefill.token_budget", "32, 64, 128"), ("", ""))):
        key = st.text_input("Setting" if n == 0 else "Second setting (may be empty)", value=setting, key=f"over-{n}")
        text = st.text_input("Its values, with commas", value=values, key=f"values-{n}")
        if key and key.strip():
            over[key.strip()] = [part.strip() for part in (text or "").split(",") if part.strip()]
    st.caption("Settings are written as on the command line; `workload.speed` is how fast requests come.")
    return over


def _named(variants: list[tuple[str, list[str]]]) -> list[Variant]:
    return [Variant(name, parse_settings(settings)) for name, settings in variants]


def _start(lab: Lab, planned: Callable[[], tuple[Experiment, dict[str, RunSpec]]]) -> None:
    try:
        with st.spinner("Drawing the requests"):
            experiment, specs = planned()
        lab.home.require_space()
        create_experiment(lab.home, experiment, specs)
    except (ConfigError, ScenarioError) as error:
        st.error(plain(book.in_words(error)), icon=":material/error:")
    except (LabError, StoreError) as error:
        st.error(plain(f"{error.message} {error.mend}"), icon=":material/error:")
    else:
        st.query_params.clear()
        st.query_params["experiment"] = experiment.experiment_id
        st.rerun()
