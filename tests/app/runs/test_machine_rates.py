"""This machine's rates: measured once, kept, never while a run has the device; and what a sized run says of them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from filelock import FileLock
from streamlit.testing.v1 import AppTest

import app.runs.machine_rates
from app.experiments.file import create_experiment, read_experiment
from app.experiments.plan import Variant, plan
from app.home import Home
from app.lab import Lab, set_lab
from app.locks import LabAddress
from app.runs.folder import create_run, read_spec
from app.runs.machine_rates import DISTURBED_KEEP_S, kept_rates, machine_rates, rates_dir
from app.server.serve import PAGE
from app.words.plain import plain
from engine.config import EngineConfig
from engine.config.rates import MachineRates
from scenarios import build
from telemetry.status import write_status
from tests.app.commands.test_cli import servescope

TINY = EngineConfig(model="random:tiny", device="cpu", threads=1)
RATES = MachineRates(prefill_tokens_per_s=900, step_ms=25, batch_step_ms=42)
SCENARIO = """
title: Sized
summary: Requests at half of what this machine can serve.
question: Who waits?
engine: {model: "random:tiny", device: cpu, threads: 1, recording: "off"}
workload:
  groups:
    users:
      requests: 3
      arrivals: {kind: interval, every_s: 100}
      output_tokens: 4
      sized_by: {load: 0.5}
"""
LAB = str(PAGE)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("SERVESCOPE_CACHE", str(tmp_path / "cache"))
    return Home(tmp_path / "home").prepare()


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> list[EngineConfig]:
    """What was measured, by a stand-in for the process that does."""
    done: list[EngineConfig] = []

    def measure(config: EngineConfig) -> MachineRates:
        done.append(config)
        return RATES

    monkeypatch.setattr(app.runs.machine_rates, "_measure", measure)
    return done


def test_rates_are_measured_for_real_and_then_kept(home: Home, monkeypatch: pytest.MonkeyPatch):
    told: list[str] = []
    rates = machine_rates(home, TINY, told.append)
    assert rates is not None
    assert rates.batch_step_ms > 0
    assert rates.tokens_per_word > 2  # bytes, with a random model
    assert told == ["Measuring how fast this machine serves random:tiny, once."]
    monkeypatch.setattr(app.runs.machine_rates, "_measure", lambda config: pytest.fail("measured again"))
    assert machine_rates(home, TINY, told.append) == rates
    assert [about["rates"] for about in kept_rates()] == [rates.model_dump()]


def test_each_number_format_and_number_of_threads_has_its_own_rates(home: Home, measurements: list[EngineConfig]):
    for changes in ({}, {"dtype": "float32"}, {"threads": 2}, {}, {"seed": 3}, {"kv_blocks": 9}):
        machine_rates(home, TINY.model_copy(update=changes))
    assert [(config.dtype, config.threads) for config in measurements] == [("auto", 1), ("float32", 1), ("auto", 2)]


def test_rates_of_a_busy_machine_are_measured_again_after_a_while(home: Home, monkeypatch: pytest.MonkeyPatch):
    busy = RATES.model_copy(update={"others_share": 0.7})
    monkeypatch.setattr(app.runs.machine_rates, "_measure", lambda config: busy)
    assert machine_rates(home, TINY) == busy
    assert "other processes took 70%" in busy.in_words
    (place,) = rates_dir().glob("*.json")
    about = json.loads(place.read_text())
    about["measured_unix_ns"] = time.time_ns() - round((DISTURBED_KEEP_S + 1) * 1e9)
    place.write_text(json.dumps(about))
    monkeypatch.setattr(app.runs.machine_rates, "_measure", lambda config: RATES)
    assert machine_rates(home, TINY) == RATES


@pytest.mark.parametrize("text", ["{", "[]", '{"rates": {"step_ms": "x"}}', '{"rates": null}'])
def test_a_damaged_file_is_measured_anew(home: Home, measurements: list[EngineConfig], text: str):
    machine_rates(home, TINY)
    (place,) = rates_dir().glob("*.json")
    place.write_text(text)
    assert machine_rates(home, TINY) == RATES
    assert len(measurements) == 2


def test_nothing_is_measured_while_a_run_has_the_device(home: Home, measurements: list[EngineConfig]):
    told: list[str] = []
    with FileLock(home.locks / "cpu.lock", thread_local=False):
        assert machine_rates(home, TINY, told.append, wait_s=0.05) is None
    assert not measurements
    assert "another run has the device" in told[-1]


def test_a_model_that_cannot_be_loaded_is_left_to_the_run_to_refuse(home: Home):
    told: list[str] = []
    assert machine_rates(home, TINY.model_copy(update={"model": "random:nothing"}), told.append) is None
    assert "no such shape" in told[-1]


def test_a_sized_run_says_in_one_line_what_was_measured_and_chosen(home: Home, tmp_path: Path):
    (tmp_path / "sized.yaml").write_text(SCENARIO, encoding="utf-8")
    done = servescope(home, "run", str(tmp_path / "sized.yaml"), "--json")
    result = json.loads(done.stdout)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Sized to this machine")]
    spec = read_spec(home.run_dir(result["run_id"]))
    assert line == spec.sizing.in_words
    assert "50% of what it can serve" in line
    assert spec.requests[1].arrival_ns < 100e9


def test_the_doctor_says_how_fast_each_model_is_served_here(home: Home, measurements: list[EngineConfig]):
    from app.doctor import _speed

    assert "first asks" in next(_speed()).detail
    machine_rates(home, TINY)
    (check,) = _speed()
    assert check.detail.startswith("random:tiny on cpu (auto, 1 threads)")
    assert "whole prompts 900 tokens/s" in check.detail


def test_a_comparison_is_sized_once_for_all_its_variants(home: Home, tmp_path: Path, measurements: list[EngineConfig]):
    variants = [Variant("on"), Variant("off", {"chunked_prefill": "off", "dtype": "float32"})]
    experiment, specs = plan("starter", variants, 1, measure=app.runs.machine_rates.measure_for(home))
    assert len(measurements) == 1
    assert specs["on"].requests == specs["off"].requests
    assert specs["on"].sizing == specs["off"].sizing
    create_experiment(home, experiment, specs)
    assert read_experiment(home, experiment.experiment_id).sizing == specs["on"].sizing.in_words


def test_the_page_of_a_run_says_how_it_was_sized(home: Home):
    lab = Lab(home, LabAddress.fresh("127.0.0.1", 0))
    set_lab(lab)
    lab.start()
    try:
        spec = build("chat", run_id="sized", measure=lambda config: RATES)
        write_status(create_run(home, spec), state="cancelled")
        page = AppTest.from_file(LAB, default_timeout=60)
        page.query_params["run"] = "sized"
        captions = [str(caption.value) for caption in page.run().caption]
    finally:
        lab.stop()
        set_lab(None)
    assert plain(spec.sizing.in_words) in captions
    assert json.loads((home.run_dir("sized") / "spec.json").read_bytes())["sizing"]["groups"]["chat"]["load"] == 0.7
