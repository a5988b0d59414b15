"""What a sweep goes through, and between which rates a search for capacity looks."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from app.settings.sweep_values import control_title, sweepable, values_to_try, wrong_values
from app.views.kept_fields import KeptFields, one_of, rate
from app.words.plain import counted, plain
from engine.config import EngineConfig
from scenarios import Scenario
from telemetry.refusal import with_field

USUAL = ("chunked_prefill.token_budget", None)


@dataclass(frozen=True)
class Over:
    """Settings and values to go through; ``fit``: every value can be served."""

    values: dict[str, list[str]]
    fit: bool


def sweep_form(kept: KeptFields, scenario: Scenario, engine: EngineConfig) -> Over:
    """Draw it. ``engine``: with the settings of all variants."""
    known = sweepable(scenario)
    over: dict[str, list[str]] = {}
    fit = True
    for n, usual in enumerate(USUAL):
        begun = kept.begin(f"over.{n}", usual or "", one_of([*known, ""])) or None
        options: list[str | None] = [*([None] if n else []), *known]
        chosen = st.selectbox(
            "Setting" if n == 0 else "Second setting",
            options,
            index=options.index(begun) if begun in options else 0,
            format_func=lambda path: "none" if path is None else control_title(known[path], known),
            key=f"over-{n}",
            help="The engine's settings, and the workload's below them.",
        )
        kept.note(f"over.{n}", chosen or "", usual or "")
        if chosen is None:
            continue
        to_try = values_to_try(scenario, engine, known[chosen])
        begun_values = _listed(kept.begin(f"values.{n}", "", str)) if chosen == begun else []
        values = st.multiselect(
            "Its values",
            list(dict.fromkeys([*to_try, *begun_values])),
            begun_values or to_try,
            accept_new_options=True,
            key=f"values-{n}-{chosen}",
            placeholder="type one and press Enter",
            help=known[chosen].explanation,
        )
        kept.note(f"values.{n}", ",".join(values), ",".join(to_try))
        wrong = wrong_values(scenario, engine, chosen, values)
        for error in wrong:
            st.error(plain(with_field(error)), icon=":material/error:")
        fit = fit and not wrong
        over[chosen] = values
    many = 1
    for values in over.values():
        many *= len(values)
    st.caption(f"{counted(many, 'combination')}; each is served as often as there are repeats.")
    return Over(over, fit)


def rates_form(kept: KeptFields) -> tuple[float | None, float | None]:
    """Between which rates a search for capacity looks, requests/s; None: as usual."""
    st.caption("The highest rate of arrivals that each variant of the first tab still serves in time, by bisection.")
    rates = []
    for name, words, usual in (
        ("low", "Lowest rate, requests/s", "a quarter of its own"),
        ("high", "Highest rate", "eight times its own"),
    ):
        begun = kept.begin(name, None, rate)
        rates.append(st.number_input(words, 0.0, value=begun, key=f"rate-{name}", placeholder=usual))
        kept.note(name, rates[-1], None)
    return rates[0], rates[1]


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
