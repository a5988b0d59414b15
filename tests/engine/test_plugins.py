"""Modules from elsewhere are imported by name, from the environment or an installed package, or refused by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.config import EngineError, load_plugins


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path, with a module that works and one that does not."""
    (tmp_path / "sound_technique.py").write_text("loaded = True\n")
    (tmp_path / "broken_technique.py").write_text("raise ValueError('the name is taken')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("SERVESCOPE_PLUGINS", raising=False)
    yield tmp_path
    sys.modules.pop("sound_technique", None)


def test_the_environment_names_modules(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVESCOPE_PLUGINS", "sound_technique, json")
    assert load_plugins()[:2] == ["sound_technique", "json"]
    assert sys.modules["sound_technique"].loaded


def test_an_installed_package_names_its_module(elsewhere: Path) -> None:
    about = elsewhere / "sound-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: sound\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[servescope.techniques]\nsound = sound_technique\n")
    assert "sound_technique" in load_plugins()
    assert "sound_technique" in sys.modules


@pytest.mark.parametrize(
    ("module", "reason"), [("nowhere_technique", "No module"), ("broken_technique", "the name is taken")]
)
def test_a_module_that_cannot_be_imported_is_refused_by_name(
    module: str, reason: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVESCOPE_PLUGINS", module)
    with pytest.raises(EngineError, match=reason) as refused:
        load_plugins()
    assert (refused.value.kind, refused.value.field, refused.value.value) == (
        "bad-plugin", "SERVESCOPE_PLUGINS", module,
    )  # fmt: skip
    assert "PYTHONPATH" in refused.value.mend
