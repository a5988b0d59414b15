"""Fixtures shared by all rooms."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.examples import SOAKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Custom kernels are interpreted where there is no GPU; Triton reads this when it is first imported.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")
# A shell without job control has what it starts in the background ignore Ctrl-C, and so would everything that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Tests run beside each other, a process for each core: more threads within one only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import engine  # noqa: F401  # first: it tells the OpenMP runtime how to wait, before any test loads torch


@pytest.fixture(scope="session")
def embedded_model_dir() -> Path:
    """The embedded model as a Hugging Face style directory, converted on first use."""
    from engine.config import EMBEDDED_MODEL
    from engine.model.load import model_directory, resolve

    return model_directory(resolve(EMBEDDED_MODEL))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One for every test of a process: a second beside it would find the first one's event loop running."""
    from tests.browser.chromium import open_browser

    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="session", autouse=True)
def workers_of_all_tests_share_one_environment() -> Iterator[None]:
    """Engine processes are forked from one that was started in the same environment, and pytest puts each test's name
    into ours."""
    from app.runs import process

    with pytest.MonkeyPatch.context() as patch:
        ours = process.worker_environment
        patch.setattr(process, "worker_environment", lambda: without(ours(), "PYTEST_CURRENT_TEST"))
        yield


def without(environment: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in environment.items() if key != name}


HEAVY_FIRST = (
    "test_live_page",
    "test_form_page",
    "test_finished_page",
    "test_compare_page",
    "test_experiment",
    "test_queue",
    "test_cli",
    "test_house",
    "test_lab_kills",
    "test_tokens",
    "test_triton_packed",
    "test_kernels_compile",
    "test_kv_quality",
    "test_accessibility",
    "test_papers_page",
    "test_exports",
    "test_speculation_tokens",
    "test_codecs_page",
    "test_exactly_once",
    "test_page_papers",
    "test_report",
    "test_triton_shared",
    "test_triton_attention",
    "test_worker",
    "test_sign_in",
    "test_page_live",
    "test_server",
    "test_missing_runs",
    "test_model_embedded",
)
"""Files of a minute and more, longest first: begun last, one of them is waited for while the other processes have nothing to do."""


def heaviness(item: pytest.Item) -> int:
    name = item.path.stem
    return HEAVY_FIRST.index(name) if name in HEAVY_FIRST else len(HEAVY_FIRST)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=heaviness)
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
