"""Proposers that run a model: the target's own layers with some skipped, or a smaller model of the same vocabulary.

Both write keys and values into blocks of the request's own block table, at the places their guesses take. Layer
skipping writes into the target's cache and reads what the target left there; verification then overwrites it. A draft
model has a cache of its own with as many blocks as the target's, so one block table, one pool and one budget serve
both:

    block table [ 3 | 7 ]      pool block 7 ->  target's cache, block 7
                                            ->  draft's cache,  block 7
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Self

import torch

from engine.attention.base import AttentionBackend
from engine.batch import Batch, build_batch
from engine.config import EngineConfig, Sampling
from engine.config.errors import EngineError
from engine.finite import not_finite
from engine.kv.cache import KVCache
from engine.model.decoder import Decoder
from engine.model.load import LoadedModel, load, resolve
from engine.phases import Progress
from engine.request import NO_DRAFT, Draft, Request
from engine.sampling import distribution, draw
from engine.scheduling.plan import Plan, Slice
from engine.speculation.base import Means, Proposer

_PROBE = "The quick brown fox, 2 + 2 = 4: naïve façade\n"  # models of one vocabulary cut this text the same way


class ModelProposer(Proposer):
    """Guesses token by token with a decoder, all requests in one batch per token.

    Greedy requests get the decoder's most likely tokens. Others get tokens drawn from its distribution after the
    request's own filters, with the laws they were drawn from.
    """

    runs_model = True

    def __init__(self, decoder: Decoder, attention: AttentionBackend, layers: Sequence[int] | None = None) -> None:
        """
        Args:
            decoder: what guesses.
            attention: over the cache it reads and writes.
            layers: of the decoder to run; None runs all.
        """
        self.decoder = decoder
        self.attention = attention
        self.layers = layers

    def propose(self, requests: Sequence[Request], lengths: Sequence[int]) -> list[Draft]:
        guesses: list[list[int]] = [[] for _ in requests]
        laws: list[list[torch.Tensor]] = [[] for _ in requests]
        going = {request.index: i for i, request in enumerate(requests) if lengths[i] > 0}
        while going:
            parts = [self._part(requests[i], len(guesses[i])) for i in going.values()]
            batch = build_batch(Plan(parts), self.attention.cache.block_size, self.decoder.device)
            self.attention.begin(batch.attention)
            hidden = self._run(batch)
            for part in parts:
                self._computed(part.request, part.context_len + part.tokens)
            sampled = [part.request for part in batch.sampled]
            if sampled:
                guessed = self._guess(hidden.index_select(0, batch.sample_rows), sampled)
                for request, (token, law) in zip(sampled, guessed, strict=True):
                    i = going[request.index]
                    guesses[i].append(token)
                    if law is not None:
                        laws[i].append(law)
                    request.draft = Draft(guesses[i])
            still = {request.index for request in sampled}
            going = {n: i for n, i in going.items() if n in still and len(guesses[i]) < lengths[i]}
        for request in requests:
            request.draft = NO_DRAFT
        return [Draft(g, torch.stack(q) if q else None) if g else NO_DRAFT for g, q in zip(guesses, laws, strict=True)]

    def _run(self, batch: Batch) -> torch.Tensor:
        """The residual stream [tokens, hidden] of a batch; attention has been told of it."""
        return self.decoder.forward(batch.token_ids, batch.positions, self.attention, self.layers)

    def _guess(self, hidden: torch.Tensor, requests: Sequence[Request]) -> list[tuple[int, torch.Tensor | None]]:
        """A guess for each row [rows, hidden], with its law where it was drawn."""
        return choose(self.decoder.logits(hidden), requests)

    def _part(self, request: Request, guessed: int) -> Slice:
        """What to compute next for a request with ``guessed`` guesses: its last token, or all that this decoder
        lacks."""
        return Slice(request, 1, request.num_known_tokens - 1, False)

    def _computed(self, request: Request, tokens: int) -> None:
        """``tokens`` tokens of the request are in this decoder's cache now."""
        return


class LayerSkip(ModelProposer):
    """The target with evenly spaced middle layers skipped (Unified Layer Skipping, 2024): no weights and no cache of
    its own."""

    name = "layer-skip"

    def __init__(self, decoder: Decoder, attention: AttentionBackend, target_speedup: float) -> None:
        """``target_speedup``: layers of the model / layers that guess."""
        super().__init__(decoder, attention, kept_layers(len(decoder.layers), target_speedup))

    @classmethod
    def of(cls, means: Means) -> Self:
        target = means.target
        return cls(target.decoder, means.attention(target, means.cache), means.asked.target_speedup)


class DraftModel(ModelProposer):
    """A smaller model of the same vocabulary. What it has not seen of a request it computes first, some per
    iteration."""

    name = "draft-model"

    def __init__(self, decoder: Decoder, attention: AttentionBackend, catch_up: int) -> None:
        """``catch_up``: most tokens of one request it computes in one iteration before it can guess."""
        super().__init__(decoder, attention)
        self._catch_up = catch_up
        self._seen: dict[int, int] = {}  # request -> tokens in its cache, guesses included

    @classmethod
    def load(cls, config: EngineConfig, target: LoadedModel, progress: Progress) -> LoadedModel:
        """The model that guesses; refused where its vocabulary is not the target's."""
        assert config.speculation is not None
        name = config.speculation.draft_model
        assert name is not None
        try:
            draft = load(resolve(name), target.device, target.dtype, seed=config.seed, progress=progress)
        except EngineError as error:
            field = error.field.replace("model", "speculation.draft_model", 1)
            raise EngineError(error.kind, field, error.value, error.message, error.mend) from error
        if draft.shape.vocab != target.shape.vocab or draft.tokenizer.encode(_PROBE) != target.tokenizer.encode(_PROBE):
            raise EngineError(
                "other-vocabulary",
                "speculation.draft_model",
                name,
                f"its vocabulary ({draft.shape.vocab:,} tokens) is not that of {config.model} "
                f"({target.shape.vocab:,}), so its guesses would mean other tokens.",
                "Choose a model of the same family, or another proposer.",
            )
        return draft

    @classmethod
    def of(cls, means: Means) -> Self:
        draft: LoadedModel = means.weights
        return cls(draft.decoder, means.attention(draft, draft_cache(draft, means.cache)), means.token_budget)

    def propose(self, requests: Sequence[Request], lengths: Sequence[int]) -> list[Draft]:
        longest = self.decoder.shape.max_position
        bounded = [min(n, longest - len(r.token_ids)) for r, n in zip(requests, lengths, strict=True)]
        return super().propose(requests, bounded)

    def forget(self, request: Request) -> None:
        self._seen.pop(request.index, None)

    def _part(self, request: Request, guessed: int) -> Slice:
        seen = self._seen.get(request.index, 0)
        if not guessed:
            seen = min(seen, request.num_computed_tokens)  # rejected guesses are in its cache too; they do not count
        return Slice(request, min(request.num_known_tokens - seen, self._catch_up), seen, False)

    def _computed(self, request: Request, tokens: int) -> None:
        self._seen[request.index] = tokens


def draft_cache(draft: LoadedModel, cache: KVCache) -> KVCache:
    """A draft model's keys and values in blocks of the same numbers as ``cache``'s."""
    shape = draft.shape
    try:
        dimensions = (shape.layers, shape.kv_heads, shape.head_dim, cache.num_blocks, cache.block_size)
        drafts = KVCache(*dimensions, draft.dtype, draft.device, cache.space)
        drafts.contiguous = cache.contiguous
        return drafts
    except EngineError as error:
        raise EngineError(
            "out-of-memory",
            "speculation.draft_model",
            draft.name,
            f"no room for the draft model's part of the KV pool: {error.message}",
            "Set kv_blocks or kv_memory_fraction lower, or choose a smaller draft model.",
        ) from error


def check_guesses(largest: Sequence[float], dtype: torch.dtype) -> None:
    """``largest``: of each row that something was guessed from. A guess from no numbers could end up as output.

    Raises:
        EngineError: one of them is not finite.
    """
    if not all(map(math.isfinite, largest)):
        raise not_finite("The logits of what guesses for the model are", dtype, "speculation.proposer")


def kept_layers(layers: int, target_speedup: float) -> list[int]:
    """Numbers of the layers that run: ``layers / target_speedup`` of them, the first and the last one always."""
    keep = min(layers, max(2, round(layers / target_speedup)))
    return sorted({round(i * (layers - 1) / (keep - 1)) for i in range(keep)}) if keep > 1 else [0]


def choose(logits: torch.Tensor, requests: Sequence[Request]) -> list[tuple[int, torch.Tensor | None]]:
    """A guess for each row [rows, vocab], with its law where it was drawn.

    Raises:
        EngineError: a row's largest logit is not finite.
    """
    largest, likely = logits.max(-1)
    check_guesses(largest.tolist(), logits.dtype)
    chosen: list[tuple[int, torch.Tensor | None]] = [(token, None) for token in likely.tolist()]
    alike: dict[Sampling, list[int]] = defaultdict(list)
    for row, request in enumerate(requests):
        if request.sampling_state.generator is not None or request.sampling_state.seen is not None:
            alike[request.sampling_state.sampling].append(row)
    for sampling, rows in alike.items():
        states = [requests[row].sampling_state for row in rows]
        seen = [state.seen for state in states if state.seen is not None]
        laws = distribution(logits[rows], sampling, torch.stack(seen) if seen else None)
        if sampling.greedy:
            tokens = laws.argmax(-1)
        else:
            numbers = [state.uniform() for state in states]
            tokens = draw(laws, torch.tensor(numbers, dtype=torch.float64, device=laws.device))
        for row, token, law in zip(rows, tokens.tolist(), laws, strict=True):
            chosen[row] = (token, None if sampling.greedy else law)
    return chosen
