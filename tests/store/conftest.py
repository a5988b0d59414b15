"""What tests of the store share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.store.crowded_run import Served, served_runs


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Two runs in which requests wait for blocks, budget and places. They are read, never changed."""
    with served_runs(tmp_path_factory.mktemp("crowded")) as runs:
        yield runs
