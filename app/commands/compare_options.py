"""How the options of ``servescope compare`` are written: variants, and when to stop adding repeats."""

from __future__ import annotations

import re

from app.errors import LabError
from app.experiments.plan import Variant
from app.experiments.stop_rule import checked
from app.settings.written import parse_settings
from store.plan import StopRule


def parse_variant(text: str) -> Variant:
    """``NAME:key=value,key=value`` as a variant; a value may hold commas where no KEY= follows them."""
    name, _, settings = text.partition(":")
    parts = [part for part in re.split(r",(?=\s*[A-Za-z_][\w.\-]*=)", settings) if part.strip()]
    return Variant(name.strip(), parse_settings(parts))


def parse_until(text: str, most: int) -> StopRule:
    """``itl_ms_p99=5%`` as a rule of when to stop. Raises ``LabError`` for what is none."""
    metric, _, width = text.partition("=")
    try:
        share = float(width.removesuffix("%")) / (100 if width.endswith("%") else 1)
    except ValueError:
        raise LabError(
            "bad-experiment",
            field="--until",
            value=text,
            message="It takes FIGURE=SHARE.",
            mend="For example: --until itl_ms_p99=5%",
        ) from None
    return (
        checked(StopRule(metric.strip(), share, most)) if share > 0 else checked(StopRule(metric.strip(), 1e-9, most))
    )
