"""Measuring quality from the command line and for a run: what is asked, what comes back, what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from app.errors import LabError
from app.panels.kv_quantization import measure as measuring
from app.panels.kv_quantization.quality_charts import beside_each_other, error_map, room_and_loss
from app.theme import LIGHT
from engine.config import EngineConfig, KVQuantization

TINY = EngineConfig(model="random:tiny", device="cpu", dtype="float32", threads=1)
SIZES = {"tokens": 64, "prompts": 1, "new_tokens": 4, "needle_tokens": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A measurement that ran to its end."""
    folder = tmp_path_factory.mktemp("quality")
    codecs = measuring.codecs_for(TINY, ["int8", "int4"])
    process = measuring.start(folder, measuring.spec_of(TINY, codecs, **SIZES))
    assert measuring.is_measuring(folder)
    assert process.wait(120) == 0
    return folder


def test_a_measurement_leaves_its_result_and_says_how_it_went(folder: Path) -> None:
    result, progress = measuring.result_in(folder), measuring.progress_of(folder)
    assert [codec["name"] for codec in result["codecs"]] == ["int8", "int4"]
    assert result["labels"] == ["random weights"]
    assert (progress.phase, progress.share, progress.error) == ("done", 1.0, None)
    assert not measuring.is_measuring(folder)


def test_a_measurement_that_cannot_be_says_why(tmp_path: Path) -> None:
    engine = TINY.model_copy(update={"model": "/nowhere/at-all"})
    process = measuring.start(tmp_path, measuring.spec_of(engine, {"int8": KVQuantization()}, **SIZES))
    assert process.wait(120) == 1
    assert measuring.result_in(tmp_path) is None
    error = measuring.progress_of(tmp_path).error
    assert error["field"] == "model"
    assert "/nowhere/at-all" in str(error["value"])


def test_a_folder_without_a_measurement_has_none(tmp_path: Path) -> None:
    assert measuring.progress_of(tmp_path) is None
    assert measuring.result_in(tmp_path) is None
    assert not measuring.is_measuring(tmp_path)


def test_the_codecs_to_measure_are_the_standard_ones_and_the_run_s_own() -> None:
    assert list(measuring.codecs_for(EngineConfig())) == list(measuring.STANDARD)
    own = EngineConfig(kv_quantization=KVQuantization(codec="int4", group=16))
    assert next(iter(measuring.codecs_for(own))) == "as set"
    assert "as set" not in measuring.codecs_for(EngineConfig(kv_quantization=KVQuantization()))
    odd = EngineConfig(block_size=48)  # no exact window of whole blocks
    assert not any(asked.codec == "kivi" for asked in measuring.codecs_for(odd).values())
    with pytest.raises(LabError, match="int3"):
        measuring.codecs_for(EngineConfig(), ["int3"])


def test_the_command_prints_one_object_and_keeps_it(tmp_path: Path, monkeypatch, capsys) -> None:
    from typer.testing import CliRunner

    from app.cli import app

    monkeypatch.setenv("SERVESCOPE_HOME", str(tmp_path))
    arguments = ["quality", "--set", "model=random:tiny", "--set", "device=cpu", "--codecs", "int8", "--tokens", "64",
                 "--prompts", "0", "--needle-tokens", "0", "--json"]  # fmt: skip
    started = time.monotonic()
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, (done.output, time.monotonic() - started)
    printed = json.loads(done.stdout)
    assert printed["codecs"][0]["name"] == "int8"
    assert json.loads(Path(printed["path"]).read_text())["codecs"] == printed["codecs"]
    refused = CliRunner().invoke(app, ["quality", "--codecs", "int3", "--json"])
    assert refused.exit_code == 1
    assert json.loads(refused.stdout)["error"]["value"] == "int3"


def test_a_signal_ends_the_process_that_measures(tmp_path: Path, monkeypatch) -> None:
    from typer.testing import CliRunner

    from app.cli import app

    begun: list[subprocess.Popen[bytes]] = []

    def start(folder: Path, spec: dict) -> subprocess.Popen[bytes]:
        begun.append(subprocess.Popen(["sleep", "60"], start_new_session=True))
        os.kill(os.getpid(), signal.SIGTERM)
        return begun[0]

    monkeypatch.setenv("SERVESCOPE_HOME", str(tmp_path))
    monkeypatch.setattr(measuring, "start", start)
    ended = CliRunner().invoke(app, ["quality", "--codecs", "int8"])
    assert ended.exit_code == 130
    assert begun[0].poll() == -signal.SIGTERM
    assert "nothing was measured" in ended.stderr


def test_charts_show_every_codec_and_every_head(folder: Path) -> None:
    codecs = measuring.result_in(folder)["codecs"]
    dots = room_and_loss(codecs, LIGHT).data[0]
    assert list(dots.text) == ["int8", "int4"]
    assert beside_each_other([2.0, 1.94, 3.2]) == ["bottom center", "top center", "top center"]
    assert list(dots.x) == [codec["capacity"] for codec in codecs]
    heads = error_map(codecs[1]["key_error"], LIGHT, most=1).data[0]
    assert (len(heads.z), len(heads.z[0])) == (2, 2)  # KV heads by layers
    assert heads.z[1][0] == codecs[1]["key_error"][0][1]
