"""Prompt lookup: what followed the last few tokens when they occurred before is the guess."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from engine.config import Speculation
from engine.config.errors import EngineError
from engine.request import NO_DRAFT, Draft, Request
from engine.speculation.base import Means, Proposer


class NGramIndex:
    """Where each n-gram of a growing text ended last; adding a token costs O(longest - shortest + 1).

    tokens   the cat sat on the mat . the cat | ?
    2-gram "the cat" ended before place 2 -> guess: sat on the ...
    """

    def __init__(self, shortest: int, longest: int) -> None:
        self._sizes = range(longest, shortest - 1, -1)
        self._next: dict[tuple[int, ...], int] = {}  # n-gram -> the place after its latest end
        self._added = 0

    def update(self, tokens: Sequence[int]) -> None:
        """Take in tokens added since the last call. N-grams that end with the very last token stay out: nothing follows
        yet."""
        for end in range(self._added + 1, len(tokens)):
            for size in self._sizes:
                if size <= end:
                    self._next[tuple(tokens[end - size : end])] = end
        self._added = max(self._added, len(tokens) - 1)

    def find(self, tokens: Sequence[int], ahead: Sequence[int] = ()) -> tuple[int, int]:
        """Where the longest n-gram that ends ``tokens`` and ``ahead`` ended last before: (the place that follows, its
        length).

        Nothing found is (0, 0). ``tokens`` have all been taken in; those ``ahead`` are only guessed and leave nothing
        behind.
        """
        recent = [*tokens[-self._sizes.start :], *ahead]
        start = len(tokens) + len(ahead) - len(recent)
        for size in self._sizes:
            if size > len(recent):
                continue
            gram = recent[-size:]
            for end in range(start + len(recent) - 1, len(tokens) - 1, -1):
                if recent[max(0, end - size - start) : end - start] == gram:
                    return end, size
            if (place := self._next.get(tuple(gram))) is not None:
                return place, size
        return 0, 0

    def guess(self, tokens: Sequence[int], length: int) -> list[int]:
        """At most ``length`` tokens after the latest earlier occurrence of the longest n-gram that ends ``tokens``.

        Where the occurrence overlaps the end, the guess goes on into itself, so a period goes on for ever.
        """
        place, size = self.find(tokens)
        if not size:
            return []
        guess = list(tokens[place : place + length])
        while len(guess) < length:
            guess.append(guess[len(guess) - (len(tokens) - place)])
        return guess


def followed(tokens: Sequence[int], longest: int) -> tuple[list[int], list[int]]:
    """Of each place of a text: the token that followed the longest earlier match of what ends there (-1 for none), and
    the match's length."""
    index, guesses, lengths = NGramIndex(1, longest), [], []
    for end in range(1, len(tokens) + 1):
        known = tokens[:end]
        index.update(known)
        place, size = index.find(known)
        guesses.append(known[place] if size else -1)
        lengths.append(size)
    return guesses, lengths


class Indexes:
    """An index for each request that was asked about, up to date with its text."""

    def __init__(self, shortest: int, longest: int) -> None:
        self._bounds = shortest, longest
        self._found: dict[int, NGramIndex] = {}  # by request

    def of(self, request: Request) -> NGramIndex:
        index = self._found.get(request.index)
        if index is None:
            index = self._found[request.index] = NGramIndex(*self._bounds)
        index.update(request.token_ids)
        return index

    def forget(self, request: Request) -> None:
        self._found.pop(request.index, None)


class PromptLookup(Proposer):
    """Looks the end of each request up in its own prompt and output, longest match first; needs no second model."""

    name = "prompt-lookup"

    def __init__(self, shortest: int, longest: int) -> None:
        """n-grams of ``shortest`` to ``longest`` tokens are looked up."""
        self._indexes = Indexes(shortest, longest)

    @classmethod
    def of(cls, means: Means) -> Self:
        return cls(means.asked.ngram_min, means.asked.ngram_max)

    @classmethod
    def check(cls, asked: Speculation, longest_prompt: int) -> None:
        if asked.ngram_min > longest_prompt:
            raise EngineError(
                "ngram-too-long",
                "speculation.ngram_min",
                asked.ngram_min,
                f"the longest prompt has {longest_prompt} tokens, so no match of that length can be found in one.",
                f"Set speculation.ngram_min to {longest_prompt} or less.",
            )

    def propose(self, requests: Sequence[Request], lengths: Sequence[int]) -> list[Draft]:
        drafts = []
        for request, length in zip(requests, lengths, strict=True):
            index = self._indexes.of(request)
            guess = index.guess(request.token_ids, length) if length > 0 else []
            drafts.append(Draft(guess) if guess else NO_DRAFT)
        return drafts

    def forget(self, request: Request) -> None:
        self._indexes.forget(request)
