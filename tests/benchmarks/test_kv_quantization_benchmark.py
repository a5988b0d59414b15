"""The KV quantization benchmark goes through on a tiny model, and says what it should."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import kv_quantization


def test_every_part_runs_and_reports(tmp_path: Path, monkeypatch) -> None:
    for name, value in (("REQUESTS", 8), ("PROMPT", 64), ("OUTPUT", 8), ("POOL", 24)):
        monkeypatch.setattr(kv_quantization, name, value)
    file = tmp_path / "result.json"
    assert kv_quantization.main(["--model", "random:tiny", "--repeats", "1", "--json", str(file)]) == 0
    figures = {figure["name"]: figure for figure in json.loads(file.read_text())["figures"]}
    # heads of 16 channels: int8 takes 9 bits, so 16 / 9 times the requests fit where 5 blocks each were the limit
    assert figures["room of int8 against its bits"]["value"] > 0.9
    assert figures["requests in flight, int8 / none"]["value"] > 1.3
    assert figures["requests in flight, int4 / none"]["value"] >= figures["requests in flight, int8 / none"]["value"]
    assert {name for name in figures if name.startswith("store")} == {
        f"store, {codec} / none" for codec in kv_quantization.CODECS if codec != "none"
    }
