"""What a draft head learns from: text the target wrote itself, prose and code every Python carries, and what the target
made of it.

Text comes in shards of some dozens of sequences. A shard depends on its number and the seed only, so an interrupted
collection goes on where it stopped. Kept of each token the target computed: its id, the residual stream entering some
layers, and after the last layer.
"""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from engine.attention.gathered import GatheredAttention
from engine.batch import build_batch
from engine.config import RequestSpec, Sampling
from engine.finite import BROKEN, not_finite
from engine.kv.cache import KVCache
from engine.model.load import LoadedModel
from engine.request import Request
from engine.sampling import SamplingState, sample
from engine.scheduling.plan import Plan, Slice
from engine.training.topics import FORMS, SUBJECTS, WISHES

SEQUENCES = 48  # of a shard
LONGEST = 224  # tokens of a sequence
BLOCK = 16
UNSEEN_FILE = "unseen.safetensors"
KINDS = (  # shards by number, over and over
    "chat", "chat", "chat", "sampled", "chat", "chat", "text", "chat", "sampled", "chat",
)  # fmt: skip
Progress = Callable[[float], None]

UNSEEN = (
    "Why do onions make people cry?",
    "How can a family spend less on electricity?",
    "Tell me a bedtime story about a small owl.",
    "What is the purpose of a constitution?",
    "How are pencils manufactured?",
    "Which stretches help after a long day at a desk?",
    "What causes the tides?",
    "Give me a recipe for a simple tomato soup.",
    "How do magnets work?",
    "What should I write in a letter of apology?",
    "Why do leaves change their colour in autumn?",
    "How does a lock on a canal lift a boat?",
    "Describe a market in a small town on a Saturday morning.",
    "What is the difference between a virus and a bacterium?",
    "How can I remember people's names?",
    "Who were the Vikings?",
)  # never trained on, and nothing like them: how a head does on questions it was not made for


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:04}.safetensors"


@torch.inference_mode()
def write_shard(
    model: LoadedModel,
    folder: Path,
    number: int,
    layers: Sequence[int],
    seed: int,
    progress: Progress = lambda share: None,
) -> int:
    """Make shard ``number`` unless it is there; returns the tokens it adds.

    Args:
        layers: the residual stream entering these is kept.
        progress: told the share of the shard done.
    """
    path = shard_path(folder, number)
    if path.exists():
        return 0
    rng = random.Random(f"{seed} {number}")
    kind = KINDS[number % len(KINDS)]
    sampling = Sampling(temperature=0.8, top_p=0.95) if kind == "sampled" else Sampling()
    writer = Writer(model, layers, SEQUENCES, LONGEST)
    if kind == "text":
        requests = [writer.request(i, ids, sampling, rng) for i, ids in enumerate(_texts(model, rng))]
    else:
        invented = SEQUENCES * 3 // 4
        asked = _invented(model, rng, invented) + [_question(rng) for _ in range(SEQUENCES - invented)]
        prompts = [model.tokenizer.prompt(text, chat=True)[: LONGEST // 2] for text in asked]
        requests = [writer.request(i, ids, sampling, rng) for i, ids in enumerate(prompts)]
    writer.run(requests, ends=model.shape.eos_token_ids, write=kind != "text", progress=progress)
    tensors = writer.tensors()
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, {"kind": kind})
    partial.rename(path)
    return len(tensors["ids"])


@torch.inference_mode()
def write_unseen(model: LoadedModel, folder: Path, layers: Sequence[int]) -> None:
    """The target's greedy answers to ``UNSEEN``, unless they are there."""
    path = folder / UNSEEN_FILE
    if path.exists():
        return
    rng, writer = random.Random(0), Writer(model, layers, len(UNSEEN), LONGEST)
    prompts = [model.tokenizer.prompt(text, chat=True) for text in UNSEEN]
    writer.run([writer.request(i, ids, Sampling(), rng) for i, ids in enumerate(prompts)], model.shape.eos_token_ids)
    partial = path.with_suffix(".partial")
    save_file(writer.tensors(), partial)
    partial.rename(path)


class Writer:
    """Runs a model over some sequences at once, lets it go on with them, and keeps its residual stream."""

    def __init__(self, model: LoadedModel, layers: Sequence[int], sequences: int, longest: int) -> None:
        self.model, self.longest = model, longest
        shape = model.shape
        self._blocks = -(-longest // BLOCK)
        cache = KVCache(
            shape.layers, shape.kv_heads, shape.head_dim, sequences * self._blocks, BLOCK, model.dtype, model.device
        )
        self.attention = GatheredAttention(cache, shape.heads, shape.kv_heads, shape.head_dim)
        self._cuts = [*layers, shape.layers]
        self._kept: dict[int, list[tuple[torch.Tensor, ...]]] = {}
        self._requests: Sequence[Request] = ()

    def request(self, number: int, prompt: Sequence[int], sampling: Sampling, rng: random.Random) -> Request:
        spec = RequestSpec(request_id=str(number), prompt="-")
        request = Request(number, spec, list(prompt), sampling, self.longest - len(prompt))
        request.block_table = list(range(number * self._blocks, (number + 1) * self._blocks))
        request.sampling_state = SamplingState(
            sampling,
            run_seed=rng.getrandbits(60),
            number=number,
            seed=None,
            vocab=self.model.shape.vocab,
            device=self.model.device,
        )
        return request

    def run(
        self,
        requests: Sequence[Request],
        ends: Sequence[int],
        write: bool = True,
        progress: Progress = lambda share: None,
    ) -> None:
        """Compute the prompts, then with ``write`` go on until one of ``ends`` or the longest sequence."""
        self._requests = requests
        self._kept = {r.index: [] for r in requests}
        for start in range(0, len(requests), 8):  # prompts a few at a time: activations of a batch stay small
            self._step([Slice(r, r.num_known_tokens, 0, True) for r in requests[start : start + 8]], ends)
        steps = max((r.max_tokens for r in requests), default=0) if write else 0
        for step in range(1, steps):
            going = [r for r in requests if r.end_reason is None]
            if not going:
                break
            self._step([Slice(r, 1, r.num_known_tokens - 1, False) for r in going], ends)
            progress(step / steps)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What was computed, sequences end to end: ``ids`` [tokens], ``at N`` [tokens, hidden] per layer, ``final``,
        ``lengths``, ``prompts``."""
        columns: list[list[torch.Tensor]] = [[] for _ in self._cuts]
        ids, lengths = [], []
        for request in self._requests:
            parts = self._kept[request.index]
            length = sum(len(part[0]) for part in parts)
            ids += request.token_ids[:length]
            lengths.append(length)
            for column, pieces in zip(columns, zip(*parts, strict=True), strict=True):
                column += pieces
        names = [f"at {layer}" for layer in self._cuts[:-1]] + ["final"]
        states = {name: torch.cat(column).to(torch.bfloat16) for name, column in zip(names, columns, strict=True)}
        prompts = [request.num_prompt_tokens for request in self._requests]
        whole = {"ids": ids, "lengths": lengths, "prompts": prompts}
        return states | {name: torch.tensor(values, dtype=torch.int32) for name, values in whole.items()}

    def _step(self, parts: list[Slice], ends: Sequence[int]) -> None:
        decoder = self.model.decoder
        parts = sorted((p for p in parts if p.tokens == 1), key=lambda p: p.context_len) + [
            p for p in parts if p.tokens > 1
        ]
        batch = build_batch(Plan(parts), BLOCK, decoder.device)
        self.attention.begin(batch.attention)
        x, kept, done = F.embedding(batch.token_ids, decoder.embedding), [], 0
        for cut in self._cuts:
            x = decoder.through(x, batch.positions, self.attention, range(done, cut))
            kept.append(x.clone())
            done = cut
        chosen = sample(decoder.logits(x[batch.sample_rows]), [p.request.sampling_state for p in parts]).tolist()
        if BROKEN in chosen:
            raise not_finite("The logits of a text that the model writes to learn from are", decoder.dtype)
        row = 0
        for part, token in zip(parts, chosen, strict=True):
            request = part.request
            self._kept[request.index].append(tuple(tensor[row : row + part.tokens] for tensor in kept))
            row += part.tokens
            request.token_ids.append(token)
            if token in ends:
                request.end_reason = "stop"
            elif request.num_output_tokens >= request.max_tokens:
                request.end_reason = "length"


def _question(rng: random.Random) -> str:
    form = rng.choice(FORMS)
    asked = form.format(*(_subject(rng) for _ in range(form.count("{}"))))
    return f"{asked} {rng.choice(WISHES)}" if rng.random() < 0.2 else asked


def _subject(rng: random.Random) -> str:
    if rng.random() < 0.92:
        return rng.choice(SUBJECTS)
    return f"Python's {rng.choice(sorted(m for m in sys.stdlib_module_names if m[0] != '_'))} module"


def _invented(model: LoadedModel, rng: random.Random, count: int) -> list[str]:
    """Questions the target makes up: it writes on where its chat template expects the user."""
    opening, _, closing = _template(model)
    ends = set(closing[:1]) | set(model.shape.eos_token_ids) | set(model.tokenizer.encode("\n"))
    writer = Writer(model, (), count, len(opening) + 48)
    requests = [writer.request(i, opening, Sampling(temperature=1.0, top_p=0.95), rng) for i in range(count)]
    writer.run(requests, sorted(ends))
    texts = [model.tokenizer.decode([t for t in r.output_token_ids if t not in ends]).strip() for r in requests]
    return [text or _question(rng) for text in texts]


def _template(model: LoadedModel) -> tuple[list[int], list[int], list[int]]:
    """The chat template's tokens before, of and after a user's message."""
    first, second = (model.tokenizer.prompt(text, chat=True) for text in ("one", "two"))
    start = next(i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    tail = next(i for i in range(1, len(first)) if first[-i] != second[-i])
    return first[:start], first[start : len(first) - tail + 1], first[len(first) - tail + 1 :]


def _texts(model: LoadedModel, rng: random.Random) -> list[list[int]]:
    """Cuts of the language reference and of the standard library's source, half of each."""
    texts = []
    for number in range(SEQUENCES):
        source = rng.choice(_prose() if number % 2 else _code())
        at = rng.randrange(max(1, len(source) - 4 * LONGEST))
        texts.append(model.tokenizer.encode(source[at : at + 8 * LONGEST])[:LONGEST])
    return [ids for ids in texts if len(ids) > 8]


@cache
def _prose() -> tuple[str, ...]:
    from pydoc_data.topics import topics

    return tuple(topics[name] for name in sorted(topics))


@cache
def _code() -> tuple[str, ...]:
    sources = []
    for name in (
        "argparse",
        "ast",
        "calendar",
        "configparser",
        "csv",
        "datetime",
        "difflib",
        "heapq",
        "json.decoder",
        "shlex",
    ):
        spec = importlib.util.find_spec(name)
        source = spec.loader.get_source(name) if spec and spec.loader else None  # type: ignore[attr-defined]
        if source:
            sources.append(source)
    return tuple(sources)
