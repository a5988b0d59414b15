"""``quality.json``: what codecs of the KV cache cost, measured for a run. The model of the file (``engine.quality.meter`` makes it)."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from telemetry.status import Label, Labels, Words

MOST_CODECS = 64
MOST_BYTES = 32 << 20

Tokens = Annotated[int, Field(ge=0, lt=2**31)]
Share = Annotated[float, Field(ge=0, le=1)]


def _is_map(errors: list[list[float]]) -> list[list[float]]:
    if not errors or not errors[0] or len({len(layer) for layer in errors}) != 1:
        raise ValueError("every layer has an error for each head")
    return errors


Map = Annotated[list[list[float]], AfterValidator(_is_map)]  # [layers][heads]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class Needle(_Part):
    """A hidden fact, and whether it was found."""

    found: bool = False


class Chunking(_Part):
    """What reading the text in other pieces changed."""

    logits: float | None = None
    kl: float | None = None
    agreement: Share | None = None
    codes: Share | None = None


class Side(_Part):
    """Full precision, or a codec."""

    bytes_per_token: Annotated[float, Field(gt=0)]
    perplexity: Annotated[float, Field(gt=0)]
    needles: Annotated[list[Needle], Field(max_length=1000)]
    chunking: Chunking | None = None


class Settings(_Part):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    codec: Label


class CodecCost(Side):
    """One codec against full precision."""

    name: Label
    settings: Settings
    bits: Annotated[float, Field(gt=0)]
    window: Tokens
    capacity: Annotated[float, Field(gt=0)]
    kl: float
    agreement: Share
    greedy_agreement: Share | None
    first_divergence: Annotated[list[Tokens], Field(max_length=1000)]
    key_error: Map
    value_error: Map


class Quality(_Part):
    """The whole file."""

    model: Words
    dtype: Label
    device: Label
    block_size: Tokens | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    labels: Labels
    text: Words
    tokens: Tokens
    new_tokens: Tokens
    needle_tokens: Tokens
    full: Side
    codecs: Annotated[list[CodecCost], Field(min_length=1, max_length=MOST_CODECS)]
