"""Sizing: a workload's times, and where it asks for that its prompts, made to fit the machine that will serve it.

A scenario shows something at a certain load, and machines differ by a factor of a hundred. So a group may say what its times stand for
(``sized_by``), and they are stretched or pressed, all alike, by the rates this machine was measured at (``engine.config.rates``):

    load            the share of the machine's capacity that its requests ask for:
                    mean time between two = seconds of work of the mean request / load
    step_ms         the decode step (of 8 requests) of the machine its times were written for:
                    stretch = this machine's step / step_ms
    prefill_steps   the prompt is made longer, if need be, until computing it takes as long as so many decode steps

Work is prompt tokens by the prefill rate and answer tokens by a full batch's step. It is taken from the group's first ``SAMPLE`` requests,
however many are asked for, so more requests begin with the same ones. With the same rates the same file gives the same requests.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from engine.config import LARGEST_COUNT, ConfigError, EngineConfig
from engine.config.rates import BATCH, MachineRates, SizedGroup
from scenarios.part import Part

SAMPLE = 16  # requests that the mean request is taken from
CHAT_FORM_TOKENS = 30  # around a message in a model's chat form
ROOM = 0.9  # of the longest sequence that a sized prompt may fill


class FromMachine(Part):
    """By what this machine was measured at."""

    kind: Literal["machine"] = "machine"


class FromGiven(Part):
    """By rates written here: the same requests on every machine."""

    kind: Literal["given"] = "given"
    prefill_tokens_per_s: float = Field(gt=0, description="Of a whole prompt.")
    step_ms: float = Field(gt=0, description="A decode step of one request.")
    batch_step_ms: float = Field(gt=0, description=f"A decode step of {BATCH} requests.")
    tokens_per_word: float = Field(1.35, gt=0, le=100)
    longest: int = Field(8192, ge=2, le=LARGEST_COUNT, description="Tokens of the longest sequence the model takes.")

    @property
    def rates(self) -> MachineRates:
        return MachineRates(**self.model_dump(exclude={"kind"}))


class AsWritten(Part):
    """Not at all: times and lengths are those of the file."""

    kind: Literal["fixed"] = "fixed"


def _bare_word(value: Any) -> Any:
    return {"kind": value.strip()} if isinstance(value, str) else value


_Kinds = Annotated[FromMachine | FromGiven | AsWritten, Field(discriminator="kind")]
SizingKinds = Annotated[
    _Kinds, BeforeValidator(_bare_word, json_schema_input_type=_Kinds | Literal["machine", "fixed"])
]


class SizedBy(Part):
    """What a group's times and prompts stand for."""

    load: float | None = Field(None, gt=0, le=1000, description="Share of the machine's capacity.")
    step_ms: float | None = Field(None, gt=0, description="Decode step its times were written for.")
    prefill_steps: float | None = Field(None, gt=0, le=10_000, description="Decode steps that a prompt takes at least.")

    @model_validator(mode="after")
    def _one_rule_for_times(self) -> SizedBy:
        if self.load is not None and self.step_ms is not None:
            raise ValueError("give either load or step_ms: both say how long the group's times are")
        if self.load is None and self.step_ms is None and self.prefill_steps is None:
            raise ValueError("give load, step_ms or prefill_steps")
        return self


class MeanRequest(Part):
    """The mean of a group's first requests, in tokens."""

    prompt_tokens: float
    output_tokens: float


def tokens_asked(
    prompts: Iterable[dict[str, Any]], lengths: Iterable[tuple[int | None, int]], rates: MachineRates
) -> MeanRequest:
    """The mean request of these prompts (fields of ``RequestSpec``) and lengths (prompt, or None: as it is; answer)."""
    asked, answers = [], []
    for fields, (prompt_tokens, output_tokens) in zip(prompts, lengths, strict=True):
        words = len(f"{fields.get('prompt') or ''} {fields.get('system') or ''}".split())
        own = len(fields.get("prompt_token_ids") or ()) or words * rates.tokens_per_word
        asked.append(prompt_tokens or own + CHAT_FORM_TOKENS * bool(fields.get("chat")))
        answers.append(output_tokens)
    return MeanRequest(prompt_tokens=sum(asked) / len(asked), output_tokens=sum(answers) / len(answers))


def sized_words(steps: float, words: int, longest_output: float, rates: MachineRates) -> int:
    """Words of a prompt that takes ``steps`` decode steps, at least ``words``, at most what the model's length leaves room for."""
    wanted = steps * rates.batch_step_ms / 1e3 * rates.prefill_tokens_per_s / rates.tokens_per_word
    room = (ROOM * rates.longest - longest_output) / rates.tokens_per_word
    return max(1, words, int(min(wanted, room)))


def stretch_of(
    sized: SizedBy, gap_s: float | None, mean: MeanRequest, engine: EngineConfig, rates: MachineRates
) -> SizedGroup:
    """How much a group's times are stretched. ``gap_s``: the mean time between two of its requests, as written."""
    if sized.load is not None and gap_s:
        work_s = rates.work_s(mean.prompt_tokens, mean.output_tokens, engine.max_num_seqs)
        gap = work_s / sized.load
        return SizedGroup(stretch=gap / gap_s, load=sized.load, requests_per_s=1 / gap)
    if sized.step_ms is not None:
        return SizedGroup(stretch=rates.batch_step_ms / sized.step_ms)
    return SizedGroup(stretch=1.0)


def refuse_contradictions(asked: Iterable[str], group: str, times: Iterable[str], prefix: str) -> None:
    """Refuse settings that say how long a group's times are in two ways.

    Args:
        asked: the workload settings that were given by name, groups as ``groups.NAME.key``.
        group: the sized group.
        times: those of them that set its times.
        prefix: before the names in errors.
    """
    given = list(asked)
    own = [name for name in given if name.startswith(f"groups.{group}.sized_by")]
    sizing = [name for name in given if name.partition(".")[0] == "sizing"]
    for first in times:
        for other in (*own, *sizing):
            raise ConfigError(
                f"{prefix}{first.removeprefix('groups.')}",
                None,
                f"It sets a time, and {prefix}{other.removeprefix('groups.')} sizes the group's times to the machine.",
                "Give one of the two; workload.speed makes sized requests come faster or slower.",
            )
