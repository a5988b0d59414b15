"""Guessing several tokens and verifying them in one pass."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from engine.config.settings import Settings, setting


class Speculation(Settings):
    """Speculative decoding: guess several tokens, verify them in one pass, keep what the model would have said
    anyway."""

    proposer: Literal["prompt-lookup", "layer-skip", "draft-model", "trained-head"] = setting(
        "prompt-lookup",
        "Proposer",
        "Who guesses. prompt-lookup: what followed the last few tokens when they occurred earlier in the same request. "
        "layer-skip: the model itself with some of its layers left out. draft-model: a smaller model of the same "
        "vocabulary. trained-head: two layers trained to go on from what the model leaves behind, mixed with what "
        "followed the last few tokens before.",
        group="Speculative decoding",
    )
    control: Literal["smart", "fixed"] = setting(
        "smart",
        "Length control",
        "smart: as many tokens as promise the most useful tokens per second, none included, from measured acceptance "
        "and this run's own step times. fixed: always the draft length.",
        group="Speculative decoding",
        paper="SmartSpec (2024)",
    )
    k: int = setting(
        8,
        "Draft length",
        "Tokens guessed per request and iteration; with smart control the most.",
        group="Speculative decoding",
        unit="tokens",
        ge=1,
        le=16,
    )
    ngram_min: int = setting(
        2,
        "Shortest match",
        "prompt-lookup: fewest tokens at the end that must have occurred before.",
        group="Speculative decoding",
        unit="tokens",
        ge=1,
        le=16,
        advanced=True,
    )
    ngram_max: int = setting(
        4,
        "Longest match",
        "prompt-lookup: matches are looked for from this length downwards.",
        group="Speculative decoding",
        unit="tokens",
        ge=1,
        le=16,
        advanced=True,
    )
    target_speedup: float = setting(
        2.0,
        "Target speedup of guessing",
        "layer-skip: layers of the model per layer that guesses; the layers left out are evenly spaced.",
        group="Speculative decoding",
        paper="Unified Layer Skipping (2024)",
        ge=1,
        le=64,
        advanced=True,
    )
    draft_model: str | None = setting(
        None,
        "Draft model",
        "draft-model: who guesses, named as Model is; it must have the same vocabulary.",
        group="Speculative decoding",
        advanced=True,
    )
    head: str | None = setting(
        None,
        "Trained head",
        "trained-head: the weights file that python -m engine.training wrote for this model. Empty: the one of the "
        "embedded model.",
        group="Speculative decoding",
        advanced=True,
    )

    verification: Literal["ragged", "padded", "same-length"] = setting(
        "ragged",
        "Verification",
        "ragged: each request is verified as far as it guessed, from its own pages. For teaching: padded lays the "
        "batch out as a rectangle anew for every step (EqSpec); same-length runs requests of equal length together "
        "where there are some (ExSpec).",
        group="Speculative decoding",
        paper="EqSpec and ExSpec (2025)",
        advanced=True,
    )
    pool_group: int = setting(
        2,
        "Same-length group",
        "verification same-length: minimum number of requests of equal length that run without the others.",
        group="Speculative decoding",
        unit="requests",
        ge=2,
        le=64,
        advanced=True,
    )
    inject_bug: Literal[
        "none",
        "stale-positions",
        "no-rollback",
        "padding-in-text",
        "visible-padding",
        "finished-goes-on",
        "shared-stream",
        "stale-draft",
    ] = setting(
        "none",
        "Inject a known bug",
        "Make a mistake that batched speculation is known for, to see how output breaks; with Check the books the run "
        "ends where it is noticed. The run is labelled.",
        group="Speculative decoding",
        paper="EqSpec and ExSpec (2025)",
        advanced=True,
    )

    @model_validator(mode="after")
    def _consistent(self) -> Speculation:
        if self.inject_bug == "visible-padding" and self.verification == "ragged":
            raise ValueError("inject_bug visible-padding needs pads: set verification to padded")
        if self.proposer == "draft-model" and self.draft_model is None:
            raise ValueError("proposer is draft-model, and draft_model names no model")
        if self.ngram_min > self.ngram_max:
            raise ValueError(f"ngram_min is {self.ngram_min}, above ngram_max, {self.ngram_max}")
        return self
