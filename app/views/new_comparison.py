"""The form that starts a comparison, a sweep or a search for capacity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from app.components.address import first_tab
from app.errors import LabError
from app.experiments.file import create_experiment
from app.experiments.plan import Experiment, grid, plan
from app.experiments.rate_search import plan_capacity
from app.lab import Lab
from app.rights import Right, offered_with
from app.runs.machine_rates import measure_for
from app.settings import controls as book
from app.settings.form import Form
from app.settings.held import LONGEST_KEPT, apart, reset, restore
from app.settings.scenario_list import scenario_infos, scenario_of, scenario_title
from app.settings.workload_form import workload_form
from app.views.exchange_settings import say_problems, settings_row
from app.views.kept_fields import KeptFields, one_of
from app.views.repeats_form import repeats_form, seeds_form, stop_form
from app.views.sweep_form import Over, rates_form, sweep_form
from app.views.variants_form import Sides, VariantsForm
from app.words.plain import plain
from engine.config import ConfigError, EngineConfig, RunSpec, apply_overrides
from scenarios import Scenario, ScenarioError
from scenarios.build import Measure
from store.errors import StoreError
from store.plan import StopRule
from store.slo import DEFAULT_SLO, PRESETS
from telemetry.refusal import in_words, with_field

KINDS = ("Variants", "Sweep", "Capacity")
Asked = tuple[str | None, str | None, list[str]]


@offered_with(Right.MEASURE)
def new_comparison(lab: Lab) -> None:
    """Draw the form; a pressed button plans the experiment and turns the page to it."""
    titles = {info.name: scenario_title(info) for info in scenario_infos()}
    came = _asked()
    asked, technique, settings = came
    kept = KeptFields("form", came)
    names = list(titles)
    first = kept.begin("scenario", asked if asked in titles else names[0], one_of(names))
    name = st.selectbox(
        "Scenario",
        names,
        index=names.index(first),
        format_func=lambda name: titles[name],
        key="compare-scenario",
    )
    kept.note("scenario", name, names[0])
    repeats, again = repeats_form(kept)
    slo = st.text_input(
        "Objective (SLO)",
        kept.begin("slo", DEFAULT_SLO, str),
        key="compare-slo",
        help=f"ttft=250,tpot=100 (ms), 5x (times what a request alone would see), or one of {', '.join(PRESETS)}.",
    )
    kept.note("slo", slo, DEFAULT_SLO)
    scenario = scenario_of(name)
    shared = _shared(lab, kept, name, came, settings if name == asked else [], first=name == first)
    engine = _served(scenario, apart(shared.before)[0])
    sides, sweep, capacity = st.tabs(KINDS, default=first_tab(KINDS, KINDS[0]), key="compare-kind")
    drawn = _Buttons(lab, name, repeats, again, slo, shared.before, not shared.wrong, measure_for(lab.home))
    with sides:
        seeds = seeds_form(kept)
        stop = stop_form(kept, repeats)
        known = [control.path for control in book.techniques()]
        usual = next(path for path in (scenario.technique, known[0]) if path in known)
        chosen = technique if technique in known else usual
        variants = VariantsForm(lab.home, kept, engine, name, str(chosen), str(usual), first=name == first).draw()
        place = st.container()
    with sweep:
        over = sweep_form(kept, scenario, engine)
        place_of_sweep = st.container()
    with capacity:
        rates = rates_form(kept)
        place_of_search = st.container()
    kept.keep(KINDS)
    with place:
        drawn.compare(variants, stop, seeds)
    with place_of_sweep:
        drawn.sweep(over)
    with place_of_search:
        drawn.capacity(variants, *rates)


@dataclass(frozen=True)
class _Buttons:
    """What all three kinds of experiment ask for, and the button that starts each."""

    lab: Lab
    scenario: str
    repeats: int
    again: int  # how often a disturbed run is served again
    slo: str
    shared: Mapping[str, str]
    fit: bool  # whether the settings that all share can be served
    measure: Measure

    @property
    def _common(self) -> dict[str, Any]:
        return {"common": dict(self.shared), "slo": self.slo, "measure": self.measure}

    def compare(self, sides: Sides, stop: StopRule | None, seeds: bool) -> None:
        if self._pressed("Compare", ":material/balance:", "compare-start", sides.fit):
            repeats = self.repeats if stop is None else min(self.repeats, stop.most)
            draws = (stop.most if stop is not None else repeats) if seeds else 0
            self._start(lambda: plan(self.scenario, sides.variants, repeats, draws=draws, **self._common), stop)

    def sweep(self, over: Over) -> None:
        if self._pressed("Sweep", ":material/grid_on:", "sweep-start", over.fit):
            values = over.values
            self._start(
                lambda: plan(self.scenario, grid(values), self.repeats, kind="sweep", over=values, **self._common)
            )

    def capacity(self, sides: Sides, low: float | None, high: float | None) -> None:
        if self._pressed("Search", ":material/speed:", "capacity-start", sides.fit):
            self._start(
                lambda: plan_capacity(
                    self.scenario, sides.variants, repeats=self.repeats, low=low, high=high, **self._common
                )
            )

    def _start(
        self, planned: Callable[[], tuple[Experiment, dict[str, RunSpec]]], stop: StopRule | None = None
    ) -> None:
        try:
            with st.spinner("Drawing the requests"):
                experiment, specs = planned()
            self.lab.home.require_space()
            create_experiment(self.lab.home, replace(experiment, again=self.again, stop=stop), specs)
        except (ConfigError, ScenarioError) as error:
            st.error(plain(with_field(error)), icon=":material/error:")
        except (LabError, StoreError) as error:
            st.error(plain(in_words(error)), icon=":material/error:")
        else:
            st.query_params.from_dict({"experiment": experiment.experiment_id})
            st.rerun()

    def _pressed(self, words: str, icon: str, key: str, fit: bool) -> bool:
        if not (fit and self.fit):
            st.caption("There are settings to mend before the start; they are marked above.")
        return st.button(words, type="primary", width="stretch", icon=icon, key=key, disabled=not (fit and self.fit))


def _asked() -> Asked:
    """Scenario, technique and settings of the address that the reader came with, also once an experiment stands
    there.
    """
    if "scenario" in st.query_params:
        named = (st.query_params["scenario"], st.query_params.get("technique"), st.query_params.get_all("set"))
        st.session_state["compare-asked"] = named
    return st.session_state.get("compare-asked", (None, None, []))


def _shared(lab: Lab, kept: KeptFields, name: str, came: Asked, settings: list[str], *, first: bool) -> Form:
    """Settings of all variants: those the reader came with, to be changed here."""
    scenario, scope = scenario_of(name), f"compare:{name}"
    if st.session_state.get(f"came-with-{scope}") != came:
        st.session_state[f"came-with-{scope}"] = came
        usual = "\n".join(settings)
        lines = kept.begin("shared", usual, str) if first else usual
        reset(scenario, scope)
        say_problems(scope, restore(scenario, scope, [line for line in lines.splitlines() if line.strip()]))
    form = Form(scenario, scope, name, links=False)
    box = st.expander("Settings of all variants", key="compare-shared", on_change="rerun")
    if box.open:
        with box:
            form.engine()
    else:
        form.say_closed(list(apart({**form.before, **form.wrong})[0]))
    workload_form(form, lab.home)
    settings_row(lab.home, scenario, scope, name)
    pairs = [f"{path}={text}" for path, text in form.before.items() if len(text) <= LONGEST_KEPT]
    kept.note("shared", "\n".join(pairs), "")
    return form


def _served(scenario: Scenario, settings: Mapping[str, str]) -> EngineConfig:
    """What the variants' own settings are applied to; while something is wrong, the scenario's."""
    with suppress(ConfigError):
        return apply_overrides(scenario.engine, settings)
    return scenario.engine
