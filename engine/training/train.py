"""Train a draft head for a model: ``python -m engine.training [--model NAME] [--out FILE]``.

Two stages, each of which goes on where it was interrupted: the target writes and reads texts
(``engine.training.corpus``), then the head learns to say what the target says (``engine.training.head_training``).
Written are the weights (safetensors) and beside them a record (JSON): data, steps, losses, what it reaches on texts it
never saw, machine and seconds. The record's numbers are also in the weights file, with the SHA-256 of the target's
weights: a head is refused beside any other weights.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engine.config import EMBEDDED_MODEL
from engine.config.errors import EngineError
from engine.config.models import sha256
from engine.model.device import resolve_device, resolve_dtype
from engine.model.load import checkpoint, load, model_directory, resolve
from engine.model.shape import ModelShape
from engine.speculation.head import DEFAULT_HEAD, FORMAT, weights_sha256
from engine.training.corpus import KINDS, LONGEST, UNSEEN_FILE, shard_path, write_shard, write_unseen
from engine.training.head_training import HeadTraining
from engine.training.recipe import CHECKPOINT, Recipe
from engine.training.teaching import Teaching
from telemetry.machine import environment
from telemetry.refusal import in_words


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=EMBEDDED_MODEL, help="the target, named as the setting model is")
    parser.add_argument(
        "--out", type=Path, default=DEFAULT_HEAD, help="the weights file; the record gets its name with .json"
    )
    parser.add_argument("--work", type=Path, default=Path(".head-training"), help="folder of texts and checkpoints")
    parser.add_argument("--shards", type=int, default=48, help="of text, about 10,000 tokens each")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=8, help="sequences per step")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=10240)
    parser.add_argument("--fuse-width", type=int, default=768)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(words)
    if options.threads:
        torch.set_num_threads(options.threads)
    names = ("shards", "steps", "batch", "rate", "layers", "vocabulary", "fuse_width", "seed")
    recipe = Recipe(**{name: getattr(options, name) for name in names})
    try:
        train(options.model, options.out, options.work, recipe, options.device)
    except EngineError as error:
        print(f"{error.field}: {in_words(error)}", file=sys.stderr)
        return 1
    return 0


def train(model: str, out: Path, work: Path, recipe: Recipe, device: str = "auto") -> dict[str, Any]:
    """Collect, train and write; returns the record.

    Raises:
        EngineError: the model cannot be loaded, or has only random weights.
    """
    source = resolve(model)
    if source.kind == "random":
        raise EngineError(
            "random-weights", "model", model, "random weights have nothing to learn from.", "Give a trained model."
        )
    work.mkdir(parents=True, exist_ok=True)
    directory = model_directory(source)
    shape, weights = checkpoint(directory)
    reads = list(range(shape.layers - recipe.layers, shape.layers))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[says]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        collecting = collect(model, work, reads, recipe, device, progress)
        head = HeadTraining(
            shape,
            weights,
            reads,
            vocabulary(work, recipe, shape),
            recipe.fuse_width,
            resolve_device(device),
        )
        teaching = Teaching(head, work, recipe)
        teaching.run(progress)
    record = {
        "model": model,
        "weights_sha256": weights_sha256(source),
        "format": FORMAT,
        "reads_layers": reads,
        "recipe": vars(recipe)
        | {"texts": "answers to questions the target made up and questions from lists; prose and code"},
        "data": corpus_facts(work, recipe) | {"longest_sequence": LONGEST, "seconds": round(collecting, 1)},
        "training": teaching.facts(),
        "held_out": teaching.measure(),
        "hardware": environment(torch_version=torch.__version__, device=str(resolve_device(device)))
        | {"threads": torch.get_num_threads()},
    }
    write(out, teaching.head, record)
    return record


def collect(model: str, work: Path, reads: Sequence[int], recipe: Recipe, device: str, progress: Progress) -> float:
    """Make the shards that are missing; returns the seconds that all of them took, earlier runs included."""
    note = work / "collecting.json"
    spent = float(json.loads(note.read_text())["seconds"]) if note.exists() else 0.0
    task = progress.add_task("texts", total=recipe.shards, says="")
    missing = [n for n in range(recipe.shards) if not shard_path(work, n).exists()]
    progress.update(task, completed=recipe.shards - len(missing))
    if not missing and (work / UNSEEN_FILE).exists():
        return spent
    on = resolve_device(device)
    loaded = load(resolve(model), on, resolve_dtype("auto", on))
    for number in missing:
        start = time.monotonic()
        done = recipe.shards - len(missing) + missing.index(number)
        write_shard(loaded, work, number, reads, recipe.seed, _mover(progress, task, done))
        spent += time.monotonic() - start
        note.write_text(json.dumps({"seconds": spent}))
    write_unseen(loaded, work, reads)
    progress.update(task, completed=recipe.shards)
    return spent


def _mover(progress: Progress, task: TaskID, done: int) -> Callable[[float], None]:
    return lambda share: progress.update(task, completed=done + share)


def vocabulary(work: Path, recipe: Recipe, shape: ModelShape) -> torch.Tensor:
    """The most frequent tokens of the texts; among those that never occur, the low ids: vocabularies are sorted by
    frequency.

    Training that was begun keeps the one it began with, whatever texts came since.
    """
    if (work / CHECKPOINT).exists():
        with safe_open(work / CHECKPOINT, "pt") as file:
            return file.get_tensor("vocabulary").long()
    counts = torch.zeros(shape.vocab)
    for number in recipe.training_shards:
        ids = load_file(shard_path(work, number))["ids"].long()
        counts.scatter_add_(0, ids, torch.ones(len(ids)))
    counts += 1 / (2 + torch.arange(shape.vocab))
    return counts.topk(min(recipe.vocabulary, shape.vocab)).indices.sort().values


def kind_of(shard: Path) -> str:
    with safe_open(shard, "pt") as file:
        return (file.metadata() or {}).get("kind", KINDS[0])


def corpus_facts(work: Path, recipe: Recipe) -> dict[str, Any]:
    tokens: dict[str, int] = {}
    count = 0
    for number in recipe.training_shards:
        lengths = load_file(shard_path(work, number))["lengths"]
        kind = kind_of(shard_path(work, number))
        tokens[kind] = tokens.get(kind, 0) + int(lengths.sum())
        count += len(lengths)
    return {"sequences": count, "tokens": tokens}


def write(out: Path, head: HeadTraining, record: dict[str, Any]) -> None:
    """The weights in bfloat16 with the record in their header, and the record as a file of its own."""
    out.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().to("cpu", torch.bfloat16).contiguous() for name, tensor in head.weights.items()}
    tensors["vocabulary"] = head.vocabulary.to("cpu", torch.int32)
    header = {
        name: json.dumps(record[name]) for name in ("format", "model", "weights_sha256", "reads_layers", "recipe")
    }
    save_file(tensors, out, header)
    out.chmod(0o644)
    parameters = sum(tensor.numel() for name, tensor in tensors.items() if name != "vocabulary")
    facts = {"parameters": parameters, "bytes": out.stat().st_size, "sha256": sha256(out)}
    out.with_suffix(".json").write_text(json.dumps(record | {"file": facts}, indent=1) + "\n")
