"""The optimisation of a head, which goes on where it was interrupted, and what the head reaches on texts it never
saw."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engine.config.errors import EngineError
from engine.speculation.head import POINTER
from engine.speculation.lookup import followed
from engine.training.corpus import UNSEEN_FILE, shard_path
from engine.training.head_training import LONGEST_MATCH, HeadTraining, Texts
from engine.training.recipe import CHECKPOINT, HELD_OUT, Recipe

MEASURED = 24  # sequences of each held-out shard
STEPS_AHEAD = 3
SAVE_EVERY_S = 60.0
WARM_UP = 20  # steps
POINTER_PACE = 50.0  # times the rate: a few numbers that have far to go


class Teaching:
    """The optimisation: its state lies in ``work/checkpoint.safetensors`` about every minute."""

    def __init__(self, head: HeadTraining, work: Path, recipe: Recipe) -> None:
        self.head, self.work, self.recipe = head, work, recipe
        self.step = 0
        self.seconds = 0.0
        self.losses: list[tuple[int, float]] = []
        self.resumed: list[tuple[int, int]] = []  # (step, steps planned from there on)
        self._texts = [text for n in recipe.training_shards for text in sequences(shard_path(work, n), head.reads)]
        self._round, self._order = -1, list[int]()
        self._parameters = list(head.weights.values())
        groups = [
            {"params": [w for name, w in head.weights.items() if (name == POINTER) == pointer], "pace": pace}
            for pointer, pace in ((False, 1.0), (True, POINTER_PACE))
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.95), weight_decay=0.0)
        if self._checkpoint.exists():
            self._resume()
        else:
            some = self._texts[:: max(1, len(self._texts) // 96)]
            with torch.no_grad(), head.device:
                head.start_from_least_squares([packed(some[i : i + 8]).to(head.device) for i in range(0, len(some), 8)])

    def run(self, progress: Progress) -> None:
        """Take the steps that are left."""
        recipe = self.recipe
        task = progress.add_task("training", total=recipe.steps, completed=self.step, says="")
        for parameter in self._parameters:
            parameter.requires_grad_()
        saved = started = time.monotonic()
        recent: list[float] = []
        before = self.seconds
        while self.step < recipe.steps:
            recent.append(self._learn())
            self.step += 1
            self.seconds = before + time.monotonic() - started
            if self.step % 10 == 0 or self.step == recipe.steps:
                self.losses.append((self.step, round(sum(recent) / len(recent), 4)))
                recent = []
            if time.monotonic() - saved > SAVE_EVERY_S or self.step == recipe.steps:
                self._save()
                saved = time.monotonic()
            progress.update(task, completed=self.step, says=f"loss {self.losses[-1][1]:.3f}" if self.losses else "")
        for parameter in self._parameters:
            parameter.requires_grad_(False)

    def _learn(self) -> float:
        share = self.step / self.recipe.steps
        rate = self.recipe.rate * min(1.0, (self.step + 1) / WARM_UP) * (1 - 0.95 * share)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["pace"]
        text = packed(self._drawn()).to(self.head.device)
        ahead = 1 if share < 0.6 else 2 if share < 0.8 else STEPS_AHEAD  # later guesses build on the first
        with self.head.device, torch.autocast(self.head.device.type, dtype=torch.bfloat16):
            outcome = self.head.outcome(text, ahead)
        outcome.loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(outcome.loss.detach())

    def _drawn(self) -> list[dict[str, torch.Tensor]]:
        """The next texts: all of them in an order that is another one each time round."""
        drawn = []
        for number in range(self.step * self.recipe.batch, (self.step + 1) * self.recipe.batch):
            rounds, place = divmod(number, len(self._texts))
            if rounds != self._round:
                self._round, self._order = rounds, list(range(len(self._texts)))
                random.Random(f"{self.recipe.seed} round {rounds}").shuffle(self._order)
            drawn.append(self._texts[self._order[place]])
        return drawn

    @torch.no_grad()
    def measure(self) -> dict[str, Any]:
        """How far guesses go on held-out answers, where these are what the target itself says."""
        held_out = {
            f"shard {number}, chat, questions like those trained on": shard_path(self.work, number)
            for number in HELD_OUT
            if number < self.recipe.shards
        }
        results = {}
        for name, path in {"unseen questions": self.work / UNSEEN_FILE, **held_out}.items():
            if not path.exists():
                continue
            texts = sequences(path, self.head.reads)[:MEASURED]
            tested = right = torch.zeros(STEPS_AHEAD)
            accepted = list[int]()
            for start in range(0, len(texts), 8):
                text = packed(texts[start : start + 8]).to(self.head.device)
                with self.head.device, torch.autocast(self.head.device.type, dtype=torch.bfloat16):
                    outcome = self.head.outcome(text, STEPS_AHEAD, measure=True)
                tested, right = tested + outcome.tested.cpu(), right + outcome.right.cpu()
                accepted += walked(text, outcome.guesses)
            results[name] = {
                "places": int(tested[0]),
                "acceptance_by_position": [round(float(r / t), 4) for r, t in zip(right, tested, strict=True)],
                "mean_accepted_of_3": round(float((right / tested[0]).sum()), 4),
                "mean_accepted_of_3_where_verifications_begin": round(sum(accepted) / max(1, len(accepted)), 4),
            }
        return results

    def facts(self) -> dict[str, Any]:
        return {"steps": self.step, "seconds": round(self.seconds, 1), "losses": self.losses, "resumed": self.resumed}

    @property
    def _checkpoint(self) -> Path:
        return self.work / CHECKPOINT

    def _save(self) -> None:
        tensors = {f"weight {name}": tensor.detach() for name, tensor in self.head.weights.items()}
        for name, tensor in self.head.weights.items():
            state = self._optimizer.state.get(tensor, {})
            tensors |= {f"{key} {name}": state[key] for key in ("exp_avg", "exp_avg_sq") if key in state}
        tensors["vocabulary"] = self.head.vocabulary
        about = {"step": self.step, "seconds": self.seconds, "losses": self.losses, "resumed": self.resumed}
        partial = self._checkpoint.with_suffix(".partial")
        save_file(tensors, partial, {"state": json.dumps(about)})
        partial.replace(self._checkpoint)

    def _resume(self) -> None:
        with safe_open(self._checkpoint, "pt") as file:
            about = json.loads(file.metadata()["state"])
            self._check_fits(file)
            for name, tensor in self.head.weights.items():
                tensor.copy_(file.get_tensor(f"weight {name}"))
                self._optimizer.state[tensor] = {
                    "step": torch.tensor(float(about["step"])),
                    "exp_avg": file.get_tensor(f"exp_avg {name}").to(self.head.device),
                    "exp_avg_sq": file.get_tensor(f"exp_avg_sq {name}").to(self.head.device),
                }
        self.step, self.seconds = about["step"], about["seconds"]
        self.losses = [tuple(entry) for entry in about["losses"]]
        self.resumed = [tuple(entry) for entry in about["resumed"]]
        if self.step < self.recipe.steps:
            self.resumed.append((self.step, self.recipe.steps))

    def _check_fits(self, file: Any) -> None:
        """That the checkpoint can be gone on from with this recipe; rate, steps, batch and shards may be others than
        before."""
        kept = file.get_tensor("vocabulary")
        shapes = {f"weight {name}": list(tensor.shape) for name, tensor in self.head.weights.items()}
        names = [name for name in file.keys() if name.startswith("weight ")]  # noqa: SIM118
        stored_shapes = {name: file.get_slice(name).get_shape() for name in names}
        size = min(self.recipe.vocabulary, self.head.shape.vocab)
        if len(kept) == size and torch.equal(kept, self.head.vocabulary.cpu()) and stored_shapes == shapes:
            return
        raise EngineError(
            "other-recipe",
            "work",
            str(self.work),
            f"the checkpoint there is of a head of another form: it guesses {len(kept)} tokens, this recipe {size}"
            + (", and its weights have other shapes." if stored_shapes != shapes else "."),
            f"Give another --work folder, or remove {CHECKPOINT} in it.",
        )


def walked(text: Texts, guesses: Sequence[torch.Tensor]) -> list[int]:
    """Guesses accepted by each verification, were the texts generated with them: the next chain starts behind the first
    that is wrong."""
    accepted = []
    ids, ahead = text.ids.tolist(), torch.stack(list(guesses), -1).tolist()
    for row, (prompt, length) in enumerate(zip(text.prompts.tolist(), text.lengths.tolist(), strict=True)):
        place = prompt - 1
        while place + 1 + len(guesses) < length:
            follows = ids[row][place + 2 :]
            right = next((n for n, guess in enumerate(ahead[row][place]) if guess != follows[n]), len(guesses))
            accepted.append(right)
            place += 1 + right
    return accepted


def sequences(path: Path, reads: Sequence[int]) -> list[dict[str, torch.Tensor]]:
    """The texts of a shard, one by one."""
    tensors = load_file(path)
    lengths = tensors.pop("lengths").tolist()
    wanted = ["ids", "final", *(f"at {layer}" for layer in reads)]
    cut: dict[str, Sequence[torch.Tensor]] = {name: tensors[name].split(lengths) for name in wanted}
    cut["prompts"] = tensors["prompts"].split(1) if "prompts" in tensors else torch.zeros(len(lengths)).split(1)
    return [{name: column[i] for name, column in cut.items()} for i in range(len(lengths))]


def packed(texts: Sequence[dict[str, torch.Tensor]]) -> Texts:
    """Texts side by side, padded to the longest."""
    lengths = torch.tensor([len(text["ids"]) for text in texts])
    columns = {
        name: torch.nn.utils.rnn.pad_sequence([text[name] for text in texts], batch_first=True) for name in texts[0]
    }
    at = tuple(column for name, column in columns.items() if name.startswith("at "))
    pointers = [followed(text["ids"].tolist(), LONGEST_MATCH) for text in texts]
    pointed, matched = (
        torch.nn.utils.rnn.pad_sequence([torch.tensor(p[i]) for p in pointers], batch_first=True) for i in (0, 1)
    )
    return Texts(
        columns["ids"].long(), lengths, columns["prompts"][:, 0].long(), columns["final"], at, pointed, matched
    )
