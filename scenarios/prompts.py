"""What is asked: the kinds of prompts a group of requests can have."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from scenarios import texts
from scenarios.lengths import Lengths, Uniform
from scenarios.part import Part
from scenarios.questions import ABOUT_A_TEXT, QUESTIONS
from scenarios.traces import TraceRow


@dataclass(frozen=True)
class Ask:
    """One request whose prompt is to be made."""

    index: int  # number in the group
    tokens: int | None  # wanted length; None: whatever the text gives
    rng: random.Random  # this request's own stream
    common: Callable[[object], random.Random]  # a stream that every request of the group can open again, by name
    row: TraceRow | None  # the trace row it replays
    session: int = 0  # of arrivals of kind sessions: which one ...
    turn: int = 0  # ... and which of its turns, counted from 0
    shared: int = 0  # first tokens that are to be those of one text, where the kind says how many (``shared_tokens``)


class Prompt(Part):
    """Base of all prompt kinds."""

    def make(self, ask: Ask) -> dict[str, Any]:
        """The fields of ``RequestSpec`` that hold the prompt."""
        raise NotImplementedError

    def shared_tokens(self, lengths: Sequence[int]) -> Sequence[int]:
        """How many first tokens each of the group's requests is to share, for kinds that say so; ``lengths``: of their prompts."""
        return [0] * len(lengths)


class Chat(Prompt):
    """Short everyday questions in the model's chat form, with an optional ``system`` message."""

    kind: Literal["chat"] = "chat"
    system: str | None = Field(None, min_length=1)

    def make(self, ask: Ask) -> dict[str, Any]:
        return {"prompt": _in_turn(QUESTIONS, ask), "chat": True, "system": self.system}


class RandomTokens(Prompt):
    """Base of the kinds made of random token ids from ``low`` to ``high``, both included."""

    low: int = Field(10, ge=0)
    high: int = Field(48_999, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> RandomTokens:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high})")
        return self

    def ids(self, count: int, rng: random.Random) -> list[int]:
        return [rng.randint(self.low, self.high) for _ in range(count)]


class Tokens(RandomTokens):
    """Random token ids; the first ``shared`` are equal within each of ``families``, which requests join in turn."""

    kind: Literal["tokens"] = "tokens"
    shared: int = Field(0, ge=0)
    families: int = Field(1, ge=1)

    def make(self, ask: Ask) -> dict[str, Any]:
        wanted = ask.tokens or 1
        prefix = self.ids(min(self.shared, wanted), ask.common(f"family {ask.index % self.families}"))
        return {"prompt_token_ids": tuple(prefix + self.ids(wanted - len(prefix), ask.rng))}


class TraceBlocks(RandomTokens):
    """Random token ids that repeat where a trace's ``hash_ids`` repeat: its real prefix sharing.

    A block stands for 512 (Mooncake) or 16 (Bailian) tokens of the trace, scaled like the prompt's length, or is ``block`` tokens long in
    every prompt: with the trace's block times the lengths' scale, rounding cannot part prompts that share.
    """

    kind: Literal["trace-blocks"] = "trace-blocks"
    block: int | None = Field(None, ge=1)

    def make(self, ask: Ask) -> dict[str, Any]:
        row, wanted = ask.row, ask.tokens or 1
        if row is None or not row.block_ids:
            return {"prompt_token_ids": tuple(self.ids(wanted, ask.rng))}
        block = self.block or max(1, round(row.block_tokens * wanted / row.prompt_tokens))
        ids: list[int] = []
        for name in row.block_ids:
            ids += self.ids(min(block, wanted - len(ids)), ask.common(f"block {name}"))
        return {"prompt_token_ids": tuple(ids + self.ids(wanted - len(ids), ask.rng))}


class PrefixHits(RandomTokens):
    """Random token ids of which the share ``share``, over the group, stands in the cache of an engine that shares prefixes and forgets none.

    All prompts begin with more or less of one text. The first finds nothing of it; the next make up for that, whole prompts long if need
    be; from then on each begins with the share.
    """

    kind: Literal["prefix-hits"] = "prefix-hits"
    share: float = Field(0.5, ge=0, lt=1)

    def shared_tokens(self, lengths: Sequence[int]) -> Sequence[int]:
        known = asked = hits = 0  # tokens of the text in the cache; of prompts so far; of those, found
        shared = []
        for length in lengths:
            asked += length
            wanted = round(self.share * asked) - hits
            most = min(known, length - 1)  # the last token of a prompt is always computed
            if wanted >= most:
                shared.append(length)
                known, hits = max(known, length), hits + most
            else:
                shared.append(max(0, wanted))
                hits += max(0, wanted)
        return shared

    def make(self, ask: Ask) -> dict[str, Any]:
        text = self.ids(ask.shared, ask.common("text"))
        return {"prompt_token_ids": tuple(text + self.ids((ask.tokens or 1) - len(text), ask.rng))}


class Prose(Prompt):
    """English reference prose from a random place on: ``words`` of it, or as many tokens as ``prompt_tokens`` asks."""

    kind: Literal["prose"] = "prose"
    words: int = Field(200, ge=1, le=100_000)

    def make(self, ask: Ask) -> dict[str, Any]:
        return {"prompt": texts.prose(ask.tokens or self.words, ask.rng)}


class Code(Prompt):
    """Source of Python's standard library from a random function on: ``words`` of it, or as ``prompt_tokens`` asks."""

    kind: Literal["code"] = "code"
    words: int = Field(200, ge=1, le=100_000)

    def make(self, ask: Ask) -> dict[str, Any]:
        return {"prompt": texts.code(ask.tokens or self.words, ask.rng)}


class CodeEdit(Prompt):
    """A function of at most ``max_lines`` lines in two equal versions; the next one is asked for and copies them."""

    kind: Literal["code-edit"] = "code-edit"
    max_lines: int = Field(24, ge=8, le=400)

    def make(self, ask: Ask) -> dict[str, Any]:
        function = texts.short_function(self.max_lines, ask.rng)
        note = "with nothing changed but this comment"
        parts = ("# version 1", function, f"\n\n# version 2, {note}", function, f"\n\n# version 3, {note}", "")
        return {"prompt": "\n".join(parts)}


class Documents(Prompt):
    """Questions about texts of ``words`` words: ``documents`` of them in turn, or with 0 a new one for each request."""

    kind: Literal["documents"] = "documents"
    words: int = Field(300, ge=10, le=50_000)
    documents: int = Field(0, ge=0)

    def make(self, ask: Ask) -> dict[str, Any]:
        rng = ask.common(f"document {ask.index % self.documents}") if self.documents else ask.rng
        document = texts.prose(self.words, rng)
        question = ABOUT_A_TEXT[(ask.index // max(1, self.documents)) % len(ABOUT_A_TEXT)]
        return {"prompt": f"{document}\n\n{question}", "chat": True}


class FewShot(Prompt):
    """A small task shown by ``examples`` worked examples, then one more to work: ``families`` templates, in turn."""

    kind: Literal["few-shot"] = "few-shot"
    examples: int = Field(16, ge=1, le=1000)
    families: int = Field(1, ge=1)

    def make(self, ask: Ask) -> dict[str, Any]:
        shown = ask.common(f"template {ask.index % self.families}")
        sign, work = shown.choice([("+", int.__add__), ("-", int.__sub__), ("*", int.__mul__)])

        def question(rng: random.Random) -> tuple[int, int]:
            return rng.randint(10, 99), rng.randint(10, 99)

        lines = [f"Q: {a} {sign} {b}\nA: {work(a, b)}" for a, b in (question(shown) for _ in range(self.examples))]
        a, b = question(ask.rng)
        return {"prompt": "\n\n".join([*lines, f"Q: {a} {sign} {b}\nA:"])}


class Conversation(Prompt):
    """Chats in turns: each prompt is the whole talk so far, with answers of ``words`` words that were written beforehand.

    ``people`` talk side by side, request by request in turn; each begins a new talk after ``turns``. Meant for closed-loop
    arrivals with as many clients, where a turn comes after the answer to the one before.
    """

    kind: Literal["conversation"] = "conversation"
    people: int = Field(1, ge=1)
    turns: int = Field(4, ge=1)
    words: int = Field(60, ge=1, le=10_000)

    def make(self, ask: Ask) -> dict[str, Any]:
        person, number = ask.index % self.people, ask.index // self.people
        talk, turn = divmod(number, self.turns)
        rng = ask.common(f"person {person} talk {talk}")
        said = []
        for _ in range(turn + 1):
            said += [f"User: {rng.choice(QUESTIONS)}", f"Assistant: {texts.prose(self.words, rng)}"]
        return {"prompt": "\n\n".join([*said[:-1], "Assistant:"])}


class Dialogue(Prompt):
    """A talk in turns with the answers really given: each turn sends the whole talk so far and a new question. ``system_words`` of house
    notes come first, the same in every talk. For arrivals of kind sessions.
    """

    kind: Literal["dialogue"] = "dialogue"
    system_words: int = Field(0, ge=0, le=50_000)

    def make(self, ask: Ask) -> dict[str, Any]:
        asked = f"User: {ask.rng.choice(QUESTIONS)}\n\nAssistant:"
        if ask.turn:
            return {"prompt": f"\n\n{asked}"}
        return {"prompt": f"{_notes(self.system_words, ask)}{asked}"}


class Agent(Prompt):
    """A program that works by turns: a task, and then after each answer what a tool gave, ``result_words`` of it. ``system_words`` of
    instructions come first, the same in every program. For arrivals of kind sessions, whose pauses are the tools at work.
    """

    kind: Literal["agent"] = "agent"
    system_words: int = Field(150, ge=0, le=50_000)
    result_words: Lengths = Uniform(low=20, high=80)

    def make(self, ask: Ask) -> dict[str, Any]:
        if ask.turn:
            result = texts.code(self.result_words.draw(ask.rng, 1), ask.rng)
            return {"prompt": f"\n\nTool: {result}\n\nAgent:"}
        return {"prompt": f"{_notes(self.system_words, ask)}Task: {ask.rng.choice(QUESTIONS)}\n\nAgent:"}


class SharedSystem(Prompt):
    """Chat questions behind one system message of about ``words`` words: the prefix that every request shares."""

    kind: Literal["shared-system"] = "shared-system"
    words: int = Field(300, ge=1, le=50_000)

    def make(self, ask: Ask) -> dict[str, Any]:
        notes = texts.prose(self.words, ask.common("system"))
        system = f"You are a helpful assistant in a programming school. These are the house notes:\n\n{notes}"
        return {"prompt": _in_turn(QUESTIONS, ask), "chat": True, "system": system}


class Texts(Prompt):
    """The texts given here, in turn; ``chat: true`` puts them in the model's chat form."""

    kind: Literal["texts"] = "texts"
    texts: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    chat: bool = False
    system: str | None = Field(None, min_length=1)

    def make(self, ask: Ask) -> dict[str, Any]:
        return {"prompt": self.texts[ask.index % len(self.texts)], "chat": self.chat, "system": self.system}


Prompts = Annotated[
    Chat
    | Tokens
    | PrefixHits
    | TraceBlocks
    | Prose
    | Code
    | CodeEdit
    | Documents
    | FewShot
    | Conversation
    | Dialogue
    | Agent
    | SharedSystem
    | Texts,
    Field(discriminator="kind"),
]


def _notes(words: int, ask: Ask) -> str:
    """The same text for every session of the group, or nothing."""
    return f"{texts.prose(words, ask.common('notes'))}\n\n" if words else ""


def _in_turn(pool: tuple[str, ...], ask: Ask) -> str:
    """The pool's texts in an order of the group's own, each once before any comes again."""
    order = list(range(len(pool)))
    ask.common("order").shuffle(order)
    return pool[order[ask.index % len(pool)]]
