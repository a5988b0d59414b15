"""The form in which a learner predicts: an answer, a number, a curve or an order. Nothing is chosen beforehand."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app.charts import CONFIG
from app.charts.predictions import curve_chart
from app.components.chart_card import page_palette
from app.lessons.predicted import Predicted
from app.words.plain import plain
from app.words.text import number
from scenarios.lessons.lesson import Choice, Curve, Number, Ordering, Step

CURVE_STEPS = 100  # of a slider, from the smallest number to the largest


def prediction_form(step: Step, key: str) -> None:
    """Draw the question's controls. ``key``: of the step."""
    asked = step.predict
    st.markdown(f"**{plain(asked.ask)}**")
    if isinstance(asked, Choice):
        _choice(asked, key)
    elif isinstance(asked, Number):
        _number(asked, key)
    elif isinstance(asked, Ordering):
        _ordering(asked, key)
    else:
        _curve(step, asked, key)


def given(step: Step, key: str) -> Predicted | None:
    """What the controls say now, as a button's callback finds them; None while something is left to say."""
    asked, held = step.predict, st.session_state
    if isinstance(asked, Choice):
        return held.get(f"{key}-answer")
    if isinstance(asked, Number):
        return held.get(f"{key}-number")
    if isinstance(asked, Ordering):
        names = [held.get(f"{key}-place-{n}") for n in range(len(asked.of))]
        return None if None in names else tuple(str(name) for name in names)
    points = [held.get(f"{key}-at-{point.x:g}") for point in step.measure.points() if point]
    if all(point in (None, _middle(asked)) for point in points):
        return None  # nobody has moved a point yet
    return tuple(float(point) for point in points)  # type: ignore[arg-type]


def _middle(asked: Curve) -> float:
    return asked.low + (asked.high - asked.low) / 2


def _choice(asked: Choice, key: str) -> None:
    st.radio(
        asked.ask,
        range(len(asked.options)),
        index=None,
        format_func=lambda n: plain(asked.options[n].says),
        key=f"{key}-answer",
        label_visibility="collapsed",
    )


def _number(asked: Number, key: str) -> None:
    between = f"From {number(asked.low)} to {number(asked.high)}{f' {asked.unit}' if asked.unit else ''}"
    # out of range is answered in words when it is committed: a control's own bound would change it in silence
    st.number_input("Your number", value=None, key=f"{key}-number", placeholder=between, width=320)
    missed = f", or where it misses it by less than {asked.close:.0%}" if asked.close else ""
    st.caption(plain(f"{between}. It is right within the measured interval{missed}."))


def _ordering(asked: Ordering, key: str) -> None:
    last = len(asked.of)
    keys = [f"{key}-place-{n}" for n in range(last)]
    chosen: list[str | None] = [st.session_state.get(one) for one in keys]
    for n, one in enumerate(keys):
        others = {name for m, name in enumerate(chosen) if m != n}
        chosen[n] = st.selectbox(
            f"{n + 1}. {'the smallest' if n == 0 else 'the largest' if n == last - 1 else 'then'}",
            [name for name in asked.of if name not in others],
            index=None,
            key=one,
            placeholder="Choose",
            width=320,
        )


def _curve(step: Step, asked: Curve, key: str) -> None:
    sweep = step.measure.sweep
    assert sweep is not None  # the file's check asks for one
    places = [point.x for point in sweep.points]
    middle = _middle(asked)
    st.caption("Move every point to where you expect it; the curve follows.")
    drawn: list[Any] = []
    with st.container(horizontal=True):
        for place in places:
            drawn.append(
                st.slider(
                    f"at {place:g}",
                    asked.low,
                    asked.high,
                    middle,
                    step=(asked.high - asked.low) / CURVE_STEPS,
                    key=f"{key}-at-{place:g}",
                    format="%.4g",
                    width=150,
                )
            )
    title = f"{asked.of}{f', {asked.unit}' if asked.unit else ''}"
    chart = curve_chart(None, places, drawn, page_palette(), title=title, axis=sweep.axis, most=asked.high)
    said = ", ".join(f"{number(value)} at {place:g}" for value, place in zip(drawn, places, strict=True))
    st.plotly_chart(chart, key=f"{key}-curve", config=CONFIG, theme=None, alt=f"Your curve: {said}")
