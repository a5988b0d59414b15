"""An answer by how likely the model found each of its tokens, where that was recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from app.charts.frame import faded
from app.components.chart_card import page_palette
from app.components.token_text import marked_tokens
from app.runs.facts import RunFacts
from app.theme import Palette
from app.words.text import PROVENANCE
from engine.config.text import token_texts

HELP = (
    "The probability that the model gave to the token it then drew, before temperature and filters. The stronger the "
    "colour, the less likely the token. "
)
DEEPEST = 0.6  # opacity behind a token that was never expected


def token_probabilities(facts: RunFacts, request: Mapping[str, Any]) -> None:
    """Draw the answer, each token by its probability. ``request``: its row, answer included."""
    told = request.get("output_logprobs") or []
    if not told:
        return
    ids = list(request.get("output_token_ids") or ())[: len(told)]
    texts = token_texts(facts.spec.engine.model, ids)
    chances = [math.exp(one) for one in told]
    st.markdown("**Probability of each token**", help=HELP + PROVENANCE["measured"])
    least = min(range(len(chances)), key=chances.__getitem__)
    mean = sum(told) / len(told)
    st.caption(
        f"Mean log-probability {mean:.3f} nat a token, perplexity {math.exp(-mean):.3g}; "
        f"the least likely is token {least + 1} with {in_percent(chances[least])}."
    )
    st.html(shaded(texts, chances, page_palette()))
    with st.expander("The tokens as a table"):
        rows = {
            "token": list(range(1, len(chances) + 1)),
            "text": list(texts),
            "probability, %": [round(100 * chance, 2) for chance in chances],
        }
        st.dataframe(rows, hide_index=True, height=320, alt=f"{len(chances)} tokens and their probabilities")


def shaded(texts: Sequence[str], chances: Sequence[float], palette: Palette) -> str:
    """HTML: the answer with each token's improbability as its background. Texts are escaped."""
    marks = [
        (f"background:{faded(palette.prefill, round(DEEPEST * (1 - chance), 2))}", in_percent(chance))
        for chance in chances
    ]
    return marked_tokens(texts, marks, palette, label="Answer by the probability of its tokens")


def in_percent(chance: float) -> str:
    """``83 %``, ``0.04 %``: two digits."""
    return f"{100 * chance:.2g} %" if chance < 0.995 else f"{100 * chance:.1f} %"
