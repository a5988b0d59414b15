"""A file that was taken in, or refused, does not stay in the lab's memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.testing.v1 import AppTest

from app.home import Home
from app.lab import set_lab


def page() -> None:
    from app.lab import get_lab
    from app.views.experiments import _import

    _import(get_lab())


def test_an_upload_is_forgotten_once_it_was_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[MemoryUploadedFileManager] = []
    add = MemoryUploadedFileManager.add_file
    monkeypatch.setattr(
        MemoryUploadedFileManager,
        "add_file",
        lambda self, *args, **named: (kept.append(self), add(self, *args, **named)),
    )
    set_lab(SimpleNamespace(home=Home(tmp_path).prepare()))  # type: ignore[arg-type]
    try:
        opened = AppTest.from_function(page, default_timeout=60).run()
        opened.file_uploader[0].upload("x.servescope", b"no archive" * 1000, "application/zip").run()
        assert kept[-1]._total_bytes == 10_000
        opened.button(key="import-now").click().run()
    finally:
        set_lab(None)
    assert [manager._total_bytes for manager in kept][-1] == 0
    assert opened.error[0].value, "the refusal is still said"
    assert opened.file_uploader[0].value is None
    assert list(tmp_path.glob(".upload-*")) == []
