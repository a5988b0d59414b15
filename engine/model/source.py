"""Where a model comes from: its name, turned into files on this machine or a shape for random weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.config.errors import EngineError
from engine.config.models import (
    EMBEDDED_MODEL,
    EMBEDDED_SHA256,
    HUB_FILES,
    embedded_gguf,
    hub_cached,
    is_hub_name,
    unknown_model,
)
from engine.model.shape import RANDOM


@dataclass(frozen=True)
class ModelSource:
    """A model that was found; nothing of it has been read yet."""

    name: str  # as it was asked for
    kind: Literal["directory", "gguf", "random"]
    path: Path | None = None  # the directory or the GGUF file
    sha256: str | None = None  # what a GGUF file must hash to, where that is known
    shape: str | None = None  # key into ``shape.RANDOM``


def resolve(name: str) -> ModelSource:
    """Find a model by the name in ``EngineConfig.model``.

    Raises:
        EngineError: there is no such model, or its weights are in a format that is refused.
    """
    if name == EMBEDDED_MODEL:
        return ModelSource(name, "gguf", embedded_gguf(), EMBEDDED_SHA256)
    if name.startswith("random:"):
        shape = name.removeprefix("random:")
        if shape not in RANDOM:
            raise unknown_model(
                name, "There is no such shape.", f"Choose one of: {', '.join('random:' + key for key in RANDOM)}."
            )
        return ModelSource(name, "random", shape=shape)
    path = Path(name).expanduser()
    if name and path.is_dir():
        return ModelSource(name, "directory", path)
    if path.is_file():
        if path.suffix == ".gguf":
            return ModelSource(name, "gguf", path)
        refuse_pickle(path)
        raise unknown_model(
            name, "This file is neither a directory nor a GGUF file.", "Give the directory that holds config.json."
        )
    if is_hub_name(name):
        return ModelSource(name, "directory", _from_hub(name))
    raise unknown_model(
        name,
        "There is no such model.",
        f"Give {EMBEDDED_MODEL}, a directory, a .gguf file, a hub name (owner/name), or random:SHAPE.",
    )


def refuse_pickle(path: Path) -> None:
    """Raise for the file formats whose reading can run code."""
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"):
        raise EngineError(
            "pickle",
            "model",
            str(path),
            "Pickled weights can run any code when read; they are refused.",
            "Convert them to safetensors (save_pretrained of transformers does it), or get a copy that has them.",
        )


def _from_hub(name: str) -> Path:
    """A snapshot of the model's safetensors, from the local cache first, then over the network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    if (cached := hub_cached(name)) is not None:
        return cached
    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except RepositoryNotFoundError:
        raise unknown_model(
            name, "The hub has no such model, or it needs a login.", "Check the name's spelling."
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise unknown_model(
            name,
            f"It is not on this machine, and the hub did not answer ({type(error).__name__}).",
            "Check the name and the network, or give a local directory.",
        ) from error
