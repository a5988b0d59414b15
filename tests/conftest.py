"""Fixtures shared by all rooms."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Custom kernels are interpreted where there is no GPU; Triton reads this when it is first imported.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import engine  # noqa: F401  # first: it tells the OpenMP runtime how to wait, before any test loads torch


@pytest.fixture(scope="session")
def embedded_model_dir() -> Path:
    """The embedded model as a Hugging Face style directory, converted on first use."""
    from engine.config import EMBEDDED_MODEL
    from engine.model.load import model_directory, resolve

    return model_directory(resolve(EMBEDDED_MODEL))
