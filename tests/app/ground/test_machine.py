"""Which device a run takes and which browser is used, found without importing torch."""

from __future__ import annotations

from pathlib import Path

import pytest

from app import chromium
from app.devices import device_key, gpu_count


@pytest.fixture(autouse=True)
def _forget() -> None:
    gpu_count.cache_clear()


@pytest.mark.parametrize(
    ("setting", "key"),
    [("cpu", "cpu"), ("cuda", "cuda-0"), ("cuda:0", "cuda-0"), ("cuda:3", "cuda-3"), ("auto", "cpu")],
)
def test_runs_on_one_device_share_a_key(setting: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device_key(setting) == key


@pytest.mark.parametrize("hidden", ["", " ", "-1"])
def test_hidden_gpus_do_not_count(hidden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert gpu_count() == 0


@pytest.mark.gpu
@pytest.mark.skipif(gpu_count() == 0, reason="no GPU here")
def test_auto_takes_the_first_gpu() -> None:
    assert gpu_count() > 0
    assert device_key("auto") == "cuda-0"


def test_the_browser_named_by_the_user_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "my-browser"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("SERVESCOPE_CHROMIUM", str(program))
    assert chromium.find_chromium() == program


def test_a_browser_that_is_named_and_missing_is_not_replaced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SERVESCOPE_CHROMIUM", "/nowhere/browser")
    assert chromium.find_chromium() is None
    assert chromium.main() == 1
    assert "apt-get install chromium" in capsys.readouterr().err


def test_any_known_browser_on_the_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SERVESCOPE_CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(chromium, "PLACES", ())
    assert chromium.find_chromium() is None
    program = tmp_path / "google-chrome"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert chromium.find_chromium() == program
