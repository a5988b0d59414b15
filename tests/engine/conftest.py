"""Fixtures of the engine's tests."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

from tests.engine.interpreter import quicken

if os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton"):
    quicken()


@pytest.fixture(scope="module")
def telling():
    """Random weights so large that a token depends on all it attends to; drawn as usual, every answer repeats one token."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.model.load._INITIAL_SCALE", 0.3)
        yield
