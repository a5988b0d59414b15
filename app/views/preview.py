"""What a scenario will ask with the settings as they are, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from app.charts import CONFIG
from app.charts.preview import counted_bars
from app.components.chart_card import page_palette
from app.runs.machine_rates import known_rates
from app.settings import controls as book
from app.settings.scenario_list import scenario_of
from app.words.plain import plain
from engine.config import ConfigError
from scenarios import build
from scenarios.preview import Preview, preview
from telemetry.refusal import with_field


def what_will_be_asked(name: str, changed: Mapping[str, str], *, wrong: bool) -> None:
    """Draw the expander; what is in it is only worked out once it is open. ``wrong``: settings cannot be served as they
    are.
    """
    box = st.expander("What will be asked", icon=":material/schedule_send:", key="preview", on_change="rerun")
    if not box.open or wrong:
        return
    with box:
        try:
            expected = _preview(name, tuple(sorted(changed.items())), scenario_of(name).model_dump_json())
        except ConfigError as error:
            st.error(plain(book.in_words(error)), icon=":material/error:")
            return
        for sentence in (*expected.in_words, expected.sizing, *expected.labels):
            if sentence:
                st.caption(plain(sentence))
        about = ", estimated" if expected.estimated else ""
        for key, title, unit, counted in (
            ("arrivals", "Arrivals", "time since the start, s", expected.arrivals_s),
            ("prompts", f"Prompt lengths{about}", "tokens", expected.prompt_lengths),
            ("answers", "Most tokens of answers", "tokens", expected.output_lengths),
        ):
            st.markdown(f"**{title}**")
            alt = f"{title}: " + ", ".join(f"{one.in_words}: {one.count}" for one in counted if one.count)
            drawing = counted_bars(counted, page_palette(), x_title=unit)
            st.plotly_chart(drawing, alt=alt, key=f"chart-preview-{key}", config=CONFIG, theme=None)


def estimate(name: str, changed: Mapping[str, str]) -> None:
    """How long it takes and what it needs, in a line or two, before anything runs."""
    try:
        ahead = _preview(name, tuple(sorted(changed.items())), scenario_of(name).model_dump_json())
    except ConfigError as error:
        st.error(plain(with_field(error)), icon=":material/error:")
        return
    load = "" if ahead.load is None else f" Load {ahead.load:.0%} of what this machine can do."
    st.caption(plain(" ".join(ahead.estimate) + load))


@st.cache_data(show_spinner=False, max_entries=32, ttl=60)
def _preview(name: str, changed: tuple[tuple[str, str], ...], file: str) -> Preview:
    """Kept for a minute: a machine that was not timed yet may be by then."""
    spec = build(name, dict(changed), measure=known_rates)
    return preview(spec, known_rates(spec.engine))
