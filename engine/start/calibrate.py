"""How large keys and values are, found on text at start: scales of fp8, means of keys, and SmoothAttention's divisors.

Centring subtracts a constant m_c from channel c of every key: each score of a query q falls by the same q . m, so the
softmax stays what it was. Few channels of a key are large, and before the rotation by position those are large with one
sign nearly everywhere; without their mean the step is smaller. The rotation turns that mean with the place p, R(p) mu,
quickly in some channels and slowly in others, so the mean of the first few places is wrong for later ones: what is
subtracted is the mean of R(p) mu over the first ``PLACES`` places.

SmoothAttention (papers: QServe): channel c of a KV head's keys is divided by ``max |K_c| ^ alpha`` and the same channel
of its queries multiplied by it, so scores stay what they were. Both factors are folded into the projections before the
rotation, which turns the channels c and c + d/2 into each other, so the two share a factor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

from engine.config import EngineConfig, KVQuantization
from engine.config.errors import EngineError
from engine.kv.codecs import Codec
from engine.kv.codecs.forms import E4M3_MAX
from engine.kv.quantized import Fixed
from engine.model.assemble import GetTensor
from engine.model.decoder import Decoder
from engine.model.load import LoadedModel, load, resolve
from engine.model.shape import ModelShape
from engine.phases import Progress
from engine.texts import prose

HEADROOM = 2.0  # what later text may be larger by; floating point loses nothing to it
PLACES = 4096  # of a sequence, that a mean key stands for


@dataclass(frozen=True)
class Magnitudes:
    """The largest keys (after the rotation) and values of some text, and the mean keys, [layers, kv_heads, head_dim]
    float32 each."""

    keys: torch.Tensor
    values: torch.Tensor
    mean_keys: torch.Tensor

    def smoothed(self, divisors: torch.Tensor) -> Magnitudes:
        """Of the same text with the divisors folded into the weights."""
        return Magnitudes(self.keys / divisors, self.values, self.mean_keys / divisors)

    def fp8_scales(self) -> torch.Tensor:
        """[layers, 2, kv_heads]: numbers divided by them use the format's range, with some headroom."""
        largest = torch.stack((self.keys.amax(-1), self.values.amax(-1)), 1)
        return (largest * HEADROOM / E4M3_MAX).clamp_(min=1e-12)

    def divisors(self, alpha: float) -> torch.Tensor:
        """What channels of keys are divided by, [layers, kv_heads, head_dim]; the channels of a rotated pair are
        alike."""
        first, second = self.keys.chunk(2, -1)
        pair = torch.maximum(first, second).clamp_(min=1e-4) ** alpha
        return torch.cat((pair, pair), -1)


class Probe:
    """Dense causal attention over one sequence that notes how large keys and values are, or hands them on."""

    def __init__(self, shape: ModelShape, look: Callable[[int, torch.Tensor, torch.Tensor], None]) -> None:
        self._group = shape.heads // shape.kv_heads
        self._look = look

    def forward(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        self._look(layer, k, v)
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return out[0].transpose(0, 1).flatten(1)


@torch.inference_mode()
def measure(decoder: Decoder, token_ids: list[int]) -> Magnitudes:
    """Read the text and note the largest number of each channel, and the mean key before the rotation, for the mean
    over places."""
    shape, rope = decoder.shape, decoder.rope
    ids = torch.tensor(token_ids, device=decoder.device)
    places = torch.arange(len(ids), device=decoder.device)
    cos, sin = (part.float() for part in rope.at(places))
    largest = torch.zeros(2, shape.layers, shape.kv_heads, shape.head_dim)
    mean = torch.zeros(shape.layers, shape.kv_heads, shape.head_dim)

    def look(layer: int, k: torch.Tensor, v: torch.Tensor) -> None:
        for side, x in enumerate((k, v)):
            largest[side, layer] = x.float().abs().amax(0).cpu()
        mean[layer] = rope.rotate(k.float(), (cos, -sin)).mean(0).cpu()

    decoder.forward(ids, places, Probe(shape, look))
    everywhere = rope.table[:PLACES].float().mean(0).cpu()  # [2, 1, head_dim]
    return Magnitudes(largest[0], largest[1], rope.rotate(mean, (everywhere[0], everywhere[1])))


def calibrate(
    model: LoadedModel, asked: KVQuantization, codec: Codec, config: EngineConfig, progress: Progress
) -> tuple[LoadedModel, Fixed]:
    """The model with smoothing folded in, and a codec's scales and means, found on text; the model as it is where none
    is asked for.

    Raises:
        EngineError: the text is shorter than a block.
    """
    if not asked.calibrates:
        return model, Fixed()
    progress("calibrating", 0.0)
    most = min(asked.calibration_tokens, model.shape.max_position)
    ids = model.tokenizer.encode(prose("calibration")[: 8 * most + 256])[:most]
    check_length(len(ids), config.block_size, asked.calibration_tokens)
    extent = measure(model.decoder, ids)
    if asked.smooth:
        divisors = extent.divisors(asked.smooth)
        source = resolve(config.model)
        fold = partial(smoothed, divisors=divisors)
        model = load(source, model.device, model.dtype, seed=config.seed, progress=progress, fold=fold)
        smooth_norms(model.decoder, divisors)
        extent = extent.smoothed(divisors)
    scales = extent.fp8_scales() if codec.fixed_scales else None
    return model, Fixed(scales, extent.mean_keys if asked.centres else None)


def has_fp8(device: torch.device) -> bool:
    """Whether the device computes with 8-bit floating point."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def check_length(tokens: int, block_size: int, asked: int) -> None:
    """Raises EngineError where the calibration text is shorter than a block."""
    if tokens < block_size:
        raise EngineError(
            "short-calibration",
            "kv_quantization.calibration_tokens",
            asked,
            f"the calibration text has {tokens} tokens, less than one block of {block_size}.",
            f"Set it to {block_size} or more.",
        )


def smoothed(get: GetTensor, shape: ModelShape, divisors: torch.Tensor) -> GetTensor:
    """Weights as ``get`` returns them, with the divisors [layers, kv_heads, head_dim] folded in.

    A model that norms the heads of queries and keys undoes what was folded into its projections: there the norm's
    weights take it (``smooth_norms``).
    """
    if shape.qk_norm:
        return get

    def folded(name: str, expected: tuple[int, ...]) -> torch.Tensor:
        tensor = get(name, expected)
        if ".q_proj." not in name and ".k_proj." not in name:
            return tensor
        factors = _factors(divisors[int(name.split(".")[2])].to(tensor.device), shape)
        factor = factors[: shape.heads] if ".q_proj." in name else factors[shape.heads :]
        return (tensor.float() * factor.reshape(-1, *[1] * (tensor.dim() - 1))).to(tensor.dtype)

    return folded


def smooth_norms(decoder: Decoder, divisors: torch.Tensor) -> None:
    """Fold the divisors into the norms of queries and keys, where the model has them."""
    for layer, own in zip(decoder.layers, divisors, strict=True):
        if layer.qk_norm is not None:
            weight = layer.qk_norm.weight
            weight.copy_((weight.float() * _factors(own.to(weight.device), decoder.shape)).to(weight.dtype))


def _factors(divisors: torch.Tensor, shape: ModelShape) -> torch.Tensor:
    """What queries and then keys are multiplied by, [heads + kv_heads, head_dim]."""
    return torch.cat((divisors.repeat_interleave(shape.heads // shape.kv_heads, 0), 1 / divisors))
