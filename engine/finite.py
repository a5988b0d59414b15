"""Logits that are no numbers: a weight that is NaN, or sums beyond what a number format holds. No token can be chosen
from them.

The flag travels in the place of the token (``BROKEN``), so it costs no wait for the device: whoever reads the tokens, a
step late in the overlapped loop, finds it there and ends the run (``not_finite``).
"""

from __future__ import annotations

import torch

from engine.config.errors import EngineError

BROKEN = -1  # in place of a token
KIND = "not-finite"  # of the error
LABEL = "not finite"  # of a run that ended with it


def broken_rows(logits: torch.Tensor) -> torch.Tensor:
    """Which rows of [rows, vocab] hold a NaN or an infinity: [rows] bool, on their device."""
    return torch.isfinite(logits.amax(-1)).logical_and_(torch.isfinite(logits.amin(-1))).logical_not_()


def not_finite(what: str, dtype: torch.dtype, field: str = "model") -> EngineError:
    """
    Args:
        what: sentence part: whose numbers, and when.
        dtype: of the weights.
        field: the setting that names them.
    """
    name = str(dtype).removeprefix("torch.")
    if dtype == torch.float16:
        return EngineError(
            KIND,
            "dtype",
            name,
            f"{what} not finite (NaN or infinite), so no token can be chosen from them. float16 holds nothing beyond "
            "65,504.",
            "Set dtype to bfloat16 or float32; if it happens there too, the weights are damaged.",
        )
    return EngineError(
        KIND,
        field,
        name,
        f"{what} not finite (NaN or infinite), so no token can be chosen from them.",
        "The weights are damaged, or made for another kind of model: load them anew, or choose another model.",
    )
