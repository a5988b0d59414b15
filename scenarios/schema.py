"""The scenario file, as classes: what a YAML file may say, key by key."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from engine.config import LARGEST_COUNT, LATEST_NS, EngineConfig
from scenarios.arrivals import Arrivals, AtOnce
from scenarios.lengths import Lengths
from scenarios.part import Part
from scenarios.prompts import Chat, PrefixHits, Prompts, RandomTokens
from scenarios.sizing import FromMachine, SizedBy, SizingKinds

RecipeName = Literal["ragged", "nano-bench"]
MOST_REQUESTS = 20_000  # of a workload; each is an object with a prompt, in memory and in the run's spec
TURNS = ("dialogue", "agent")  # prompts of kinds whose turns carry the answers really given
SIZED_PROMPTS = ("documents", "shared-system", "prose", "code")  # their length is one number of words
MOST_RECIPE_REQUESTS = 5_000  # of random tokens


class Group(Part):
    """One class of requests: so many of them, arriving so, asking that, answered at such length."""

    requests: int = Field(ge=1, le=MOST_REQUESTS)
    arrivals: Arrivals = AtOnce()
    prompt: Prompts = Chat()
    prompt_tokens: Lengths | None = Field(None, description="Cut or repeat prompts to this. Empty: as the text is.")
    output_tokens: Lengths | None = Field(None, description="Most tokens of each answer.")
    total_tokens: Lengths | None = Field(None, description="Instead of both: prompt and answer together ...")
    prompt_to_output: float | None = Field(None, gt=0, description="... and prompt tokens for one of the answer.")
    ignore_eos: bool = Field(False, description="Answer to the full length whatever the model says.")
    temperature: float | None = Field(None, ge=0, le=10, description="Empty: the engine's setting.")
    priority: int = Field(0, ge=-LARGEST_COUNT, le=LARGEST_COUNT)
    cancel_after_s: float | None = Field(
        None, ge=0, le=LATEST_NS / 1e9, description="Users give up so long after they asked."
    )
    sized_by: SizedBy | None = Field(None, description="What its times and prompts stand for on other machines.")

    @model_validator(mode="after")
    def _lengths_fit_together(self) -> Group:
        if (self.total_tokens is None) != (self.prompt_to_output is None):
            raise ValueError("total_tokens and prompt_to_output go together")
        if (self.total_tokens is None) == (self.output_tokens is None):
            raise ValueError("give either output_tokens, or total_tokens with prompt_to_output")
        if self.total_tokens is not None and self.prompt_tokens is not None:
            raise ValueError("total_tokens already fixes prompt_tokens")
        if isinstance(self.prompt, RandomTokens) and self.prompt_tokens is None and self.total_tokens is None:
            raise ValueError(f"prompts of kind {self.prompt.kind} need prompt_tokens")
        return self

    @model_validator(mode="after")
    def _trace_parts_need_a_trace(self) -> Group:
        lengths = (self.prompt_tokens, self.output_tokens, self.total_tokens)
        traced = any(length is not None and length.kind == "trace" for length in lengths)
        if traced and self.arrivals.kind not in ("trace", "servegen"):
            raise ValueError("lengths of kind trace need arrivals of kind trace or servegen")
        if self.prompt.kind == "trace-blocks" and self.arrivals.kind != "trace":
            raise ValueError("prompts of kind trace-blocks need arrivals of kind trace")
        return self

    @model_validator(mode="after")
    def _turns_need_sessions(self) -> Group:
        if (self.prompt.kind in TURNS) != (self.arrivals.kind == "sessions"):
            raise ValueError(
                f"arrivals of kind sessions go with prompts of kind {' or '.join(TURNS)}, and these with no other arrivals"
            )
        if self.prompt.kind in TURNS and (self.prompt_tokens is not None or self.total_tokens is not None):
            raise ValueError(
                f"prompts of kind {self.prompt.kind} are as long as what is said in them: leave out prompt_tokens and total_tokens"
            )
        if isinstance(self.prompt, PrefixHits) and self.prompt.share > 1 - 1 / self.requests:
            most = 1 - 1 / self.requests
            raise ValueError(
                f"prompt.share {self.prompt.share:g} cannot be: the first of {self.requests} requests finds nothing, so {most:.2f} at most"
            )
        return self

    @model_validator(mode="after")
    def _can_be_sized(self) -> Group:
        sized = self.sized_by
        if sized is not None and sized.load is not None and not self.arrivals.mean_gap_s:
            raise ValueError("sized_by.load needs arrivals of kind interval, poisson, gamma or bursts, some time apart")
        exact = self.prompt_tokens is not None or self.total_tokens is not None
        if sized is not None and sized.prefill_steps is not None and (exact or self.prompt.kind not in SIZED_PROMPTS):
            raise ValueError(
                f"sized_by.prefill_steps needs a prompt of kind {', '.join(SIZED_PROMPTS)}, without prompt_tokens"
            )
        return self


class Workload(Part):
    """What is asked: groups of requests side by side, or a published recipe drawn as its authors draw it."""

    seed: int | None = Field(None, ge=0, le=2**63 - 1, description="Start of every stream. Empty: the engine's.")
    speed: float = Field(1.0, gt=0, description="Arrivals come so many times as fast.")
    groups: dict[str, Group] = Field(default_factory=dict)
    recipe: RecipeName | None = None
    requests: int | None = Field(
        None, ge=1, le=MOST_RECIPE_REQUESTS, description="With a recipe: instead of its own number."
    )
    sizing: SizingKinds = Field(FromMachine(), description="By what groups that are sized_by something are sized.")

    @model_validator(mode="after")
    def _one_source(self) -> Workload:
        if bool(self.groups) == (self.recipe is not None):
            raise ValueError("give either groups or recipe")
        if self.requests is not None and self.recipe is None:
            raise ValueError("requests belongs to a recipe here; a group has its own")
        many = sum(group.requests for group in self.groups.values())
        if many > MOST_REQUESTS:
            raise ValueError(f"the groups have {many:,} requests together; a workload has at most {MOST_REQUESTS:,}")
        for name in self.groups:
            if not name or len(name) > 100 or name in Workload.model_fields or "." in name:
                raise ValueError(f"{name!r} cannot name a group: take another word, without dots")
        return self


class ExpectedFigure(Part):
    """Which way a figure goes on the side that an expectation speaks of, against the other side."""

    of: str = Field(description="A metric that claims can name, such as itl_ms_p99 or computed_prompt_tokens.")
    group: str | None = Field(None, description="Of this group of requests alone; empty: of all.")
    goes: Literal["down", "up", "zero", "same"]


class Expectation(Part):
    """What should come out, in words, and the figures by which two runs show it or refute it."""

    says: str = Field(min_length=1, description="Which way the figures should go: directions, not numbers.")
    when: dict[str, bool | int | float | str] = Field(
        default_factory=dict, description="Settings of the side it speaks of; a value may be larger or smaller."
    )
    figures: tuple[ExpectedFigure, ...] = ()

    @model_validator(mode="after")
    def _figures_need_a_side(self) -> Expectation:
        if self.figures and not self.when:
            raise ValueError("figures need when: the settings of the side that they are about")
        return self

    @property
    def settings(self) -> dict[str, str]:
        """``when`` as settings are written."""
        return {
            path: ("on" if value else "off") if isinstance(value, bool) else str(value)
            for path, value in self.when.items()
        }


class Scenario(Part):
    """A scenario file: a question for the room, what to watch, the engine's settings and the workload."""

    title: str = Field(min_length=1)
    summary: str = Field(min_length=1)
    question: str = Field(min_length=1, description="What to ask the room before the switch is flipped.")
    watch: tuple[str, ...] = Field((), description="What to look at on the page.")
    expect: tuple[str | Expectation, ...] = Field((), description="What should come out: in words, or with figures.")
    technique: str | None = Field(None, description="The engine setting whose effect it shows.")
    engine: EngineConfig = EngineConfig()
    workload: Workload
    labels: tuple[str, ...] = ()
    time_limit_s: float | None = Field(None, gt=0, le=LATEST_NS / 1e9)

    @model_validator(mode="after")
    def _expects_of_its_groups(self) -> Scenario:
        for line in self.expectations:
            for figure in line.figures:
                if figure.group is not None and figure.group not in self.workload.groups:
                    raise ValueError(
                        f"expect names a group {figure.group!r}, and the workload has {', '.join(self.workload.groups)}"
                    )
        return self

    @property
    def expectations(self) -> tuple[Expectation, ...]:
        """What should come out, line by line."""
        return tuple(Expectation(says=line) if isinstance(line, str) else line for line in self.expect)
