"""The hardware table of docs/workshop.md says what the committed results say, of the machines that they name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = re.findall(
    r"^\| (.+?) \| (.+?) \| (.+?) \| ([\d,]+) \| `(\w+\.json)` \|$", (ROOT / "docs" / "workshop.md").read_text(), re.M
)


def test_there_is_a_table() -> None:
    assert len(TABLE) >= 4


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[4]} {row[3]}")
def test_a_row_says_what_was_measured(row: tuple[str, str, str, str, str]) -> None:
    machine, model, _, speed, name = row
    result = json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))
    environment, figures = result["environment"], result["figures"]
    device = environment["gpu"]["name"] if environment["gpu"] else environment["cpu"]["model"]
    assert machine == "the same" or any(word in machine for word in re.findall(r"H\d00|EPYC", device)), device
    measured = [
        one
        for one in figures
        if one["unit"].endswith("tokens/s") and round(one["value"]) == int(speed.replace(",", ""))
    ]
    assert measured, f"{name} has no figure of {speed} tokens/s"
    dtype = re.search(r"float\d+|bfloat\d+", model)
    assert dtype is None or any(one["name"].startswith(dtype[0]) for one in measured)
    assert result["command"].startswith("python -m benchmarks.")
