"""How fast a machine serves a model, in a few numbers: what scenarios are sized by, and what a spec keeps of that.

Importing this module must stay cheap: no torch. ``engine.timing`` takes the times.
"""

from __future__ import annotations

from pydantic import Field

from engine.config.settings import LARGEST_COUNT, Settings

DISTURBED = 0.2  # share of the machine
BATCH = 8  # sequences of the second decode step that is timed


class MachineRates(Settings):
    """What one device does with one model, every technique off."""

    prefill_tokens_per_s: float = Field(gt=0, allow_inf_nan=False, description="Of a whole prompt.")
    step_ms: float = Field(gt=0, allow_inf_nan=False, description="A decode step of one sequence.")
    batch_step_ms: float = Field(gt=0, allow_inf_nan=False, description=f"A decode step of {BATCH} sequences.")
    tokens_per_word: float = Field(1.35, gt=0, le=100, description="Of English prose, with the model's tokenizer.")
    longest: int = Field(
        8192, ge=2, le=LARGEST_COUNT, description="Tokens of prompt and answer together that the model takes."
    )
    others_share: float = Field(0.0, ge=0, le=1, description="Of the machine, taken by other processes meanwhile.")

    def step_s(self, sequences: float) -> float:
        """Seconds of a decode step, by the line through the two that were timed."""
        per_sequence = max(0.0, self.batch_step_ms - self.step_ms) / (BATCH - 1)
        return (self.step_ms + (sequences - 1) * per_sequence) / 1e3

    def work_s(self, prompt_tokens: float, output_tokens: float, sequences: int) -> float:
        """Seconds of the device that a request takes which decodes beside ``sequences - 1`` others."""
        decoding = (output_tokens - 1) * self.step_s(sequences) / sequences
        return prompt_tokens / self.prefill_tokens_per_s + decoding

    @property
    def in_words(self) -> str:
        beside = f", while other processes took {self.others_share:.0%} of it" if self.disturbed else ""
        return (
            f"whole prompts {_short(self.prefill_tokens_per_s)} tokens/s, a decode step {_short(self.step_ms)} ms, "
            f"of {BATCH} requests {_short(self.batch_step_ms)} ms{beside}"
        )

    @property
    def disturbed(self) -> bool:
        """Whether other processes took so much of the machine that it is faster than this."""
        return self.others_share > DISTURBED


class SizedGroup(Settings):
    """What sizing made of one group of requests."""

    stretch: float = Field(gt=0, allow_inf_nan=False, description="Its times are so many times as long as written.")
    load: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="The share of the machine's capacity it asks for."
    )
    requests_per_s: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="How fast its requests come on average."
    )
    words: int | None = Field(None, ge=1, le=LARGEST_COUNT, description="Of each prompt, where its length was sized.")


class Sizing(Settings):
    """How a run's workload was sized: by which rates, and to what. The requests in the spec are the result."""

    rates: MachineRates
    measured: bool = Field(True, description="On this machine; else as the scenario or the command line gave them.")
    groups: dict[str, SizedGroup] = Field(default_factory=dict)
    as_given: tuple[str, ...] = Field((), description="Groups whose times were set by hand, and taken as they were.")

    @property
    def in_words(self) -> str:
        """One line: what was measured, and what was chosen."""
        how = "Sized to this machine" if self.measured else "Sized to the rates given"
        chosen = [f"{name}: {_chosen(group)}" for name, group in self.groups.items()]
        chosen += [f"{name}: times as given" for name in self.as_given]
        return f"{how} ({self.rates.in_words}). {'; '.join(chosen)}."


def _chosen(group: SizedGroup) -> str:
    said = []
    if group.load is not None and group.requests_per_s is not None:
        said.append(f"{_short(group.requests_per_s)} requests/s, {group.load:.0%} of what it can serve")
    else:
        said.append(f"times x {_short(group.stretch)}")
    if group.words is not None:
        said.append(f"prompts of {group.words:,} words")
    return ", ".join(said)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
