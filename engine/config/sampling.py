"""How tokens are drawn."""

from __future__ import annotations

from pydantic import field_validator

from engine.config.settings import LARGEST_COUNT, Settings, setting


class Sampling(Settings):
    """How a token is drawn from the model's distribution, and when a request ends."""

    temperature: float = setting(
        0.0, "Temperature", "0 always takes the most likely token (greedy).", group="Sampling", ge=0, le=10
    )
    top_k: int = setting(
        0,
        "Top-k",
        "Keep only the k most likely tokens. 0: all.",
        group="Sampling",
        ge=0,
        le=LARGEST_COUNT,
        advanced=True,
    )
    top_p: float = setting(
        1.0,
        "Top-p",
        "Keep the most likely tokens that together reach this probability.",
        group="Sampling",
        gt=0,
        le=1,
        advanced=True,
    )
    min_p: float = setting(
        0.0,
        "Min-p",
        "Drop tokens less likely than this share of the most likely one.",
        group="Sampling",
        ge=0,
        le=1,
        advanced=True,
    )
    repetition_penalty: float = setting(
        1.0,
        "Repetition penalty",
        "Above 1 makes tokens already seen less likely. 1: none.",
        group="Sampling",
        ge=0.01,
        le=10,
        advanced=True,
    )
    ignore_eos: bool = setting(
        False,
        "Ignore end of sequence",
        "Go on to the token limit whatever the model says; for benchmarks.",
        group="Sampling",
        advanced=True,
    )
    stop: tuple[str, ...] = setting(
        (), "Stop strings", "End the request when its text contains one of these.", group="Sampling", advanced=True
    )

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken. So it is at temperatures that leave no second one any weight:
        logits in float32 lie further apart than that, and dividing them would only overflow."""
        return self.temperature < 1e-8

    @field_validator("stop")
    @classmethod
    def _every_text_contains_nothing(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if "" in stop:
            raise ValueError("a stop string needs at least one character: every text contains the empty one")
        return stop
