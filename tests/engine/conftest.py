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


@pytest.fixture(scope="module")
def lettered(tmp_path_factory: pytest.TempPathFactory):
    """A two-layer random Llama with grouped heads, and a token per letter for text to calibrate on; its folder."""
    from tests.engine.drawn import random_llama

    directory = tmp_path_factory.mktemp("lettered")
    letters = {chr(97 + i): 20 + i for i in range(26)}
    return random_llama(directory, seed=11, letters=letters, vocab_size=200, initializer_range=0.4), directory
