"""What a paper's card says, key by key."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from engine.config import Accepts
from scenarios.part import Line, Name, Part

DIAGRAM_WIDTH = 76  # columns
DIAGRAM_HEIGHT = 24  # lines

Passage = Annotated[str, StringConstraints(strip_whitespace=True, min_length=40, max_length=1600)]
Picture = Annotated[str, Accepts(f"printable characters, at most {DIAGRAM_WIDTH} wide and {DIAGRAM_HEIGHT} high")]

PaperClass = Literal[
    "scheduling",
    "KV cache",
    "speculative decoding",
    "quantization",
    "attention",
    "layers and experts",
    "multiple instances",
    "response caching",
    "workload and study",
]
Source = Literal["abstract", "paper", "public code or page", "background, not re-checked"]


class Claimed(Part):
    """One result of the paper, with the setup it was measured in."""

    says: Line = Field(description="The claim in one sentence, in our words.")
    figure: Line = Field(description="The figure as the paper states it, with its unit.")
    setup: Line = Field(description="Model, hardware, baseline and load; 'not stated in the abstract' where unknown.")
    source: Source


class Knob(Part):
    """One setting of the paper, and the lab's setting that corresponds to it."""

    paper: Line = Field(description="The paper's name for it.")
    setting: str | None = Field(None, description="The lab's setting by its dotted name; empty: the lab has none.")
    note: Line | None = None


class Card(Part):
    """A paper as the lab shows it."""

    system: Line = Field(description="The system's or study's name.")
    title: Line = Field(description="The paper's title.")
    year: int = Field(ge=2015, le=2035)
    arxiv: str | None = Field(None, pattern=r"^\d{4}\.\d{4,5}$", description="arXiv number; empty: not looked up.")
    paper_class: PaperClass = Field(alias="class")
    tier: Literal[1, 2, 3]
    techniques: tuple[str, ...] = Field((), description="The lab's switches it belongs to.")
    problem: Passage = Field(description="The problem in two sentences.")
    mechanism: Passage = Field(description="How it works.")
    diagram: Picture = Field(min_length=20, description="A picture in characters, at most 76 wide and 24 high.")
    claims: tuple[Claimed, ...] = Field(min_length=1)
    knobs: tuple[Knob, ...] = Field(min_length=1)
    watch: tuple[Line, ...] = Field(min_length=1, description="What to look at on the pages.")
    check: Line = Field(description="What must hold for the outputs, whatever the speed.")
    simplified: tuple[Line, ...] = Field((), description="What differs here from the paper.")
    weights: Literal["random", "trained", "large"] = Field(
        description="The least that shows the effect: random weights, a small trained model, or a large model."
    )
    status: Literal["runs", "explained"]
    reason: Line | None = Field(
        None, validate_default=True, description="Of a card that is explained only: why it does not run here."
    )
    related: tuple[Name, ...] = Field((), description="Other cards, by their file's name.")

    @field_validator("diagram")
    @classmethod
    def _is_drawn_within_bounds(cls, diagram: str) -> str:
        lines = diagram.splitlines()
        if len(lines) > DIAGRAM_HEIGHT or max(map(len, lines)) > DIAGRAM_WIDTH or not all(map(str.isprintable, lines)):
            raise PydanticCustomError("diagram", "the diagram does not fit")
        return diagram

    @field_validator("reason")
    @classmethod
    def _is_given_where_it_belongs(cls, reason: str | None, info: ValidationInfo) -> str | None:
        if "status" in info.data and (info.data["status"] == "explained") != (reason is not None):
            raise ValueError("reason is given exactly where status is explained")
        return reason
