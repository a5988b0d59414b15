"""Which attention backend a run gets."""

from __future__ import annotations

import importlib.util
import os

import torch

from engine.attention import AttentionBackend
from engine.attention.groups import GroupRule
from engine.attention.packed import check_reads, obstacle
from engine.attention.rectangle import RectangleAttention
from engine.backends import make_attention
from engine.block_table import blocks_for
from engine.config import EngineConfig
from engine.config.errors import EngineError
from engine.kv.cache import KVCache
from engine.kv.codecs import Codec
from engine.model.load import LoadedModel
from engine.native.compile import lacking

LEAST_CAPABILITY = (8, 0)  # bfloat16 matrix units and asynchronous copies


def choose_backend(asked: str, device: torch.device) -> tuple[str, str | None]:
    """The backend's name, and a label for the run where it is not the one a GPU should have.

    ``auto``: the custom kernels on a GPU that can run them, the native ones on a CPU that can, else gathered.

    Raises:
        EngineError: ``triton`` or ``native`` is asked for by name and cannot run here.
    """
    if asked not in ("auto", "triton", "native"):
        return asked, None
    if asked == "auto" and device.type == "cpu":
        return "gathered" if lacking() else "native", None
    if asked == "native":
        obstacle = lacking() if device.type == "cpu" else "they are for CPUs"
        return _without_kernels(asked, obstacle, "native") if obstacle else ("native", None)
    obstacle = _obstacle(device)
    return _without_kernels(asked, obstacle) if obstacle else ("triton", None)


def fitting_head(backend: str, asked: str, head_dim: int) -> tuple[str, str | None]:
    """``backend`` for a model whose heads have this size, and a label for the run where that is another one.

    Raises:
        EngineError: ``triton`` is asked for by name and has no tile for such heads.
    """
    if backend != "triton":
        return backend, None
    from engine.gpu.attention.configs import largest_head_dim  # Triton may not be installed

    if head_dim <= largest_head_dim():
        return backend, None
    return _without_kernels(asked, f"heads of {head_dim} channels are larger than {largest_head_dim()}")


def choose_reader(
    backend: str, asked: str, model: LoadedModel, codec: Codec | None, config: EngineConfig
) -> tuple[str, str | None]:
    """A backend that serves this model and reads its cache: the one chosen, or the plain path where the choice was left
    open, and why.

    Raises:
        EngineError: another one is asked for by name.
    """
    if codec is not None and asked != "auto":
        check_reads(backend, codec, exact_prefill=exact_prefill(config))
    problem = None if codec is None else obstacle(backend, codec, exact_prefill=exact_prefill(config))
    if problem is None and backend == "native":
        problem = _unserved_natively(model, codec, config)
    if problem is None:
        return backend, None
    if asked != "auto":
        raise EngineError("no-kernels", "attention_backend", asked, f"{problem}.", "Set it to auto or gathered.")
    return "gathered", problem


def _unserved_natively(model: LoadedModel, codec: Codec | None, config: EngineConfig) -> str | None:
    """Why the native kernels do not serve this; None where they do."""
    from engine.native.attention import unread_codec, unread_model  # llvmlite may not be installed

    shape = model.shape
    widths = (shape.hidden, shape.intermediate, shape.head_dim // 2)
    if (problem := unread_model(model.dtype, *widths)) is not None:
        return f"the native kernels do not serve this model: {problem}"
    if config.shares_attention:
        return "the native kernels read every row by itself, shared-prefix attention does not"
    if config.far_pool is not None:
        return "the native kernels read one pool, and far_pool has two"
    if codec is not None and (problem := unread_codec(codec, shape.head_dim)) is not None:
        return f"the native kernels do not read codec {codec.name}: {problem}"
    return None


def make_run_attention(backend: str, config: EngineConfig, cache: KVCache, model: LoadedModel) -> AttentionBackend:
    """The run's attention over its cache."""
    heads = (model.shape.heads, model.shape.kv_heads, model.shape.head_dim)
    speculation = config.speculation
    if speculation is not None and config.pads_guesses:
        return RectangleAttention(cache, *heads, same_length=speculation.verification == "same-length")
    return make_attention(backend, cache, *heads, exact_prefill=exact_prefill(config), rule=group_rule(config))


def group_rule(config: EngineConfig) -> GroupRule | None:
    """When requests that share a prefix attend to it together; None: never."""
    sharing = config.prefix_sharing
    if sharing is None or not config.shares_attention:
        return None
    blocks = blocks_for(sharing.min_prefix_tokens, config.block_size)
    return GroupRule(sharing.attention == "tree", sharing.min_group, blocks)


def exact_prefill(config: EngineConfig) -> bool:
    """Whether a prompt's chunk attends to its own keys and values as they were before packing."""
    return config.kv_quantization is not None and config.kv_quantization.prefill == "exact"


def _without_kernels(asked: str, obstacle: str, kind: str = "custom") -> tuple[str, str]:
    """What takes their place, and the label that says so; they are refused where they were asked for by name."""
    if asked != "auto":
        raise EngineError(
            "no-kernels", "attention_backend", asked, f"The {kind} kernels cannot run: {obstacle}.", "Set it to auto."
        )
    return "gathered", f"no {kind} kernels: {obstacle}"


def _obstacle(device: torch.device) -> str | None:
    """Why the custom kernels cannot run on this device; None where they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if device.type == "cpu":
        return None if os.environ.get("TRITON_INTERPRET") == "1" else "they need a GPU"
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        return (
            f"compute capability {capability[0]}.{capability[1]} is below {LEAST_CAPABILITY[0]}.{LEAST_CAPABILITY[1]}"
        )
    return None
