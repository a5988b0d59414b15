"""What clients may send: a pydantic model for each body. Fields that are not known are ignored and counted; fields that
are known and not served are refused by name, unless they ask for what is done anyway.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from app.door.errors import BAD_REQUEST, DoorError
from engine.config import LARGEST_COUNT
from engine.config.door import MOST_LOGPROBS

MOST_PROMPTS = 256  # in one completion request
MOST_STOPS = 16
_LONGEST = 2_000_000  # characters or tokens of a prompt

Count = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
TokenId = Annotated[int, Field(ge=0, le=LARGEST_COUNT, strict=True)]
Text = Annotated[str, Field(max_length=_LONGEST)]
Tokens = Annotated[list[TokenId], Field(max_length=_LONGEST)]


def _some_text(stop: str) -> str:
    if not stop:
        raise ValueError("a stop string needs at least one character: every text contains the empty one")
    return stop


Stop = Annotated[str, Field(max_length=1000), AfterValidator(_some_text)]

NOT_SERVED: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "suffix": (None, ""),
    "echo": (None, False),
    "top_logprobs": (None, 0),
    "prompt_logprobs": (None,),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prompt_embeds": (None,),
    "structured_outputs": (None,),
    "guided_json": (None,),
    "guided_regex": (None,),
    "guided_choice": (None,),
    "guided_grammar": (None,),
    "use_beam_search": (None, False),
    "bad_words": (None, []),
    "allowed_token_ids": (None,),
    "truncate_prompt_tokens": (None,),
    "skip_special_tokens": (None, True),
    "include_stop_str_in_output": (None, False),
}
"""Fields that are known and not served, with the values that ask for nothing else than what is done."""


class StreamOptions(BaseModel):
    """When a stream says how many tokens were used."""

    model_config = ConfigDict(extra="ignore")

    include_usage: bool = Field(False, description="One chunk more at the end, with no choices and the usage.")
    continuous_usage_stats: bool = Field(False, description="The usage so far on every chunk.")


class Body(BaseModel):
    """What all bodies have in common."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())
    not_served: ClassVar[tuple[str, ...]] = ()

    model: str | None = Field(None, max_length=4096, description="Must name the model that is served, if it is given.")

    @property
    def ignored(self) -> list[str]:
        """Names of fields that nobody here knows."""
        return [name for name in self.model_extra or {} if name not in NOT_SERVED]


class Generation(Body):
    """How an answer is drawn and when it ends."""

    max_tokens: Annotated[int, Field(ge=0, le=LARGEST_COUNT)] | None = Field(
        None, description="Output tokens at most; 0 only with echo."
    )
    max_completion_tokens: Annotated[int, Field(ge=1, le=LARGEST_COUNT)] | None = Field(
        None, description="The same by its later name, which goes first."
    )
    min_tokens: Count | None = Field(None, description="Output tokens before which no token ends the answer.")
    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=LARGEST_COUNT)] | None = Field(None, description="-1 and 0: all.")
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=1000)] | None = None
    ignore_eos: bool | None = None
    priority: Annotated[int, Field(ge=-LARGEST_COUNT, le=LARGEST_COUNT)] | None = Field(
        None, description="As vLLM means it: lower is served first."
    )
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = Field(None, description="Add the token ids of prompt and answer.")

    @property
    def most_tokens(self) -> int | None:
        """Output tokens at most, by whichever name they were given."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def logprobs_told(self) -> int | None:
        """Of how many likeliest tokens log-probabilities are told; None: none are, not even the token's own."""
        raise NotImplementedError

    @property
    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class CompletionBody(Generation):
    """POST /v1/completions."""

    not_served: ClassVar[tuple[str, ...]] = tuple(name for name in NOT_SERVED if name != "echo")

    prompt: (
        Text
        | Tokens
        | Annotated[list[Text], Field(max_length=MOST_PROMPTS)]
        | Annotated[list[Tokens], Field(max_length=MOST_PROMPTS)]
    ) = Field(description="A text, its token ids, or a list of either.")
    add_special_tokens: bool | None = Field(None, description="Begin with the tokens the model expects at a start.")
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS, strict=True)] | None = Field(
        None, description="Tell log-probabilities, and those of so many likeliest tokens."
    )
    echo: bool | None = Field(None, description="The prompt comes before the answer; not in a stream.")

    @property
    def logprobs_told(self) -> int | None:
        return self.logprobs

    @property
    def prompts(self) -> list[str | list[int]]:
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if all(isinstance(part, int) for part in prompt):
            return [prompt] if prompt else []  # type: ignore[list-item]
        return list(prompt)  # type: ignore[arg-type]


class Part(BaseModel):
    """A part of a message; only text is read."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(max_length=100)
    text: Text | None = None


class Message(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[Part], Field(max_length=1000)]

    def as_text(self, place: int) -> dict[str, str]:
        """As chat templates read it. Raises ``DoorError`` for parts that are no text."""
        content = self.content
        if not isinstance(content, str):
            other = next((part.type for part in content if part.type != "text" or part.text is None), None)
            if other is not None:
                raise DoorError(
                    BAD_REQUEST,
                    f"A content part of type {other[:50]!r} is not served; only text is.",
                    param=f"messages.{place}.content",
                    code="not_served",
                )
            content = "".join(part.text or "" for part in content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


Messages = Annotated[list[Message], Field(min_length=1, max_length=4096)]


class ChatBody(Generation):
    """POST /v1/chat/completions."""

    not_served: ClassVar[tuple[str, ...]] = tuple(name for name in NOT_SERVED if name != "top_logprobs")

    messages: Messages
    logprobs: bool | None = Field(None, description="Tell the log-probability of each token.")
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = Field(
        None, description="Those of so many likeliest tokens, too."
    )

    @property
    def logprobs_told(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


class TokenizeBody(Body):
    """POST /tokenize."""

    prompt: Text | None = None
    messages: Messages | None = None
    add_special_tokens: bool | None = None


class DetokenizeBody(Body):
    """POST /detokenize."""

    tokens: Tokens


B = TypeVar("B", bound=Body)


def read_body(kind: type[B], data: dict[str, Any]) -> B:
    """A body that is checked. Raises ``DoorError`` that names the field, what was given and what would be right."""
    try:
        body = kind.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"] if not _is_choice(part)) or "body"
        raise DoorError(
            BAD_REQUEST, f"{field}: {first['msg']}; given: {_shown(first.get('input'))}.", param=field, code="bad_value"
        ) from None
    for name in body.not_served:
        value = data.get(name)
        if all(value != allowed for allowed in NOT_SERVED[name]):
            raise _not_served(name, value)
    return body


def _not_served(name: str, value: Any) -> DoorError:
    usual = NOT_SERVED[name][-1]
    mend = "Leave it out." if usual is None else f"Leave it out or give {usual!r}."
    message = f"{name} is not served here; given: {_shown(value)}. {mend}"
    return DoorError(BAD_REQUEST, message, param=name, code="not_served")


def _is_choice(part: int | str) -> bool:
    """Whether a part of a place names a branch of a union rather than a field."""
    return isinstance(part, str) and not part.isidentifier()


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
