"""A prediction as it is given, kept and said: checked against its question, and in words."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from app.errors import LabError
from app.words.text import number
from scenarios.lessons.lesson import Choice, Curve, Number, Ordering, Step

Text = Annotated[str, Field(max_length=60)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Predicted = (
    Finite | Annotated[tuple[Text, ...], Field(max_length=6)] | Annotated[tuple[Finite, ...], Field(max_length=12)]
)
"""A number; the place of the chosen answer, counted from 0; figures in order; or a number at each point swept."""


def checked(step: Step, value: Predicted) -> Predicted:
    """The prediction, if it is one that the step's question takes. Raises ``LabError`` with what would be right."""
    asked = step.predict
    if isinstance(asked, Choice):
        if value in range(len(asked.options)):
            return value
        raise _refused(value, f"There are {len(asked.options)} answers.", "Choose one of them.")
    if isinstance(asked, Ordering):
        if isinstance(value, tuple) and sorted(map(str, value)) == sorted(asked.of):
            return value
        raise _refused(
            value, "It is no order of the figures.", f"Put each of these in its place once: {', '.join(asked.of)}."
        )
    wanted = len(step.measure.points()) if isinstance(asked, Curve) else 1
    numbers = value if isinstance(value, tuple) else (value,)
    if isinstance(asked, Curve) != isinstance(value, tuple) or len(numbers) != wanted:
        raise _refused(value, f"The question takes {wanted} numbers.", "Give one for each point.")
    for one in numbers:
        if isinstance(one, str) or not math.isfinite(one) or not asked.low <= one <= asked.high:
            mend = f"Give a number from {number(asked.low)} to {number(asked.high)}{_unit(asked.unit)}."
            raise _refused(one, "It cannot be predicted here.", mend)
    return value


def in_words(step: Step, value: Predicted) -> str:
    """``4 times``, ``static < continuous``, ``About as long``, ``10 at 1, 35 at 4 tokens/s``."""
    asked = step.predict
    if isinstance(asked, Choice) and isinstance(value, int | float):
        return asked.options[int(value)].says.rstrip(".")
    if isinstance(asked, Number) and isinstance(value, int | float):
        return _amount(value, asked.unit)
    parts = value if isinstance(value, tuple) else (value,)
    if isinstance(asked, Curve):
        at = zip(parts, step.measure.points(), strict=True)
        return ", ".join(f"{_amount(one, asked.unit)} at {point.x:g}" for one, point in at if point)
    return " < ".join(map(str, parts))


def _amount(value: object, unit: str) -> str:
    if unit == "share" and isinstance(value, int | float):
        return f"{number(100 * value)} %"
    return f"{number(value)}{_unit(unit)}"


def _unit(unit: str) -> str:
    return f" {unit}" if unit else ""


def _refused(value: object, message: str, mend: str) -> LabError:
    return LabError("bad-prediction", field="prediction", value=str(value)[:80], message=message, mend=mend)
