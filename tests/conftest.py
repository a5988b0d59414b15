"""Fixtures shared by all rooms."""

from __future__ import annotations

import os
from collections import Counter
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


SOAKING = "SERVESCOPE_SOAK_ROUNDS" in os.environ


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    cases: Counter[str] = Counter()
    for item in items:
        if "soak" in item.path.parts:
            item.add_marker(pytest.mark.soak)
        sampled = item.get_closest_marker("sampled")
        if sampled is not None:
            (every,) = sampled.args
            function = item.nodeid.partition("[")[0]
            if cases[function] % every:
                item.add_marker(pytest.mark.rare)
            cases[function] += 1
        if not SOAKING and item.get_closest_marker("rare"):
            item.add_marker(pytest.mark.skip(reason="slow and rarely tells: make soak runs it"))
