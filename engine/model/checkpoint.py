"""Weights in safetensors files: mapped, never copied whole, checked before anything is built on them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from engine.config.errors import EngineError
from engine.model import config_file
from engine.model.reading import read_json
from engine.model.shape import EMBEDDING, HEAD, ModelShape
from engine.model.source import refuse_pickle

_ONE_FILE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_ADAPTER = "adapter_config.json"
_HARMLESS = (".rotary_emb.inv_freq",)  # ends of names; old checkpoints store what follows from config.json


class Checkpoint:
    """The tensors of one model's directory, by name."""

    def __init__(self, directory: Path) -> None:
        """
        Raises:
            EngineError: no weights, only pickled ones, a missing shard, or a damaged file.
        """
        self.directory = directory
        self._where: dict[str, Any] = {}
        self._alias: dict[str, str] = {}
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
            if twice := self._where.keys() & handle.keys():
                raise self._bad(f"Tensor {min(twice)} is in two files.", "Keep the files of one copy of the model.")
            self._where.update(dict.fromkeys(handle.keys(), handle))

    def agree(self, shape: ModelShape) -> ModelShape:
        """The shape as the tensors have it: every one of them is used, known to change nothing, or refused by name.

        An lm head that differs from the embedding it should share is used as it is; where only the head is stored, it
        is the embedding, too. Both as in transformers 5.

        Raises:
            EngineError: a tensor is missing, or is there and would be left out.
        """
        if shape.tied and HEAD in self._where:
            if EMBEDDING not in self._where:
                self._alias[EMBEDDING] = HEAD
            elif not torch.equal(self._tensor(EMBEDDING), self._tensor(HEAD)):
                shape = replace(shape, tied=False)
        expected = shape.tensors
        self._check_head_width(shape)
        for name, dims in expected.items():
            self._check_dims(name, dims)
        for name in sorted(self._where.keys() - expected.keys() - {HEAD}):
            if not name.endswith(_HARMLESS):
                message = (
                    f"Tensor {name} belongs to no model that config.json describes; without it, the model would be "
                    "another."
                )
                raise self._bad(
                    message, "Get config.json and the weights from one place, or choose a model without it."
                )
        return shape

    def get(self, name: str, expected: tuple[int, ...]) -> torch.Tensor:
        """A tensor as stored, mapped from its file.

        Raises:
            EngineError: it is missing or has another shape.
        """
        self._check_dims(name, expected)
        tensor = self._tensor(name)
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise self._bad(f"Tensor {name} holds {kind}.", "Use the full-precision checkpoint or a GGUF file.")
        return tensor

    def _handle(self, name: str) -> Any:
        name = self._alias.get(name, name)
        if name not in self._where:
            raise EngineError(
                "missing-weights",
                "model",
                str(self.directory),
                f"Tensor {name} is missing.",
                "The files do not hold the whole model that config.json describes; get a complete copy.",
            )
        return self._where[name]

    def _dims(self, name: str) -> tuple[int, ...]:
        return tuple(self._handle(name).get_slice(self._alias.get(name, name)).get_shape())

    def _check_dims(self, name: str, expected: tuple[int, ...]) -> None:
        if (dims := self._dims(name)) != expected:
            raise self._bad(
                f"Tensor {name} is {list(dims)}, but config.json asks for {list(expected)}.",
                "The weights and config.json belong to different models; get both from one place.",
            )

    def _check_head_width(self, shape: ModelShape) -> None:
        """Heads that are normed say how wide they are: a clearer word than projections of another width."""
        norm = "model.layers.0.self_attn.q_norm.weight"
        if shape.qk_norm and norm in self._where and self._dims(norm) != (shape.head_dim,):
            width = math.prod(self._dims(norm))
            message = (
                f"The heads of the weights are {width} wide; config.json says {shape.head_dim}, or nothing, which is "
                "128 for Qwen3."
            )
            raise config_file.bad("head_dim", shape.head_dim, message, f"Set it to {width}.")

    def _tensor(self, name: str) -> torch.Tensor:
        return self._handle(name).get_tensor(self._alias.get(name, name))

    def _bad(self, message: str, mend: str) -> EngineError:
        return EngineError("bad-weights", "model", str(self.directory), message, mend)

    def _files(self) -> list[Path]:
        if (self.directory / _ADAPTER).is_file():
            raise self._bad(
                f"{_ADAPTER} says that an adapter belongs to the weights.", "Merge it into them, or take the file out."
            )
        if (self.directory / _ONE_FILE).is_file():
            return [self.directory / _ONE_FILE]
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
        for path in sorted(self.directory.glob("*")):
            refuse_pickle(path)
        raise EngineError(
            "missing-weights",
            "model",
            str(self.directory),
            f"There is neither {_ONE_FILE} nor {_INDEX} in this directory.",
            "Give a directory that holds the weights as safetensors.",
        )
