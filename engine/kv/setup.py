"""From the settings to what a packed cache needs: what text says about keys and values, and which backend reads the codec."""

from __future__ import annotations

from functools import partial

import torch

from engine.attention.packed import check_reads, obstacle
from engine.config import EngineConfig, KVQuantization
from engine.kv.codecs import Codec
from engine.kv.quantized import Fixed
from engine.model.load import LoadedModel, Progress, load, resolve
from engine.start.calibrate import check_length, measure, smooth_norms, smoothed
from engine.texts import prose


def calibrate(
    model: LoadedModel, asked: KVQuantization, codec: Codec, config: EngineConfig, progress: Progress
) -> tuple[LoadedModel, Fixed]:
    """The model with smoothing folded in, and a codec's scales and means, found on text; the model as it is where none is asked for.

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


def exact_prefill(config: EngineConfig) -> bool:
    return config.kv_quantization is not None and config.kv_quantization.prefill == "exact"


def choose_reader(backend: str, asked: str, codec: Codec, config: EngineConfig, notices: list[str]) -> str:
    """A backend that reads the codec: the one chosen, or the plain path where the choice was left open."""
    exact = exact_prefill(config)
    if asked != "auto":
        check_reads(backend, codec, exact_prefill=exact)
        return backend
    problem = obstacle(backend, codec, exact_prefill=exact)
    if problem:
        notices.append(f"no custom kernels: {problem}")
        return "gathered"
    return backend
