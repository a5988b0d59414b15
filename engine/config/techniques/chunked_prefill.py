"""Prompts in chunks beside the decodes."""

from __future__ import annotations

from engine.config.settings import LARGEST_COUNT, Settings, setting


class ChunkedPrefill(Settings):
    """Stall-free scheduling: prompts are cut into chunks that ride along with the decodes (Sarathi-Serve)."""

    token_budget: int | None = setting(
        None,
        "Token budget",
        "Maximum tokens per iteration. Decodes take theirs first, prompt chunks get what is left. Smaller is "
        "smoother, larger prefills faster. Empty: 64 on a CPU, 512 on a GPU.",
        group="Chunked prefill",
        unit="tokens",
        ge=1,
        le=LARGEST_COUNT,
    )
    chunk_size: int | None = setting(
        None,
        "Chunk size",
        "Most prompt tokens one request may compute in one iteration. Empty: whatever the budget leaves.",
        group="Chunked prefill",
        unit="tokens",
        ge=1,
        le=LARGEST_COUNT,
    )
