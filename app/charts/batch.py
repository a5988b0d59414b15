"""The batch of one step as a picture: a walk through the weights that all share, and a lane for each request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.words.plain import counted
from app.words.step_cost import scaled
from store.step_cost import StepCost

MOST_LANES = 16
MOST_CELLS = 24
KINDS = {"prefill": "prefill", "decode": "decode", "verify": "draft"}  # kind of a slice: colour


def batch_picture(slices: Sequence[Mapping[str, Any]], step: StepCost) -> str:
    """HTML without any text of a user: ``slices`` are rows of ``store.queries.batch_makeup``."""
    weights = f'<div class="lab-batch-weights">Weights, read once for all: {scaled(step.weight_bytes, "B")}</div>'
    most = max((row["context_len"] for row in slices), default=0) or 1
    lanes = "".join(_lane(row, most) for row in slices[:MOST_LANES])
    rest = slices[MOST_LANES:]
    told = ""
    if rest:
        computed = sum(row["tokens"] for row in rest)
        told = f"<p>and {counted(len(rest), 'request')} more with {counted(computed, 'token')}</p>"
    if not slices:
        told = "<p>Who computed what was not recorded. Set recording to full and run again.</p>"
    legend = (
        '<p class="lab-batch-legend"><i class="kv"></i>in the KV cache, read <i class="prefill"></i>prompt token '
        '<i class="decode"></i>decode token <i class="draft"></i>draft token and the one after it</p>'
    )
    label = (
        f"Step {step.iteration}: {counted(step.requests, 'request')} share one walk through the weights and compute "
        f"{counted(step.computed, 'token')}."
    )
    return f'<div class="lab-batch" role="img" aria-label="{label}">{weights}{lanes}{told}{legend}</div>'


def _lane(row: Mapping[str, Any], most: int) -> str:
    """A request: as long a bar as it reads of keys and values, then a cell for every token it computes."""
    tokens, context, colour = int(row["tokens"]), int(row["context_len"]), KINDS.get(str(row["kind"]), "decode")
    cells = f'<i class="{colour}"></i>' * min(tokens, MOST_CELLS)
    more = f"<b>+{tokens - MOST_CELLS:,}</b>" if tokens > MOST_CELLS else ""
    return (
        f'<div class="lab-batch-lane"><span>request {int(row["request"])}</span>'
        f'<span class="lab-batch-kv"><i class="kv" style="width: {100 * context / most:.1f}%"></i></span>'
        f"<span>{context:,}</span>"
        f'<span class="lab-batch-cells">{cells}{more}</span></div>'
    )
