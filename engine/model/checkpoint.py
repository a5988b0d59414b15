"""Weights in safetensors files: mapped, never copied whole, checked before anything is built on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from engine.errors import EngineError
from engine.model.source import refuse_pickle

_ONE_FILE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


def read_json(path: Path, *, required: bool = True) -> dict[str, Any]:
    """A JSON object from a model's directory; an empty one where an optional file is missing."""
    if not path.is_file():
        if not required:
            return {}
        raise EngineError(
            "missing-file",
            "model",
            str(path.parent),
            f"There is no {path.name} in this directory.",
            "Give the directory that save_pretrained or the hub made, with config.json and *.safetensors in it.",
        )
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise EngineError(
            "bad-file", "model", str(path), f"This is not valid JSON: {error}.", "Download it again."
        ) from error
    if not isinstance(content, dict):
        raise EngineError("bad-file", "model", str(path), "A JSON object is needed here.", "Download it again.")
    return content


class Checkpoint:
    """The tensors of one model's directory, by name."""

    def __init__(self, directory: Path) -> None:
        """
        Raises:
            EngineError: no weights, only pickled ones, a missing shard, or a damaged file.
        """
        self.directory = directory
        self._where: dict[str, Any] = {}
        for path in self._files():
            try:
                handle = safe_open(path, framework="pt", device="cpu")
            except (SafetensorError, OSError) as error:
                raise EngineError(
                    "bad-weights",
                    "model",
                    str(path),
                    f"This is not a whole safetensors file: {error}.",
                    "Download it again.",
                ) from error
            self._where.update(dict.fromkeys(handle.keys(), handle))

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def get(self, name: str, expected: tuple[int, ...]) -> torch.Tensor:
        """A tensor as stored, mapped from its file.

        Raises:
            EngineError: it is missing or has another shape.
        """
        if name not in self._where:
            raise EngineError(
                "missing-weights",
                "model",
                str(self.directory),
                f"Tensor {name} is missing.",
                "The files do not hold the whole model that config.json describes; get a complete copy.",
            )
        tensor = self._where[name].get_tensor(name)
        if tuple(tensor.shape) != expected:
            raise EngineError(
                "bad-weights",
                "model",
                str(self.directory),
                f"Tensor {name} is {list(tensor.shape)}, but config.json asks for {list(expected)}.",
                "The weights and config.json belong to different models; get both from one place.",
            )
        return tensor

    def _files(self) -> list[Path]:
        if (self.directory / _INDEX).is_file():
            shards = read_json(self.directory / _INDEX).get("weight_map")
            if not isinstance(shards, dict):
                raise EngineError(
                    "bad-file", "model", str(self.directory / _INDEX), "It has no weight_map.", "Download it again."
                )
            names = sorted({Path(str(shard)).name for shard in shards.values()})
            for name in names:
                if not (self.directory / name).is_file():
                    raise EngineError(
                        "missing-weights",
                        "model",
                        str(self.directory),
                        f"Shard {name} is missing.",
                        f"Put all {len(names)} files named in {_INDEX} into the directory.",
                    )
            return [self.directory / name for name in names]
        if (self.directory / _ONE_FILE).is_file():
            return [self.directory / _ONE_FILE]
        for path in sorted(self.directory.glob("*")):
            refuse_pickle(path)
        raise EngineError(
            "missing-weights",
            "model",
            str(self.directory),
            f"There is neither {_ONE_FILE} nor {_INDEX} in this directory.",
            "Give a directory that holds the weights as safetensors.",
        )
