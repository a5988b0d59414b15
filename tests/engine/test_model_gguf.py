"""GGUF files become directories that mean the same model, completely or not at all."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.config.errors import EngineError
from engine.config.models import LAYOUT, MANIFEST, is_converted
from engine.model import gguf
from engine.model.load import load, model_directory, resolve
from engine.model.shape import RANDOM, ModelShape, RopeScaling
from tests.engine.full_attention import FullAttention
from tests.engine.gguf_files import CONTEXT, HEAD_DIM, TOKENS, write_gguf

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SERVESCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.gguf"
    write_gguf(path)
    return path


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_logits_are_those_transformers_gets_from_the_same_file(kind: str, tmp_path: Path):
    from transformers import AutoModelForCausalLM

    path = tmp_path / "small.gguf"
    write_gguf(path, kind)
    more = {"head_dim": HEAD_DIM} if kind == "qwen3" else {}  # transformers takes 128 whatever the file says
    expected = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32, **more).eval()
    ours = load(resolve(str(path)), CPU, torch.float32)
    ids = torch.arange(40) * 5 % len(TOKENS)
    with torch.inference_mode():
        logits = ours.decoder.logits(ours.decoder.forward(ids, torch.arange(40), FullAttention()))
        torch.testing.assert_close(logits, expected(ids[None]).logits[0], rtol=1e-4, atol=1e-3)
    assert ours.shape.eos_token_ids == (2,)


def test_weights_are_the_dequantised_ones_and_bf16_is_these_rounded(small: Path):
    import gguf as library

    directory = model_directory(resolve(str(small)))
    full, half = load_file(directory / "model.safetensors"), load_file(directory / "bf16" / "model.safetensors")
    assert full.keys() == half.keys()
    for name, tensor in full.items():
        assert torch.equal(tensor.to(torch.bfloat16), half[name]), name
    down = next(t for t in library.GGUFReader(str(small)).tensors if t.name == "blk.1.ffn_down.weight")
    expected = torch.from_numpy(library.quants.dequantize(down.data, down.tensor_type))
    assert torch.equal(full["model.layers.1.mlp.down_proj.weight"], expected)


def test_llama3_frequency_divisors_become_rope_scaling(tmp_path: Path):
    scaling = RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)
    shape = replace(RANDOM["tiny"], head_dim=HEAD_DIM, rope_scaling=scaling)
    write_gguf(tmp_path / "scaled.gguf", rope_factors=shape)
    directory = model_directory(resolve(str(tmp_path / "scaled.gguf")))
    read = ModelShape.from_config(json.loads((directory / "config.json").read_text()))
    assert (read.rope_scaling, read.max_position) == (scaling, CONTEXT)


def test_other_frequency_divisors_are_refused(tmp_path: Path):
    shape = replace(RANDOM["tiny"], head_dim=HEAD_DIM, rope_scaling=RopeScaling("linear", 3.0))
    write_gguf(tmp_path / "scaled.gguf", rope_factors=shape)
    with pytest.raises(EngineError, match="rotary frequencies"):
        model_directory(resolve(str(tmp_path / "scaled.gguf")))


def test_tokens_of_another_splitting_make_the_text_again(tmp_path: Path):
    write_gguf(tmp_path / "other.gguf", splitting="llama-bpe", keys={"tokenizer.ggml.add_bos_token": False})
    tokenizer = load(resolve(str(tmp_path / "other.gguf")), CPU, torch.float32).tokenizer
    assert tokenizer.encode("<|im_end|> the") == [2, TOKENS.index("Ġthe")]
    assert tokenizer.decode(tokenizer.encode("Grüße in the 12th")) == "Grüße in the 12th"


def test_a_second_start_converts_nothing(small: Path):
    phases: list[str] = []
    first = model_directory(resolve(str(small)), lambda phase, share: phases.append(phase))
    assert "converting" in phases
    phases.clear()
    assert model_directory(resolve(str(small)), lambda phase, share: phases.append(phase)) == first
    assert phases == []


@pytest.mark.parametrize("damage", ["cut", "removed", "no manifest", "by an older version"])
def test_a_damaged_conversion_is_made_anew(small: Path, damage: str):
    directory = model_directory(resolve(str(small)))
    before = (directory / "model.safetensors").read_bytes()
    if damage == "cut":
        os.truncate(directory / "model.safetensors", len(before) // 2)
    elif damage == "by an older version":
        manifest = json.loads((directory / MANIFEST).read_text())
        (directory / MANIFEST).write_text(json.dumps({**manifest, "layout": LAYOUT - 1}))
    else:
        (directory / ("tokenizer.json" if damage == "removed" else MANIFEST)).unlink()
    assert not is_converted(directory)
    assert model_directory(resolve(str(small))) == directory
    assert (directory / "model.safetensors").read_bytes() == before
    assert is_converted(directory, full=True)


def test_a_full_check_finds_a_flipped_bit(small: Path):
    directory = model_directory(resolve(str(small)))
    data = bytearray((directory / "model.safetensors").read_bytes())
    data[-3] ^= 1
    (directory / "model.safetensors").write_bytes(data)
    assert is_converted(directory)
    assert not is_converted(directory, full=True)


def test_a_killed_conversion_leaves_nothing_and_the_next_one_succeeds(small: Path, own_cache: Path):
    program = (
        "import os, signal, sys\n"
        "from engine.model.load import model_directory, resolve\n"
        "def kill(phase, share):\n"
        "    if phase == 'converting' and share > 0.5: os.kill(os.getpid(), signal.SIGKILL)\n"
        "model_directory(resolve(sys.argv[1]), kill)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(small)], cwd=Path.cwd())
    assert killed.returncode == -signal.SIGKILL
    assert [p.name for p in own_cache.iterdir() if not p.name.startswith(".")] == []
    assert any(p.name.endswith(".partial") for p in own_cache.iterdir())
    directory = model_directory(resolve(str(small)))
    assert is_converted(directory, full=True)
    assert not any(p.name.endswith(".partial") for p in own_cache.iterdir())


def _convert(path: str, results: multiprocessing.Queue) -> None:
    phases: list[str] = []
    directory = model_directory(resolve(path), lambda phase, share: phases.append(phase))
    results.put((str(directory), "converting" in phases))


def test_two_processes_at_once_convert_once(small: Path):
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    processes = [spawn.Process(target=_convert, args=(str(small), results)) for _ in range(2)]
    for process in processes:
        process.start()
    outcomes = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert len({directory for directory, _ in outcomes}) == 1
    assert [did for _, did in outcomes].count(True) == 1


def test_the_wrong_hash_is_refused_and_nothing_stays(small: Path, own_cache: Path):
    with pytest.raises(EngineError) as caught:
        gguf.converted(small, "small", "0" * 64, lambda phase, share: None)
    assert caught.value.kind == "bad-hash"
    assert "SHA-256" in str(caught.value)
    assert [p for p in own_cache.iterdir() if p.suffix != ".lock"] == []


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all" * 100], ids=["empty", "cut short", "text"])
def test_what_is_no_gguf_file_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(EngineError, match="not a readable GGUF file") as caught:
        model_directory(resolve(str(path)))
    assert caught.value.value == str(path)


def test_a_truncated_gguf_file_is_refused(small: Path):
    os.truncate(small, small.stat().st_size * 2 // 3)
    with pytest.raises(EngineError, match="not a readable GGUF file"):
        model_directory(resolve(str(small)))


def test_another_architecture_is_refused_by_name(tmp_path: Path):
    write_gguf(tmp_path / "other.gguf", "gemma2")
    with pytest.raises(EngineError, match="gemma2") as caught:
        model_directory(resolve(str(tmp_path / "other.gguf")))
    assert "qwen3" in caught.value.mend


FULL_DISK = """
import json, pathlib, subprocess, sys
from engine.config.errors import EngineError
from engine.model.load import model_directory, resolve
cache = pathlib.Path(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=" + sys.argv[3], "tmpfs", str(cache)], check=True)
def fill(phase, share):
    if phase == "converting" and not (cache / "filler").exists():
        try:
            (cache / "filler").write_bytes(bytes(1 << 24))
        except OSError:
            pass
try:
    model_directory(resolve(sys.argv[1]), fill)
except EngineError as error:
    left = [p.name for p in cache.rglob("*") if p.is_file() and p.stat().st_size]
    print(json.dumps([error.kind, str(error), left]))
"""


@pytest.mark.parametrize(("size", "words"), [("256k", "MB are free"), ("4m", "filled up")], ids=["before", "during"])
def test_a_full_disk_is_a_clear_error_that_leaves_nothing(small: Path, tmp_path: Path, size: str, words: str):
    (tmp_path / "cache").mkdir()
    unshare = shutil.which("unshare")
    command = [sys.executable, "-c", FULL_DISK, str(small), str(tmp_path / "cache"), size]
    if unshare is None or subprocess.run([unshare, "-rm", "true"], capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk needs unshare -rm, which is not permitted here")
    done = subprocess.run([unshare, "-rm", *command], capture_output=True, text=True, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    kind, message, left = json.loads(done.stdout)
    assert kind == "disk-full"
    assert words in message
    assert "SERVESCOPE_CACHE" in message
    assert set(left) <= {"filler"}


def test_a_cache_that_cannot_be_written_is_a_clear_error(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SERVESCOPE_CACHE", str(tmp_path / "file"))
    with pytest.raises(EngineError, match="SERVESCOPE_CACHE") as caught:
        model_directory(resolve(str(small)))
    assert caught.value.kind == "cache-unusable"
