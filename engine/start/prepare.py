"""From a spec to a loaded model and a checked workload."""

from __future__ import annotations

import torch

from engine.arrivals import Arrivals
from engine.config import EngineConfig, RunSpec
from engine.config.errors import EngineError
from engine.kv.codecs import make_codec
from engine.kv.quantized import Fixed
from engine.model.device import resolve_device, resolve_dtype, usual_threads
from engine.model.load import LoadedModel, load, resolve
from engine.phases import Progress, silent
from engine.start.attention import choose_backend, choose_reader, fitting_head
from engine.start.calibrate import calibrate, has_fp8
from engine.start.layouts import make_layout
from engine.start.prepared import Prepared
from engine.start.requests import bound_carried, check_any, make_requests
from engine.start.sizing import pool_size
from engine.start.speculation import check_speculation, load_guesser


def prepare(spec: RunSpec, progress: Progress = silent) -> Prepared:
    """Load the model and check which requests can be served; those that cannot know why (``Request.refusal``).

    Raises:
        EngineError: naming the setting that cannot be served and what would be right, or the request where none can be.
    """
    config = spec.engine
    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    # padding is computed by PyTorch's own operations
    asked = "gathered" if config.pads else config.attention_backend
    backend, notice = choose_backend(asked, device)
    if device.type == "cpu":
        torch.set_num_threads(config.threads or usual_threads())
    model = load(resolve(config.model), device, dtype, seed=config.seed, progress=progress)
    backend, larger = fitting_head(backend, asked, model.shape.head_dim)
    notices = [told for told in (notice, larger) if told]
    codec, fixed = None, Fixed()
    if config.kv_quantization is not None:
        codec = make_codec(config.kv_quantization, model.shape.head_dim, config.block_size)
        if codec.name == "fp8" and not has_fp8(device):
            notices.append("fp8 emulated")
        model, fixed = calibrate(model, config.kv_quantization, codec, config, progress)
    backend, why = choose_reader(backend, asked, model, codec, config)
    max_model_len = _max_model_len(config, model)
    progress("reading prompts", 0.0)
    requests = make_requests(spec, model, device, max_model_len)
    Arrivals(requests)  # raises where one waits for another in vain
    bound_carried(requests, max_model_len)
    check_any(requests)
    guesser = load_guesser(config, model, progress)
    models = [model, guesser] if isinstance(guesser, LoadedModel) else [model]
    servable = [r for r in requests if r.refusal is None]
    expected = servable if not spec.served else None
    layout = make_layout(config, models, codec, device, expected, max_model_len)
    size = pool_size(config, models, codec, device, expected, max_model_len, layout.blocks_of)
    for request in servable:
        request.refusal = layout.unfit(request, size.taken.blocks)
    check_any(requests)
    refused = sum(r.refusal is not None for r in requests)
    if refused:
        notices.append(f"{refused} of {len(requests)} requests refused")
    notices += _pretended(config)
    prepared = Prepared(
        spec,
        model,
        device,
        size,
        max_model_len,
        requests,
        backend,
        tuple(notices),
        guesser,
        codec,
        fixed,
        why,
        layout,
    )
    check_speculation(prepared)
    return prepared


def _pretended(config: EngineConfig) -> list[str]:
    """Labels: what is not as it would be."""
    told = []
    if config.speculation is not None and config.speculation.inject_bug != "none":
        told.append(f"known bug: {config.speculation.inject_bug}")
    linked = [asked for asked in (config.preemption, config.placement) if asked is not None]
    far = config.far_pool is not None and config.far_pool.has_link
    if far or any(asked.link_mb_per_s is not None and asked.reads("link_mb_per_s") for asked in linked):
        told.append("emulated link")
    if config.kv_tiers is not None and config.kv_tiers.has_disk and config.kv_tiers.link_gb_per_s is not None:
        told.append("emulated disk link")
    if config.kv_tiers is not None and config.kv_tiers.loses:
        told.append("lossy tier codec")
    return told


def _max_model_len(config: EngineConfig, model: LoadedModel) -> int:
    own = model.shape.max_position
    if config.max_model_len is not None and config.max_model_len > own:
        raise EngineError(
            "too-long",
            "max_model_len",
            config.max_model_len,
            f"the model was made for at most {own:,} tokens.",
            f"Set max_model_len to {own} or less.",
        )
    return config.max_model_len or own
