"""The form that starts a comparison or a sweep."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from app.components.address import first_tab, keep_in_address
from app.errors import LabError
from app.experiments.file import create_experiment
from app.experiments.plan import WORKLOAD, Experiment, Variant, grid, plan
from app.experiments.rate_search import plan_capacity
from app.lab import Lab
from app.runs.facts import differences
from app.runs.machine_rates import measure_for
from app.settings import controls as book
from app.settings.written import parse_settings
from app.words.plain import plain
from engine.config import ConfigError, EngineConfig, RunSpec, apply_overrides, refuse_contradictions
from scenarios import ScenarioError, available, load
from scenarios.build import Measure
from store.errors import StoreError
from store.slo import DEFAULT_SLO, PRESETS
from telemetry.refusal import in_words, with_field

Sides = list[Variant | LabError | ConfigError]

KINDS = ("Variants", "Sweep", "Capacity")
MOST_SIDES = 6
MOST_NAME = 80
LETTERS = "ABCDEF"


@st.cache_data(show_spinner=False)
def _scenarios() -> dict[str, str]:
    return {info.name: info.title for info in available()}


def new_comparison(lab: Lab) -> None:
    """Draw the form; a pressed button plans the experiment and turns the page to it."""
    titles = _scenarios()
    asked, technique, settings = _asked()
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
    shared = _shared(scenario, settings if scenario == asked else [])
    first = first_tab(KINDS, KINDS[0])
    sides, sweep, capacity = st.tabs(KINDS, default=first, key="compare-kind")
    keep_in_address({}, tabs=KINDS)
    drawn = _Form(lab, scenario, repeats, slo, shared, measure)
    with sides:
        variants = _variants(scenario, technique, shared)
        drawn.compare(variants)
    with sweep:
        drawn.sweep(_over())
    with capacity:
        drawn.capacity(variants)


@dataclass(frozen=True)
class _Form:
    """What all three kinds of experiment ask for, and the button that starts each."""

    lab: Lab
    scenario: str
    repeats: int
    slo: str
    shared: list[str]
    measure: Measure

    @property
    def _common(self) -> dict[str, Any]:
        return {"common": parse_settings(self.shared), "slo": self.slo, "measure": self.measure}

    def compare(self, variants: Sides) -> None:
        if st.button("Compare", type="primary", width="stretch", icon=":material/balance:", key="compare-start"):
            _start(self.lab, lambda: plan(self.scenario, _sound(variants), self.repeats, **self._common))

    def sweep(self, over: dict[str, list[str]]) -> None:
        if st.button("Sweep", type="primary", width="stretch", icon=":material/grid_on:", key="sweep-start"):
            _start(
                self.lab,
                lambda: plan(self.scenario, grid(over), self.repeats, kind="sweep", over=over, **self._common),
            )

    def capacity(self, variants: Sides) -> None:
        st.caption(
            "The highest rate of arrivals that each variant of the first tab still serves in time, by bisection."
        )
        low = st.number_input(
            "Lowest rate, requests/s", 0.0, value=None, key="rate-low", placeholder="a quarter of its own"
        )
        high = st.number_input("Highest rate", 0.0, value=None, key="rate-high", placeholder="eight times its own")
        if st.button("Search", type="primary", width="stretch", icon=":material/speed:", key="capacity-start"):
            _start(
                self.lab,
                lambda: plan_capacity(
                    self.scenario, _sound(variants), repeats=self.repeats, low=low, high=high, **self._common
                ),
            )


def _asked() -> tuple[str | None, str | None, list[str]]:
    """Scenario, technique and settings of the address that the reader came with, also once an experiment stands
    there.
    """
    if "scenario" in st.query_params:
        named = (st.query_params["scenario"], st.query_params.get("technique"), st.query_params.get_all("set"))
        st.session_state["compare-asked"] = named
    return st.session_state.get("compare-asked", (None, None, []))


def _shared(scenario: str, asked: list[str]) -> list[str]:
    """Settings of all variants, one ``key=value`` each: those the reader came with, to be changed here."""
    text = st.text_area(
        "Settings of all variants, one per line",
        "\n".join(asked),
        key=f"shared-{scenario}-{' '.join(asked)}",
        placeholder="max_num_seqs=8\nsampling.temperature=0.7",
        height=68,
    )
    return _lines(text)


def _variants(scenario: str, asked: str | None, common: list[str]) -> Sides:
    """Each side, or what is wrong with it; one without a name of its own is called by what differs."""
    count = int(st.number_input("How many", 2, MOST_SIDES, 2, key="compare-count"))
    engine = load(scenario).engine
    with contextlib.suppress(LabError, ConfigError):
        shared = {k: v for k, v in parse_settings(common).items() if not k.startswith(WORKLOAD)}
        engine = apply_overrides(engine, shared)
    known = [control.path for control in book.techniques()]
    technique = next(path for path in (asked, load(scenario).technique, known[0]) if path in known)
    places, sides = [], []
    for n in range(count):
        with st.container(border=True, gap="small"):
            places.append(st.container())
            toggles = {}
            for control in book.techniques():
                before = book.value_of(engine, control.path)
                value = (n == 0) if control.path == technique else before
                key = f"side-{n}-{control.path}-{scenario}-{technique}-{before}"
                toggles[control.path] = st.toggle(control.title, value=value, key=key, help=control.help)
            more = st.text_area(
                "More settings, one per line", key=f"side-{n}-more", placeholder="policy=orca\nkv_blocks=64", height=68
            )
            sides.append(_side(engine, toggles, _lines(more)))
    usual = names_by_difference(engine, [side if isinstance(side, dict) else {} for side in sides])
    found: list[Variant | LabError | ConfigError] = []
    for n, (place, side) in enumerate(zip(places, sides, strict=True)):
        name = place.text_input("Name", key=f"side-{n}", max_chars=60, placeholder=usual[n])
        found.append(Variant((name or "").strip() or usual[n], side) if isinstance(side, dict) else side)
    return found


def _lines(text: str | None) -> list[str]:
    return [line.strip() for line in (text or "").splitlines() if line.strip()]


def _side(
    engine: EngineConfig, toggles: Mapping[str, bool], lines: list[str]
) -> dict[str, str] | LabError | ConfigError:
    """A side's settings from its switches and its text; an error where these contradict each other."""
    switches = {path: "on" if on else "off" for path, on in toggles.items()}
    try:
        written = parse_settings(lines)
        for path in switches.keys() & written.keys():
            said = f"It is written here, and the switch above says {switches[path]}."
            return ConfigError(path, written[path], said, "Use the switch.")
        refuse_contradictions(switches | written)
    except (LabError, ConfigError) as error:
        return error
    changed = {path: switches[path] for path, on in toggles.items() if on != book.value_of(engine, path)}
    return changed | written


def names_by_difference(engine: EngineConfig, sides: Sequence[Mapping[str, str]]) -> list[str]:
    """What tells each side from the others, in a few words; letters where nothing does, or where it cannot be said yet.

    ``engine``: what the sides' settings are applied to.
    """
    try:
        served = [apply_overrides(engine, {k: v for k, v in s.items() if not k.startswith(WORKLOAD)}) for s in sides]
    except ConfigError:
        return list(LETTERS[: len(sides)])
    names = []
    for n, one in enumerate(served):
        words = [word for other in served for word in differences(one, other)]
        words += [f"{key}={value}" for key, value in sides[n].items() if key.startswith(WORKLOAD)]
        names.append(", ".join(dict.fromkeys(words))[:MOST_NAME] or LETTERS[n])
    return [f"{LETTERS[n]}: {name}" if names.count(name) > 1 else name for n, name in enumerate(names)]


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


def _sound(variants: Sides) -> list[Variant]:
    """The variants. Raises the first error among them."""
    for variant in variants:
        if not isinstance(variant, Variant):
            raise variant
    return [variant for variant in variants if isinstance(variant, Variant)]


def _start(lab: Lab, planned: Callable[[], tuple[Experiment, dict[str, RunSpec]]]) -> None:
    try:
        with st.spinner("Drawing the requests"):
            experiment, specs = planned()
        lab.home.require_space()
        create_experiment(lab.home, experiment, specs)
    except (ConfigError, ScenarioError) as error:
        st.error(plain(with_field(error)), icon=":material/error:")
    except (LabError, StoreError) as error:
        st.error(plain(in_words(error)), icon=":material/error:")
    else:
        st.query_params.from_dict({"experiment": experiment.experiment_id})
        st.rerun()
