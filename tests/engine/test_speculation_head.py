"""The trained head: guesses as it was trained to, is refused beside other weights, and its training goes on where it stopped."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from rich.progress import Progress
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engine.config import EMBEDDED_MODEL, EngineConfig, RequestSpec, Sampling, Speculation
from engine.config.errors import EngineError
from engine.config.models import EMBEDDED_SHA256, sha256
from engine.model.checkpoint import Checkpoint
from engine.model.load import load, resolve
from engine.speculation.head import DEFAULT_HEAD, POINTER, Head, TrainedHead, check_head
from engine.start.prepare import prepare
from engine.training.corpus import Writer, shard_path
from engine.training.head_training import LONGEST_MATCH, HeadTraining, Texts
from engine.training.teaching import Teaching, packed, walked
from engine.training.train import main, vocabulary
from tests.engine.draft_models import READS, periodic, small_models, trained_head, write_texts
from tests.engine.serving import make_spec, serve


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Teaching]:
    folder = tmp_path_factory.mktemp("head")
    _, target, _ = small_models(folder)
    return target, *trained_head(target, folder / "head")


def asking(target: Path, head: Path | None, count: int = 3, k: int = 4, temperature: float = 0.0, **changes):
    config = EngineConfig(
        model=str(target),
        device="cpu",
        dtype="float32",
        threads=1,
        block_size=4,
        kv_blocks=256,
        sampling=Sampling(ignore_eos=True, temperature=temperature),
        check_integrity=True,
        speculation=Speculation(
            proposer="trained-head", control="fixed", k=k, head=None if head is None else str(head)
        ),
        **changes,
    )
    requests = [RequestSpec(request_id=str(i), prompt_token_ids=periodic(i), max_tokens=40) for i in range(count)]
    return make_spec(config, requests)


def test_the_engine_guesses_what_the_form_that_was_trained_guesses(trained, tmp_path: Path, monkeypatch):
    """The head computed token by token over the paged cache, against all chains of a text at once."""
    target, path, teaching = trained
    guessed: dict[tuple[int, int], list[int]] = {}
    propose = TrainedHead.propose

    def noted(self, requests, lengths):
        drafts = propose(self, requests, lengths)
        for request, draft in zip(requests, drafts, strict=True):
            guessed[request.index, len(request.token_ids)] = list(draft.tokens)
        return drafts

    monkeypatch.setattr(TrainedHead, "propose", noted)
    with safe_open(path, "pt") as file:
        for name, tensor in teaching.head.weights.items():
            tensor.copy_(file.get_tensor(name))  # rounded to bfloat16, as the engine reads them
    served = serve(asking(target, path, k=3), tmp_path)
    checked = 0
    for request in served:
        chains = chained_guesses(teaching.head, target, request.token_ids, 3)
        for (index, known), draft in guessed.items():
            if index != request.index or known > len(request.token_ids) - 4:
                continue
            for ahead, token in enumerate(draft):
                assert token == int(chains[ahead][0, known - 2])  # from the last place the target had computed
                checked += 1
                if token != request.token_ids[known + ahead]:
                    break  # what comes next builds on a guess that is not in the text
    assert checked > 40


def chained_guesses(head: HeadTraining, target: Path, ids: list[int], steps: int) -> list[torch.Tensor]:
    """The form that was trained, on a text and what the target makes of it."""
    loaded = load(resolve(str(target)), torch.device("cpu"), torch.float32)
    writer = Writer(loaded, READS, 1, len(ids) + 2)
    with torch.inference_mode():
        writer.run([writer.request(0, ids, Sampling(), random.Random(0))], ends=(), write=False)
    text = {name: tensor.clone() for name, tensor in writer.tensors().items() if name != "lengths"}
    with torch.no_grad():
        return head.outcome(packed([text]), steps, measure=True).guesses


def test_the_loss_is_that_of_the_mixture_and_so_is_its_gradient(trained):
    """The gradient that is written out by hand, against the one that torch finds for the same law."""
    _, _, teaching = trained
    head, generator = teaching.head, torch.Generator().manual_seed(3)
    count, tokens = 40, len(head.vocabulary)
    normed = torch.randn(count, head.shape.hidden, generator=generator).requires_grad_()
    wanted = 2 * torch.randn(count, tokens, generator=generator)
    pointed = torch.randint(-1, head.shape.vocab, (count,), generator=generator)
    matched = torch.randint(0, LONGEST_MATCH + 1, (count,), generator=generator) * (pointed >= 0)
    kept = head.weights[POINTER]
    pointer = torch.randn(LONGEST_MATCH + 1, generator=generator).requires_grad_()
    head.weights[POINTER] = pointer
    loss = head._divergence(normed, wanted, pointed, matched)
    head.weights[POINTER] = kept
    gradients = torch.autograd.grad(loss, (normed, pointer))

    place = torch.tensor([head.vocabulary.tolist().index(t) if t in head.vocabulary else -1 for t in pointed.tolist()])
    share = torch.where((matched > 0) & (place >= 0), pointer[matched].sigmoid(), 0.0)[:, None]
    assert 0 < int((share > 0).sum()) < int((matched > 0).sum()), "some point beyond what the layers can guess"
    one = torch.nn.functional.one_hot(place.clamp(min=0), tokens)
    law = (1 - share) * (normed @ head.head.T).softmax(-1) + share * one
    plain = -(wanted.softmax(-1) * law.log()).sum(-1).mean()
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(gradients, torch.autograd.grad(plain, (normed, pointer)))


def test_the_pointer_decides_some_guesses(trained, tmp_path: Path):
    target, path, _ = trained
    tensors = load_file(path)
    assert tensors[POINTER].shape == (LONGEST_MATCH + 1,)
    with safe_open(path, "pt") as file:
        about = file.metadata()
    accepted = {}
    for odds in (-20.0, 20.0):  # never followed, always followed
        changed = tmp_path / f"head {odds}.safetensors"
        save_file(tensors | {POINTER: torch.full_like(tensors[POINTER], odds)}, changed, about)
        served = serve(asking(target, changed, count=6, k=3), tmp_path / str(odds))
        accepted[odds] = sum(r.accepted_tokens for r in served) / sum(r.drafted_tokens for r in served)
    assert accepted[20.0] != accepted[-20.0]


def test_verifications_begin_behind_the_first_wrong_guess():
    ids = torch.tensor([[9, 9, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2]])
    wrong = torch.zeros_like(ids)
    after = [torch.cat((ids[:, 1 + n :], wrong[:, : 1 + n]), 1) for n in range(1, 4)]  # guess n of a chain, all right
    one_less = [after[0], wrong, after[2]]
    lengths, prompts = torch.tensor([12]), torch.tensor([2])
    texts = Texts(ids, lengths, prompts, torch.zeros(1, 12, 1), (), wrong, wrong)
    assert walked(texts, after) == [3, 3]  # from places 1 and 5; at place 9 too little is left
    assert walked(texts, one_less) == [1, 1, 1, 1]
    assert walked(texts, [wrong] * 3) == [0] * 7


def test_a_head_is_read_once_and_trying_it_out_leaves_nothing_behind(trained, tmp_path: Path, monkeypatch):
    target, path, _ = trained
    read, propose = Head.__init__, TrainedHead.propose
    heads: list[Head] = []
    guesses: list[list[list[int]]] = []

    def counted(self, *args):
        heads.append(self)
        read(self, *args)

    def noted(self, requests, lengths):
        drafts = propose(self, requests, lengths)
        guesses.append([list(draft.tokens) for draft in drafts])
        return drafts

    monkeypatch.setattr(Head, "__init__", counted)
    monkeypatch.setattr(TrainedHead, "propose", noted)
    spec = asking(target, path)
    warm, tried = [request.token_ids for request in serve(spec, tmp_path / "warm", tried_out=True)], list(guesses)
    assert len(heads) == 1
    guesses.clear()
    assert warm == [request.token_ids for request in serve(spec, tmp_path / "cold")]
    assert 0 < len(guesses) < len(tried)
    assert guesses == tried[-len(guesses) :]


def test_a_head_learns(trained, tmp_path: Path):
    target, path, teaching = trained
    for shard in path.parent.glob("shard-*"):
        shutil.copy(shard, tmp_path)
    head = HeadTraining(teaching.head.shape, Checkpoint(target), READS, teaching.head.vocabulary, 32)
    before = Teaching(head, tmp_path, teaching.recipe).measure()["shard 0, chat, questions like those trained on"]
    after = teaching.measure()["shard 0, chat, questions like those trained on"]
    assert after["places"] == before["places"] > 100
    assert after["mean_accepted_of_3"] > before["mean_accepted_of_3"] + 0.1
    assert after["mean_accepted_of_3"] > 0.5


@pytest.mark.rare
def test_training_goes_on_where_it_was_interrupted(trained, tmp_path: Path):
    """Forty steps at once and twenty, a new process, twenty more give the same weights."""
    target, path, teaching = trained
    folder = path.parent
    work = {name: tmp_path / name for name in ("whole", "parts")}
    for place in work.values():
        place.mkdir()
        for shard in folder.glob("shard-*"):
            shutil.copy(shard, place)
    recipe = dataclasses.replace(teaching.recipe, steps=20)

    def fresh(place: Path) -> Teaching:
        head = HeadTraining(teaching.head.shape, Checkpoint(target), READS, teaching.head.vocabulary, recipe.fuse_width)
        return Teaching(head, place, recipe)

    whole = fresh(work["whole"])
    run(whole)
    stopped = fresh(work["parts"])
    stopped._learn = interrupted_after(8, stopped)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run(stopped)
    again = fresh(work["parts"])
    assert again.step == 8
    run(again)
    assert again.losses[-1] == whole.losses[-1]
    for name, tensor in whole.head.weights.items():
        assert torch.equal(tensor, again.head.weights[name])


def test_training_goes_on_with_more_texts_and_the_tokens_it_began_with(trained, tmp_path: Path):
    target, path, teaching = trained
    for file in path.parent.iterdir():
        shutil.copy(file, tmp_path)
    more = dataclasses.replace(teaching.recipe, shards=6, steps=teaching.step + 2)
    write_texts(target, tmp_path, more.shards)
    shape = teaching.head.shape
    fewest = load_file(shard_path(tmp_path, 1))
    fewest["ids"] = torch.full_like(fewest["ids"], shape.vocab - 1)  # counted anew, the tokens would be others
    save_file(fewest, shard_path(tmp_path, 1))
    kept = vocabulary(tmp_path, more, shape)
    assert torch.equal(kept, teaching.head.vocabulary)
    again = Teaching(HeadTraining(shape, Checkpoint(target), READS, kept, more.fuse_width), tmp_path, more)
    assert again.step == teaching.step
    run(again)
    assert again.facts()["resumed"] == [(teaching.step, more.steps)]
    for other in (dataclasses.replace(more, vocabulary=90), dataclasses.replace(more, fuse_width=16)):
        head = HeadTraining(shape, Checkpoint(target), READS, kept, other.fuse_width)
        with pytest.raises(EngineError) as caught:
            Teaching(head, tmp_path, other)
        assert caught.value.kind == "other-recipe"


def interrupted_after(steps: int, teaching: Teaching):
    learn = Teaching._learn

    def counting() -> float:
        if teaching.step == steps:
            teaching._save()
            raise KeyboardInterrupt
        return learn(teaching)

    return counting


def run(teaching: Teaching) -> None:
    with Progress(disable=True) as progress:
        teaching.run(progress)


def test_random_weights_are_nothing_to_learn_from(capsys, tmp_path: Path):
    assert main(["--model", "random:tiny", "--work", str(tmp_path), "--out", str(tmp_path / "head.safetensors")]) == 1
    assert "trained model" in capsys.readouterr().err


# ---------------------------------------------------------------- the one that is shipped


def test_the_shipped_head_is_the_one_its_record_tells_of():
    record = json.loads(DEFAULT_HEAD.with_suffix(".json").read_text())
    about = check_head(DEFAULT_HEAD, resolve(EMBEDDED_MODEL), EMBEDDED_MODEL)
    assert record["file"]["sha256"] == sha256(DEFAULT_HEAD)
    assert record["file"]["bytes"] == DEFAULT_HEAD.stat().st_size < 20_000_000
    assert record["weights_sha256"] == json.loads(about["weights_sha256"]) == EMBEDDED_SHA256
    assert 0 <= record["training"]["steps"] - record["training"]["losses"][-1][0] < 10
    assert record["held_out"]["unseen questions"]["places"] > 1000


@pytest.mark.slow
def test_the_shipped_head_guesses_for_the_embedded_model(tmp_path: Path):
    config = EngineConfig(
        device="cpu",
        kv_blocks=64,
        recording="off",
        speculation=Speculation(proposer="trained-head", control="fixed", k=3),
    )
    questions = ("Why do stars twinkle?", "How is paper made?", "What should I cook tonight?")
    asked = [RequestSpec(request_id=q, prompt=q, chat=True, max_tokens=48) for q in questions]
    served = serve(make_spec(config, asked), tmp_path)
    drafted, accepted = sum(r.drafted_tokens for r in served), sum(r.accepted_tokens for r in served)
    assert accepted > 0.08 * drafted > 0


# ---------------------------------------------------------------- what cannot be


def test_a_head_is_refused_beside_other_weights(trained, tmp_path: Path):
    target, path, _ = trained
    other = tmp_path / "other"
    shutil.copytree(target, other)
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 1.001
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    prepare(asking(target, path))
    with pytest.raises(EngineError) as caught:
        prepare(asking(other, path))
    assert caught.value.kind == "other-weights"
    assert caught.value.field == "speculation.head"
    assert "python -m engine.training" in caught.value.mend


def test_a_head_that_is_none_is_refused(trained, tmp_path: Path):
    target, _, _ = trained
    (tmp_path / "text").write_text("no weights")
    for wrong in (tmp_path / "missing", tmp_path / "text", target / "model.safetensors"):
        with pytest.raises(EngineError) as caught:
            prepare(asking(target, wrong))
        assert caught.value.field == "speculation.head"
        assert caught.value.mend


def test_random_weights_have_no_head():
    with pytest.raises(EngineError) as caught:
        prepare(asking(Path("random:tiny"), DEFAULT_HEAD))
    assert caught.value.field == "speculation.head"
