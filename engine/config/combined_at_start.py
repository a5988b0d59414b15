"""Which techniques cannot be combined on this device: what the settings alone do not tell
(``engine.config.combinations``).
"""

from __future__ import annotations

from engine.config.errors import EngineError
from engine.config.techniques import Speculation


def refuse_at_start(asked: Speculation, *, shares_attention: bool, token_budget: int | None) -> None:
    """Refuse guesses beside what they cannot be verified with.

    Args:
        shares_attention: requests that share a prefix attend to it together.
        token_budget: of an iteration, as it is on this device; None: the policy has none.

    Raises:
        EngineError: naming the setting.
    """
    if asked.verification != "ragged" and shares_attention:
        raise EngineError(
            "contradiction",
            "speculation.verification",
            asked.verification,
            "padded verification reads every row for itself, shared-prefix attention does not.",
            "Set speculation.verification to ragged or prefix_sharing.attention to off.",
        )
    if token_budget is not None and asked.k + 1 > token_budget:
        raise EngineError(
            "beyond-budget",
            "speculation.k",
            asked.k,
            f"verifying takes {asked.k + 1} tokens of one request, the token budget is {token_budget}.",
            f"Set speculation.k to {max(1, token_budget - 1)} or less, or chunked_prefill.token_budget to "
            f"{asked.k + 1} or more.",
        )


def unread_codec(backend: str, codec: str, *, window: int, exact_prefill: bool) -> str | None:
    """Why an attention backend cannot read a codec of the KV cache; None where it can. ``window``: tokens the codec
    packs together."""
    if backend == "reference" and window:
        return f"the reference does not read the exact window of codec {codec}"
    if backend == "reference" and exact_prefill:
        return "the reference reads what is stored, not an exact prefill"
    if backend == "native" and window:
        return f"the native kernels do not read the exact window of codec {codec}"
    if backend == "native" and exact_prefill:
        return "the native kernels read what is stored, not an exact prefill"
    return None
