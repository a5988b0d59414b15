"""Which attention backend a run gets."""

from __future__ import annotations

import importlib.util
import os

import torch

from engine.config.errors import EngineError

LEAST_CAPABILITY = (8, 0)  # bfloat16 matrix units and asynchronous copies


def choose_backend(asked: str, device: torch.device) -> tuple[str, str | None]:
    """The backend's name, and a label for the run where it is not the one a GPU should have.

    ``auto``: the custom kernels on a GPU that can run them, else gathered.

    Raises:
        EngineError: ``triton`` is asked for by name and cannot run here.
    """
    if asked not in ("auto", "triton"):
        return asked, None
    if asked == "auto" and device.type == "cpu":
        return "gathered", None
    obstacle = _obstacle(device)
    return _without_kernels(asked, obstacle) if obstacle else ("triton", None)


def fitting_head(backend: str, asked: str, head_dim: int) -> tuple[str, str | None]:
    """``backend`` for a model whose heads have this size, and a label for the run where that is another one.

    Raises:
        EngineError: ``triton`` is asked for by name and has no tile for such heads.
    """
    if backend != "triton":
        return backend, None
    from engine.attention.triton.configs import largest_head_dim  # Triton may not be installed

    if head_dim <= largest_head_dim():
        return backend, None
    return _without_kernels(asked, f"heads of {head_dim} channels are larger than {largest_head_dim()}")


def _without_kernels(asked: str, obstacle: str) -> tuple[str, str]:
    """What takes their place, and the label that says so; they are refused where they were asked for by name."""
    if asked == "triton":
        raise EngineError(
            "no-kernels", "attention_backend", asked, f"The custom kernels cannot run: {obstacle}.", "Set it to auto."
        )
    return "gathered", f"no custom kernels: {obstacle}"


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
