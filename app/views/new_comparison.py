"""The form that starts a comparison or a sweep."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from app.components.address import first_tab
from app.errors import LabError
from app.experiments.file import create_experiment
from app.experiments.plan import WORKLOAD, Experiment, Variant, grid, plan
from app.experiments.rate_search import plan_capacity
from app.lab import Lab
from app.runs.facts import differences
from app.runs.machine_rates import measure_for
from app.settings import controls as book
from app.settings.written import parse_settings
from app.views.kept_fields import KeptFields, one_of, rate, switch, whole
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
MOST_LETTERS = 60  # of a name that is written
REPEATS, MOST_REPEATS = 5, 100
LETTERS = "ABCDEF"


@st.cache_data(show_spinner=False)
def _scenarios() -> dict[str, str]:
    return {info.name: info.title for info in available()}


def new_comparison(lab: Lab) -> None:
    """Draw the form; a pressed button plans the experiment and turns the page to it."""
    titles = _scenarios()
    asked, technique, settings = _asked()
    kept = KeptFields("form", (asked, technique, settings))
    names = list(titles)
    first = kept.begin("scenario", asked if asked in titles else names[0], one_of(names))
    scenario = st.selectbox(
        "Scenario",
        names,
        index=names.index(first),
        format_func=lambda name: titles[name],
        key="compare-scenario",
    )
    kept.note("scenario", scenario, names[0])
    several = kept.begin("repeats", REPEATS, whole(1, MOST_REPEATS))
    about = "Fewer than two cannot give a verdict."
    repeats = int(st.number_input("Repeats", 1, MOST_REPEATS, several, key="compare-repeats", help=about))
    kept.note("repeats", repeats, REPEATS)
    slo = st.text_input(
        "Objective (SLO)",
        kept.begin("slo", DEFAULT_SLO, str),
        key="compare-slo",
        help=f"ttft=250,tpot=100 (ms), 5x (times what a request alone would see), or one of {', '.join(PRESETS)}.",
    )
    kept.note("slo", slo, DEFAULT_SLO)
    shared = _shared(kept, scenario, settings if scenario == asked else [], scenario == first)
    sides, sweep, capacity = st.tabs(KINDS, default=first_tab(KINDS, KINDS[0]), key="compare-kind")
    drawn = _Form(lab, scenario, repeats, slo, shared, measure_for(lab.home))
    with sides:
        variants = _variants(kept, scenario, technique, shared, scenario == first)
        place = st.container()
    with sweep:
        over = _over(kept)
        place_of_sweep = st.container()
    with capacity:
        rates = _rates(kept)
        place_of_search = st.container()
    kept.keep(KINDS)
    with place:
        drawn.compare(variants)
    with place_of_sweep:
        drawn.sweep(over)
    with place_of_search:
        drawn.capacity(variants, *rates)


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

    def capacity(self, variants: Sides, low: float | None, high: float | None) -> None:
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


def _shared(kept: KeptFields, scenario: str, asked: list[str], first: bool) -> list[str]:
    """Settings of all variants, one ``key=value`` each: those the reader came with, to be changed here."""
    usual = "\n".join(asked)
    text = st.text_area(
        "Settings of all variants, one per line",
        kept.begin("shared", usual, str) if first else usual,
        key=f"shared-{scenario}-{' '.join(asked)}",
        placeholder="max_num_seqs=8\nsampling.temperature=0.7",
        height=68,
    )
    kept.note("shared", text, "")
    return _lines(text)


def _variants(kept: KeptFields, scenario: str, asked: str | None, common: list[str], first: bool) -> Sides:
    """Each side, or what is wrong with it; one without a name of its own is called by what differs.

    ``first``: the scenario is the one that the reader came with, and so are its switches.
    """
    several = kept.begin("sides", 2, whole(2, MOST_SIDES))
    count = int(st.number_input("How many", 2, MOST_SIDES, several, key="compare-count"))
    kept.note("sides", count, 2)
    engine = load(scenario).engine
    with contextlib.suppress(LabError, ConfigError):
        shared = {k: v for k, v in parse_settings(common).items() if not k.startswith(WORKLOAD)}
        engine = apply_overrides(engine, shared)
    known = [control.path for control in book.techniques()]
    usual_technique = next(path for path in (load(scenario).technique, known[0]) if path in known)
    technique = asked if asked in known else usual_technique
    places, sides = [], []
    for n in range(count):
        with st.container(border=True, gap="small"):
            places.append(st.container())
            toggles = {}
            for control in book.techniques():
                before = book.value_of(engine, control.path)
                value = (n == 0) if control.path == technique else before
                named = f"{n}.{control.path}"
                value = kept.begin(named, value, switch) if first else value
                key = f"side-{n}-{control.path}-{scenario}-{technique}-{before}"
                toggles[control.path] = st.toggle(control.title, value=value, key=key, help=control.help)
                usually = (n == 0) if control.path == usual_technique else before
                kept.note(named, toggles[control.path], usually)
            more = st.text_area(
                "More settings, one per line",
                kept.begin(f"{n}.more", "", str),
                key=f"side-{n}-more",
                placeholder="policy=orca\nkv_blocks=64",
                height=68,
            )
            kept.note(f"{n}.more", more, "")
            sides.append(_side(engine, toggles, _lines(more)))
    usual = names_by_difference(engine, [side if isinstance(side, dict) else {} for side in sides])
    variants_or_errors: list[Variant | LabError | ConfigError] = []
    for n, (place, side) in enumerate(zip(places, sides, strict=True)):
        begun = kept.begin(f"{n}.name", "", str)[:MOST_LETTERS]
        name = place.text_input("Name", begun, key=f"side-{n}", max_chars=MOST_LETTERS, placeholder=usual[n])
        kept.note(f"{n}.name", name, "")
        variants_or_errors.append(Variant((name or "").strip() or usual[n], side) if isinstance(side, dict) else side)
    return variants_or_errors


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


def _rates(kept: KeptFields) -> tuple[float | None, float | None]:
    """Between which rates a search for capacity looks, requests/s; None: as usual."""
    st.caption("The highest rate of arrivals that each variant of the first tab still serves in time, by bisection.")
    bounds = []
    for name, words, usual in (
        ("low", "Lowest rate, requests/s", "a quarter of its own"),
        ("high", "Highest rate", "eight times its own"),
    ):
        begun = kept.begin(name, None, rate)
        bounds.append(st.number_input(words, 0.0, value=begun, key=f"rate-{name}", placeholder=usual))
        kept.note(name, bounds[-1], None)
    return bounds[0], bounds[1]


def _over(kept: KeptFields) -> dict[str, list[str]]:
    """Settings and values to go through."""
    over = {}
    for n, (setting, values) in enumerate((("chunked_prefill.token_budget", "32, 64, 128"), ("", ""))):
        words = "Setting" if n == 0 else "Second setting (may be empty)"
        key = st.text_input(words, value=kept.begin(f"over.{n}", setting, str), key=f"over-{n}")
        kept.note(f"over.{n}", key, setting)
        text = st.text_input("Its values, with commas", value=kept.begin(f"values.{n}", values, str), key=f"values-{n}")
        kept.note(f"values.{n}", text, values)
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
