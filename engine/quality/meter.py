"""The meter: one model, several codecs, each against full precision.

Everything is measured as a served token would meet it: every token attends to the cache as it is stored. Definitions:

    perplexity   exp of the mean of -log p(token | all before it) over held text
    KL           mean over positions of sum_t p(t) log(p(t) / p^(t)), p full precision, p^ the codec, in nats
    agreement    share of positions whose most likely token is the same
    divergence   first place where greedy continuations of the same prompt differ
    error        ||x - x^|| / ||x|| over all keys, or values, of one layer and head
    chunking     what changes when the same text is read in other pieces (engine/quality/chunking.py)
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field

from engine.config import EngineConfig, KVQuantization
from engine.config.errors import EngineError
from engine.config.settings import Settings
from engine.finite import not_finite
from engine.kv.codecs import Codec, make_codec
from engine.kv.codecs.rotation import hadamard
from engine.kv.quantized import Fixed
from engine.model.device import resolve_device, resolve_dtype
from engine.model.load import LoadedModel, load, resolve
from engine.phases import Progress, silent
from engine.quality.chunking import sensitivity
from engine.quality.needles import DEPTHS, find, hide
from engine.quality.reading import ROWS, Reader
from engine.start.calibrate import calibrate, has_fp8
from engine.texts import prose

PROMPT = 48  # tokens of text that each greedy continuation starts from


class QualitySpec(Settings):
    """What to measure: the model and device of ``engine``, and the codecs by name."""

    engine: EngineConfig = EngineConfig()
    codecs: dict[str, KVQuantization] = Field(min_length=1, max_length=16)
    tokens: int = Field(512, ge=32, le=65_536, description="Of held text.")
    prompts: int = Field(4, ge=0, le=64, description="Greedy continuations.")
    new_tokens: int = Field(48, ge=1, le=4096, description="Of each continuation.")
    needle_tokens: int = Field(256, ge=0, le=65_536, description="Of each text with a hidden fact; 0: none.")


@dataclass(frozen=True)
class Reference:
    """What full precision makes of the same texts."""

    hidden: torch.Tensor
    nll: torch.Tensor
    continuations: list[list[int]]
    needles: list[dict[str, Any]]
    chunking: dict[str, Any]


class QualityMeter:
    """Measures the codecs of a spec one after the other."""

    def __init__(self, spec: QualitySpec, progress: Progress = silent) -> None:
        self.spec = spec
        self._progress = progress
        config = spec.engine
        self._device = resolve_device(config.device)
        if self._device.type == "cpu" and config.threads:
            torch.set_num_threads(config.threads)
        dtype = resolve_dtype(config.dtype, self._device)
        progress("loading the model", 0.0)
        self.model = load(resolve(config.model), self._device, dtype, seed=config.seed)
        encode = self.model.tokenizer.encode
        needed = max(spec.tokens, spec.needle_tokens) + spec.prompts * PROMPT
        self._ids = encode(prose("held")[: 8 * needed + 1000])
        self._most = min(self.model.shape.max_position, len(self._ids))
        for name, asked in (("tokens", spec.tokens), ("needle_tokens", spec.needle_tokens)):
            if asked > self._most:
                raise EngineError(
                    "too-long",
                    name,
                    asked,
                    f"the model reads {self.model.shape.max_position:,} tokens, and {len(self._ids):,} are held back.",
                    f"Set it to {self._most} or less.",
                )
        self._text = self._ids[: spec.tokens]
        start = max(0, len(self._ids) - spec.prompts * PROMPT)
        self._prompts = [self._ids[start + i * PROMPT : start + (i + 1) * PROMPT] for i in range(spec.prompts)]
        self._needles = []
        if spec.needle_tokens:
            bare = _without_start(encode)
            self._needles = [(depth, *hide(bare, self._ids, spec.needle_tokens, depth)) for depth in DEPTHS]

    def measure(self) -> dict[str, Any]:
        """Every codec against full precision."""
        spec, shape = self.spec, self.model.shape
        steps = len(spec.codecs) + 1
        self._progress("reading at full precision", 0.0)
        reader = Reader(self.model, spec.engine.block_size)
        reference = self._reference(reader)
        full_bytes = shape.kv_bytes_per_token(self.model.dtype.itemsize)
        codecs = []
        for number, (name, asked) in enumerate(spec.codecs.items(), 1):
            self._progress(f"reading with {name}", number / steps)
            codecs.append(self._codec(name, asked, reader, reference, full_bytes))
        self._progress("done", 1.0)
        labels = [*self.model.labels]
        if any(asked.codec == "fp8" for asked in spec.codecs.values()) and not has_fp8(self._device):
            labels.append("fp8 emulated")
        return {
            "model": spec.engine.model,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(self._device),
            "block_size": spec.engine.block_size,
            "seed": spec.engine.seed,
            "labels": labels,
            "text": f"pydoc_data.topics of Python {platform.python_version()}, the half that is held back",
            "tokens": len(self._text),
            "new_tokens": spec.new_tokens,
            "needle_tokens": spec.needle_tokens,
            "layers": shape.layers,
            "kv_heads": shape.kv_heads,
            "full": {
                "perplexity": float(reference.nll.mean().exp()),
                "bytes_per_token": full_bytes,
                "needles": reference.needles,
                "chunking": reference.chunking,
            },
            "codecs": codecs,
        }

    def _reference(self, reader: Reader) -> Reference:
        reading = reader.read(self._text)
        nll = self._nll(reader, reading.hidden, "at full precision")
        continuations = reader.write_on(self._prompts, self.spec.new_tokens) if self._prompts else []
        chunking = sensitivity(reader, self._text, reading)
        return Reference(reading.hidden, nll, continuations, self._search(reader), chunking)

    def _codec(
        self, name: str, asked: KVQuantization, full: Reader, reference: Reference, full_bytes: float
    ) -> dict[str, Any]:
        config, shape = self.spec.engine, self.model.shape
        codec = make_codec(asked, shape.head_dim, config.block_size)
        model, fixed = calibrate(self.model, asked, codec, config, lambda phase, share: None)
        reader = Reader(model, config.block_size, codec, fixed)
        reading = reader.read(self._text)
        nll = self._nll(reader, reading.hidden, f"with {name}")
        kl, agreement = self._laws(full, reader, reference.hidden, reading.hidden)
        continuations = reader.write_on(self._prompts, self.spec.new_tokens) if self._prompts else []
        per_token = codec.bytes_per_block(shape.layers, shape.kv_heads, shape.head_dim, config.block_size)
        bytes_per_token = per_token / config.block_size
        perplexity, before = float(nll.mean().exp()), float(reference.nll.mean().exp())
        keys, values = head_errors(model, reader, codec, fixed, self._text)
        return {
            "name": name,
            "settings": asked.model_dump(mode="json"),
            "bits": codec.bits(shape.head_dim, config.block_size),
            "window": codec.window,
            "bytes_per_token": bytes_per_token,
            "capacity": full_bytes / bytes_per_token,
            "perplexity": perplexity,
            "perplexity_change": perplexity / before - 1,
            "kl": kl,
            "agreement": agreement,
            **_divergence(reference.continuations, continuations),
            "key_error": keys,
            "value_error": values,
            "needles": self._search(reader),
            "chunking": sensitivity(reader, self._text, reading),
        }

    def _nll(self, reader: Reader, hidden: torch.Tensor, how: str) -> torch.Tensor:
        """Minus the log-probability of each token of the text. Raises ``EngineError`` where these are no numbers."""
        nll = reader.nll(hidden, self._text)
        if not bool(torch.isfinite(nll).all()):
            raise not_finite(f"The logits of the text read {how} are", self.model.dtype)
        return nll

    def _laws(self, full: Reader, packed: Reader, a: torch.Tensor, b: torch.Tensor) -> tuple[float, float]:
        """Mean KL divergence of the next-token laws in nats, and how often the most likely token is the same."""
        kl = agreed = 0.0
        for rows in _pieces(len(a), ROWS):
            p, q = full.logits(a[rows]).log_softmax(-1), packed.logits(b[rows]).log_softmax(-1)
            kl += float((p.exp() * (p - q)).sum())
            agreed += float((p.argmax(-1) == q.argmax(-1)).sum())
        return max(0.0, kl / len(a)), agreed / len(a)

    def _search(self, reader: Reader) -> list[dict[str, Any]]:
        return [{"depth": depth, **find(reader, ids, start)} for depth, ids, start in self._needles]


@torch.inference_mode()
def head_errors(
    model: LoadedModel, reader: Reader, codec: Codec, fixed: Fixed, ids: Sequence[int]
) -> tuple[list[list[float]], list[list[float]]]:
    """Relative error of packed keys and values per layer and head, over the text's whole windows.

    Of a model with smoothing folded in, the keys are those it stores: the error is relative to them.
    """
    unit = max(codec.window, codec.keys.span, codec.values.span)
    whole = len(ids) // unit * unit
    errors = []
    for side, x in enumerate(reader.keys_and_values(ids)):
        x = x[:, :, :whole]
        packed = x - fixed.centre[:, :, None] if side == 0 and fixed.centre is not None else x
        packed = packed @ hadamard(x.shape[-1]) if codec.rotates else packed
        per_layer = []
        for layer in range(model.shape.layers):
            scale = None if fixed.scales is None else fixed.scales[layer, side][:, None, None]
            per_layer.append(codec.round_trip(packed[layer], side, scale) if whole else packed[layer])
        back = torch.stack(per_layer)
        difference = (back - packed).flatten(2).norm(dim=-1)
        errors.append((difference / x.flatten(2).norm(dim=-1).clamp_(min=1e-9)).tolist())
    return errors[0], errors[1]


def _divergence(full: Sequence[Sequence[int]], packed: Sequence[Sequence[int]]) -> Mapping[str, Any]:
    """Where greedy continuations part: per prompt the number of equal tokens at the start, and the share of all that
    this is."""
    equal = [
        next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))
        for a, b in zip(full, packed, strict=True)
    ]
    total = sum(map(len, full))
    return {"first_divergence": equal, "greedy_agreement": sum(equal) / total if total else None}


def _pieces(count: int, size: int) -> Iterator[slice]:
    return (slice(at, min(count, at + size)) for at in range(0, count, size))


def _without_start(encode: Callable[[str], list[int]]) -> Callable[[str], list[int]]:
    """Token ids of a piece of text, without what the tokenizer puts at the start of every prompt."""
    start = encode("")
    return lambda text: encode(text)[len(start) :]
