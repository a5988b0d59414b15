"""What the work of a run and of its requests cost in energy, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.words.charts import ChartWords
from app.words.text import scaled

CHARTS = {
    "energy": ChartWords(
        "Energy",
        "Energy since the first sample, by the device's own counter: of a GPU its board, of a CPU the processor's "
        "packages with everything that runs on them. Time between steps counts too.",
        "device",
        ("energy",),
    ),
    "energy-of-requests": ChartWords(
        "Energy of each request",
        "A step's energy is divided among its requests by the tokens they computed in it, which is modelled: the "
        "counter knows no requests. A click opens the request.",
        "device",
        ("energy",),
    ),
}


def run_energy_in_words(energy: Mapping[str, Any]) -> str:
    """``energy``: of ``store.energy.run_energy``."""
    said = f"{scaled(energy['energy_j'], 'J')} from the first step to the end of the last"
    per_token = energy.get("energy_per_token_j")
    return f"{said}, {scaled(per_token, 'J')} per output token." if per_token is not None else f"{said}."


def request_energy_in_words(row: Mapping[str, Any]) -> str:
    """``row``: of ``store.energy.request_energy_query``."""
    said = f"Its share of the energy: {scaled(row['joules'], 'J')} for {row['tokens']:,} computed tokens"
    return f"{said}, divided among the requests of each step by their tokens (modelled)."
