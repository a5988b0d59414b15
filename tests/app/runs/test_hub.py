"""What is begun from a shown run never fetches a model: the run's settings may be a stranger's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from app.errors import LabError
from app.lab import Lab
from app.runs.hub import require_models_here
from app.views.start import flipped
from engine.config import EngineConfig, Speculation
from tests.app.lab_process import lab_here
from tests.app.small_runs import small_spec

STRANGER = "nobody-at-all/no-such-model"


@pytest.fixture(autouse=True)
def no_fetch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache, and a hub that must not be asked."""
    real = huggingface_hub.snapshot_download

    def only_local(*arguments: Any, **options: Any) -> str:
        assert options.get("local_files_only"), "the hub was asked"
        return real(*arguments, cache_dir=tmp_path, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", only_local)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with lab_here(tmp_path / "home") as opened:
        yield opened


@pytest.mark.parametrize(
    ("engine", "field"),
    [
        (EngineConfig(model=STRANGER), "model"),
        (
            EngineConfig(speculation=Speculation(proposer="draft-model", draft_model=STRANGER)),
            "speculation.draft_model",
        ),
    ],
)
def test_a_model_that_would_have_to_be_fetched_is_refused_by_name(engine: EngineConfig, field: str) -> None:
    with pytest.raises(LabError) as caught:
        require_models_here(engine)
    assert (caught.value.kind, caught.value.field, caught.value.value) == ("model-not-here", field, STRANGER)


@pytest.mark.parametrize("model", ["smollm2-135m-instruct", "random:tiny", "/nowhere/model.gguf", "."])
def test_any_other_model_is_left_to_the_engine(model: str) -> None:
    require_models_here(EngineConfig(model=model))


def test_run_again_queues_nothing_that_would_be_fetched(lab: Lab) -> None:
    spec = small_spec()
    imported = spec.model_copy(update={"engine": spec.engine.model_copy(update={"model": STRANGER})})
    with pytest.raises(LabError, match="not on this machine"):
        lab.submit_like(flipped(imported, "prefix_sharing", "again", 0))
    assert lab.home.run_ids() == []
