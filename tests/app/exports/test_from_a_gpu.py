"""A run that was recorded on an H100, exported there, opens on a machine without a GPU: figures, counters and the device's name.

``data/starter-h100.servescope``: ``servescope run starter --set model=random:qwen3-0.6b``, by ``benchmarks.gpu_run`` at e64b527; of the kernel's
name only the version was kept.
"""

from __future__ import annotations

import json
from pathlib import Path

from app.exports.import_file import import_file
from app.home import Home
from app.runs.result import result_of
from store.aside import rows_aside
from telemetry.gpm import GpmSampler

FILE = Path(__file__).parent / "data" / "starter-h100.servescope"


def test_a_run_from_a_gpu_opens_on_a_machine_without_one(tmp_path: Path):
    home = Home(tmp_path / "home").prepare()
    (run_id,) = import_file(home, FILE).runs
    result = result_of(home, run_id)
    assert result["requests"]["finished"] == 27
    assert result["output_tokens"] == 2796
    assert round(result["itl_ms"]["p99"], 2) == 27.89
    assert "random weights" in result["labels"]
    with rows_aside(home.runs, [run_id]) as rows:
        assert not rows.problems
        counted = ("power", "energy", "sm_clock", "temperature", "pcie_rx", *GpmSampler.COLUMNS)
        counts = rows.con.execute(
            f"SELECT {', '.join(f'count({name})' for name in counted)} FROM devices WHERE run_id = ?", [run_id]
        ).fetchone()
        assert counts is not None
        assert min(counts) >= 15
        (environment,) = rows.con.execute("SELECT environment FROM runs WHERE run_id = ?", [run_id]).fetchone()
    assert json.loads(environment)["gpu"]["name"] == "NVIDIA H100 80GB HBM3"
