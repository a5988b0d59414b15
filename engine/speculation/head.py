"""A trained draft head: some layers of its own that read what the target leaves behind (after EAGLE, 2024), and a
pointer into the text.

It guesses from the target's last residual stream and the token chosen there, then from its own. Its layers attend to
the keys and values of the target's last layers where they lie, in the request's own blocks; for the places it guesses
it writes its own there, which verification overwrites, as layer skipping does. So it needs no cache and no books of its
own. It guesses the tokens of a smaller vocabulary, with those rows of the target's output matrix. ``engine.training``
makes one; it fits the weights it was trained for and no others.

    target, last step   | ... h_t |  token t+1        keys, values of the layers read: places 0 .. t
    guess 1             h_t + token t+1   -> h'       place t+1 written
    guess 2             h'  + guess 1     -> h''      place t+2 written

What the layers say is mixed with what followed when the last few tokens stood in the request before (a
pointer-generator's mixture, See et al., 2017): the longer that match, the more the token it points at weighs, by as
much as training found right.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open

from engine.attention.base import AttentionBackend
from engine.batch import Batch
from engine.config import EngineConfig, Speculation
from engine.config.errors import EngineError
from engine.config.models import sha256
from engine.model.assemble import build
from engine.model.checkpoint import Checkpoint
from engine.model.linear import Linear
from engine.model.load import LoadedModel, model_directory, resolve
from engine.model.norm import RMSNorm
from engine.model.source import ModelSource
from engine.phases import Progress
from engine.request import Draft, Request
from engine.scheduling.plan import Slice
from engine.speculation.base import Means
from engine.speculation.lookup import Indexes
from engine.speculation.models import ModelProposer, check_guesses, choose

FORMAT = "servescope-head-2"
POINTER = (
    "pointer.weight"  # [longest match + 1], by the length of a match: log of the odds that what followed it comes again
)
DEFAULT_HEAD = Path(__file__).resolve().parent.parent.parent / "assets" / "smollm2-135m-instruct-head.safetensors"


class Head:
    """The head's weights, ready to run beside the target's."""

    def __init__(self, path: Path, target: LoadedModel, source: ModelSource) -> None:
        """
        Args:
            path: a file that ``engine.training`` wrote; ``check_head`` has found it to fit.
            target: whose embedding and output matrix it shares.
            source: where the target came from.
        """
        decoder, shape = target.decoder, target.shape
        with safe_open(path, "pt") as file:
            self.reads: list[int] = json.loads(file.metadata()["reads_layers"])
            self.vocabulary = file.get_tensor("vocabulary").long().to(target.device)

            def get(name: str, expected: tuple[int, ...]) -> torch.Tensor:
                if name == "model.embed_tokens.weight":
                    return _output_rows(target, source, self.vocabulary)
                return file.get_tensor(name).to(device=target.device, dtype=target.dtype).view(expected)

            own = dataclasses.replace(shape, layers=len(self.reads), vocab=len(self.vocabulary), tied=True)
            self.decoder = build(own, get)
            width = (shape.hidden, 2 * shape.hidden)
            up = file.get_tensor("fuse.up.weight").shape
            self._fuse = Linear(get("fuse.weight", width))
            self._up, self._down = (
                Linear(get("fuse.up.weight", tuple(up))),
                Linear(get("fuse.down.weight", (width[0], up[0]))),
            )
            self._hidden_norm = RMSNorm(get("hidden_norm.weight", width[:1]), shape.norm_eps)
            self._token_norm = RMSNorm(get("token_norm.weight", width[:1]), shape.norm_eps)
            self._pointer = file.get_tensor(POINTER).float()
        self._embedding = decoder.embedding
        self._place = torch.full((shape.vocab,), -1)  # of each token among those that can be guessed
        self._place[self.vocabulary.cpu()] = torch.arange(len(self.vocabulary))

    @property
    def longest_match(self) -> int:
        """Tokens before a guess that are looked up in the request, at most."""
        return len(self._pointer) - 1

    def forward(
        self, carried: torch.Tensor, token_ids: torch.Tensor, positions: torch.Tensor, attention: AttentionBackend
    ) -> torch.Tensor:
        """One guess of each row: the stream at the place before [rows, hidden] and the token here [rows] -> the stream
        here."""
        fused = torch.cat((self._hidden_norm(carried), self._token_norm(F.embedding(token_ids, self._embedding))), -1)
        x = self._down.add_to(self._fuse(fused), F.silu(self._up(fused)))
        return self.decoder.through(x, positions, LayersRead(attention, self.reads))

    def touch(self, rows: int) -> None:
        """Multiply once by every form of its matrices with so many rows, as ``Decoder.touch`` does."""
        self.decoder.touch(rows)
        hidden = self._embedding.shape[1]
        fused = self._embedding.new_zeros(rows, 2 * hidden)
        self._down.add_to(self._fuse(fused), F.silu(self._up(fused)))

    def laws(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, hidden] -> [rows, tokens that can be guessed] float32, log of the layers' distribution."""
        return self.decoder.logits(hidden).log_softmax(-1)

    def pointed(self, pointers: Sequence[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """What mixing needs: the place of the token pointed at among those that can be guessed (-1: elsewhere), and its
        odds, both [rows].

        Args:
            pointers: for each row a token and how long the match is that it followed; where nothing matched, any token
                and 0.
        """
        tokens, lengths = torch.tensor(pointers).unbind(-1)
        odds = torch.where(lengths > 0, self._pointer[lengths].exp(), 0.0)
        return self._place[tokens].to(self.vocabulary.device), odds.to(self.vocabulary.device)


def _output_rows(target: LoadedModel, source: ModelSource, tokens: torch.Tensor) -> torch.Tensor:
    """Rows [tokens, hidden] of the target's output matrix; where that is not the embedding, it is read again: layers do
    not keep theirs."""
    shape = target.shape
    if shape.tied:
        return target.decoder.embedding[tokens]
    whole = Checkpoint(model_directory(source)).get("lm_head.weight", (shape.vocab, shape.hidden))
    return whole[tokens.cpu()].to(device=target.device, dtype=target.dtype)


class LayersRead:
    """Attention over the target's cache for layers that are numbered otherwise."""

    def __init__(self, attention: AttentionBackend, reads: Sequence[int]) -> None:
        self._attention, self._reads = attention, reads

    def forward(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return self._attention.forward(self._reads[layer], q, k, v)


class TrainedHead(ModelProposer):
    """Guesses with a ``Head``, from the residual stream that the target's last pass left for each request."""

    name = "trained-head"
    observes = True

    def __init__(self, head: Head, target: LoadedModel, attention: AttentionBackend) -> None:
        super().__init__(target.decoder, attention)
        self._head = head
        self._vocab = target.shape.vocab
        self._left: dict[int, torch.Tensor] = {}  # request -> [hidden], the target's stream at its last computed token
        self._ahead: dict[int, torch.Tensor] = {}  # the same where the head itself went on, within one iteration
        self._indexes = Indexes(1, head.longest_match)

    @classmethod
    def load(cls, config: EngineConfig, target: LoadedModel, progress: Progress) -> Head:
        assert config.speculation is not None
        progress("loading the draft head", 0.0)
        path, source = head_path(config.speculation), resolve(config.model)
        check_head(path, source, config.model)
        return Head(path, target, source)

    @classmethod
    def of(cls, means: Means) -> Self:
        return cls(means.weights, means.target, means.attention(means.target, means.cache))

    def observe(self, parts: Sequence[Slice], hidden: torch.Tensor) -> None:
        """Keep the stream at each request's last token that counts: the row that chose its newest token."""
        hidden, row = hidden.clone(), 0  # a graph's next replay would overwrite it
        for part in parts:
            self._left[part.request.index] = hidden[row + part.accepted]
            row += 1 + part.drafted

    def miss(self, parts: Sequence[Slice]) -> None:
        for part in parts:
            self._left.pop(part.request.index, None)

    def propose(self, requests: Sequence[Request], lengths: Sequence[int]) -> list[Draft]:
        able = [n if request.index in self._left else 0 for request, n in zip(requests, lengths, strict=True)]
        self._ahead = {r.index: self._left[r.index] for r in requests if r.index in self._left}
        return super().propose(requests, able)

    def forget(self, request: Request) -> None:
        self._left.pop(request.index, None)
        self._indexes.forget(request)

    def _run(self, batch: Batch) -> torch.Tensor:
        carried = torch.stack([self._ahead[part.request.index] for part in batch.sampled])
        hidden = self._head.forward(carried, batch.token_ids, batch.positions, self.attention)
        for row, part in enumerate(batch.sampled):
            self._ahead[part.request.index] = hidden[row]
        return hidden

    def _guess(self, hidden: torch.Tensor, requests: Sequence[Request]) -> list[tuple[int, torch.Tensor | None]]:
        laws, ids = self._head.laws(hidden), self._head.vocabulary
        pointers = [self._pointer(request) for request in requests]
        places, odds = self._head.pointed(pointers)
        if all(r.sampling_state.generator is None and r.sampling_state.seen is None for r in requests):
            likely, at = laws.max(-1)
            check_guesses(likely.tolist(), laws.dtype)
            there = laws.gather(-1, places.clamp(min=0)[:, None])[:, 0].exp().where(places >= 0, 0.0)
            follows = (there + odds > likely.exp()).tolist()
            return [
                (token if points else guess, None)
                for (token, _), points, guess in zip(pointers, follows, ids[at].tolist(), strict=True)
            ]
        whole = laws.new_zeros(len(laws), self._vocab)
        whole[:, ids] = laws.exp()
        tokens = torch.tensor([token for token, _ in pointers], device=ids.device)
        whole.scatter_add_(-1, tokens[:, None], odds[:, None])
        return choose(whole.log(), requests)

    def _pointer(self, request: Request) -> tuple[int, int]:
        """What followed the last few tokens of a request and its guesses before, and how many of them matched."""
        tokens, ahead = request.token_ids, request.draft.tokens
        place, matched = self._indexes.of(request).find(tokens, ahead)
        return tokens[place] if place < len(tokens) else ahead[place - len(tokens)], matched


def head_path(asked: Speculation) -> Path:
    return Path(asked.head).expanduser() if asked.head else DEFAULT_HEAD


def weights_sha256(source: ModelSource) -> str:
    """What names a model's weights: the SHA-256 of its GGUF file, or over its safetensors files in the order of their
    names."""
    if source.sha256 is not None:
        return source.sha256
    assert source.path is not None
    if source.kind == "gguf":
        return sha256(source.path)
    digest = hashlib.sha256()
    for path in sorted(source.path.glob("*.safetensors")):
        digest.update(sha256(path).encode())
    return digest.hexdigest()


def check_head(path: Path, source: ModelSource, model: str) -> dict[str, Any]:
    """What a head's file says of itself.

    Raises:
        EngineError: it is missing, not a head, or trained for other weights than those at ``source``.
    """
    mend = f"Train one: python -m engine.training --model {model} --out FILE, and set speculation.head to FILE."
    if not path.is_file():
        raise EngineError("missing-file", "speculation.head", str(path), "there is no such file.", mend)
    try:
        with safe_open(path, "pt") as file:
            about = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise EngineError("bad-file", "speculation.head", str(path), f"it cannot be read: {error}.", mend) from error
    if about.get("format") != json.dumps(FORMAT):
        raise EngineError("bad-file", "speculation.head", str(path), "this is no draft head of this version.", mend)
    trained_for = json.loads(about["weights_sha256"])
    if source.kind == "random" or trained_for != weights_sha256(source):
        raise EngineError(
            "other-weights",
            "speculation.head",
            str(path),
            f"it was trained for the weights of {json.loads(about['model'])} (SHA-256 {trained_for[:12]}), which are "
            f"not those of {model}.",
            mend,
        )
    return about
