"""Fixtures of the engine's tests."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def telling():
    """Random weights so large that a token depends on all it attends to; drawn as usual, every answer repeats one token."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.model.load._INITIAL_SCALE", 0.3)
        yield
