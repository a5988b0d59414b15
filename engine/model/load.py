"""From a model's name to a decoder ready to run."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.model import gguf
from engine.model.assemble import GetTensor, build
from engine.model.checkpoint import Checkpoint
from engine.model.decoder import Decoder
from engine.model.memory import check_weights_fit
from engine.model.reading import read_json
from engine.model.shape import RANDOM, ModelShape
from engine.model.source import ModelSource, resolve
from engine.model.tokenizer import ByteTokenizer, Tokenizer
from engine.phases import Progress, silent

__all__ = ["LoadedModel", "checkpoint", "load", "model_directory", "resolve"]

Fold = Callable[[GetTensor, ModelShape], GetTensor]
_INITIAL_SCALE = 0.02  # standard deviation of random weights, as models of these families are initialised


@dataclass(frozen=True)
class LoadedModel:
    """A model on its device."""

    name: str
    shape: ModelShape
    decoder: Decoder
    tokenizer: Tokenizer | ByteTokenizer
    device: torch.device
    dtype: torch.dtype
    labels: tuple[str, ...]  # what every page must say about figures made with it

    @property
    def parameters(self) -> int:
        return self.shape.parameters

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that one forward pass reads (W of the theoretical peak)."""
        return self.shape.matmul_parameters * self.dtype.itemsize


def load(
    source: ModelSource,
    device: torch.device,
    dtype: torch.dtype,
    seed: int = 0,
    progress: Progress = silent,
    fold: Fold = lambda get, shape: get,
) -> LoadedModel:
    """Load a model that ``resolve`` found.

    Args:
        source: where it is.
        device: where it will run.
        dtype: weights and activations.
        seed: of random weights.
        progress: told (phase, share of the phase done).
        fold: changes weights on their way in.

    Raises:
        EngineError: something about the files is wrong or not covered.
    """
    if source.kind == "random":
        assert source.shape is not None
        shape = RANDOM[source.shape]
        check_weights_fit(shape, dtype, device)
        random = fold(_random_tensors(seed, device, dtype), shape)
        decoder = build(shape, random, lambda share: progress("loading weights", share))
        return LoadedModel(source.name, shape, decoder, ByteTokenizer(shape.vocab), device, dtype, ("random weights",))
    directory = model_directory(source, progress)
    shape, weights = checkpoint(directory, dtype)
    check_weights_fit(shape, dtype, device)

    def get(name: str, expected: tuple[int, ...]) -> torch.Tensor:
        return weights.get(name, expected).to(device=device, dtype=dtype)

    decoder = build(shape, fold(get, shape), lambda share: progress("loading weights", share))
    return LoadedModel(
        source.name, shape, decoder, Tokenizer.from_directory(directory, shape.eos_token_ids), device, dtype, ()
    )


def checkpoint(directory: Path, dtype: torch.dtype = torch.float32) -> tuple[ModelShape, Checkpoint]:
    """What a Hugging Face style directory holds: the shape its files agree on, and the weights.

    Raises:
        EngineError: a file is missing or damaged, or says something that would be left out.
    """
    shape = ModelShape.from_config(
        read_json(directory / "config.json"), read_json(directory / "generation_config.json", required=False)
    )
    rounded = directory / "bf16"
    weights = Checkpoint(rounded if dtype == torch.bfloat16 and rounded.is_dir() else directory)
    return weights.agree(shape), weights


def model_directory(source: ModelSource, progress: Progress = silent) -> Path:
    """The Hugging Face style directory of a source; a GGUF file is converted first where that has not been done."""
    assert source.path is not None
    if source.kind != "gguf":
        return source.path
    name = source.name if source.sha256 else re.sub(r"[^\w.-]+", "-", source.path.stem)[:80]
    return gguf.converted(source.path, name, source.sha256, progress)


def _random_tensors(seed: int, device: torch.device, dtype: torch.dtype) -> GetTensor:
    """Norms of one, biases of zero, all else drawn; a tensor depends on its name and the seed only."""

    def get(name: str, expected: tuple[int, ...]) -> torch.Tensor:
        if name.endswith("norm.weight"):
            return torch.ones(expected, device=device, dtype=dtype)
        if name.endswith(".bias"):
            return torch.zeros(expected, device=device, dtype=dtype)
        generator = torch.Generator(device).manual_seed(seed * 0x9E3779B1 + zlib.crc32(name.encode()))
        bound = _INITIAL_SCALE * 3**0.5
        return torch.empty(expected, device=device, dtype=dtype).uniform_(-bound, bound, generator=generator)

    return get
