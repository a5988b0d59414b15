"""Makes the recorded home: ``python -m tests.recorded.record FOLDER`` writes ``home.tar.xz`` and ``answers.json`` there.

What lies beside this file was made with the code of its first commit and stays as it is. Later code must open it and say what was said then;
a format that changes gets a recording of its own, not a new one in its place.
"""

from __future__ import annotations

import json
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from typer.testing import CliRunner

from app.cli import app
from app.experiments.drive import Driver
from app.experiments.file import create_experiment
from app.experiments.plan import Variant, plan
from app.exports.export import export
from app.home import Home
from app.runs.folder import create_run
from app.settings.written import parse_settings
from engine import worker
from engine.config import RunSpec
from tests.app.lab_process import scenario_file
from tests.app.small_runs import small_spec

TECHNIQUES: dict[str, dict[str, Any]] = {
    "chunked-prefill": {"chunked_prefill": {"token_budget": 16}},
    "prefix-sharing": {"prefix_sharing": {}},
    "speculation": {"speculation": {"proposer": "prompt-lookup", "control": "fixed"}},
    "kv-quantization": {"kv_quantization": {"codec": "int8"}},
}
LEFT_OUT = ("servescope.duckdb", "locks", "spare", "entrance.json", "lab.json")  # made anew wherever a home is opened


def asked(*arguments: str, home: Home) -> Any:
    """What a command prints with ``--json``."""
    done = CliRunner().invoke(app, [*arguments, "--json"], env={"SERVESCOPE_HOME": str(home.root)})
    assert done.exit_code == 0, (arguments, done.output, done.exception)
    return json.loads(done.stdout)


def answers(home: Home) -> dict[str, Any]:
    """What the commands say about everything in a home."""
    said = {"runs": asked("runs", home=home)}
    said |= {run: asked("show", run, home=home) for run in sorted(home.run_ids())}
    for path in sorted((home.root / "experiments").iterdir()):
        said[path.name] = asked("compare", "--resume", path.name, home=home)
        export(home, path.name, table := home.root / "out.csv")
        said[f"{path.name} as CSV"] = table.read_text().splitlines()
        table.unlink()
    return said


def record(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as made:
        home = Home(Path(made) / "home").prepare()
        for name, settings in TECHNIQUES.items():
            _serve(home, small_spec(name, requests=6, tokens=12, **settings))
        variants = (Variant("on"), Variant("off", parse_settings(["chunked_prefill=off"])))
        experiment, specs = plan(str(scenario_file(Path(made))), variants, 1)
        create_experiment(home, experiment, specs)
        driver = Driver(home, experiment.experiment_id, lambda spec: _serve(home, spec))
        while driver.step().state == "running":
            pass
        driver.release()
        asked("reindex", home=home)
        (folder / "answers.json").write_text(json.dumps(answers(home), indent=1, sort_keys=True) + "\n")
        with tarfile.open(folder / "home.tar.xz", "w:xz") as archive:
            for path in sorted(home.root.iterdir()):
                if not path.name.startswith(LEFT_OUT):
                    archive.add(path, path.name, filter=_nobody)


def _serve(home: Home, spec: RunSpec) -> None:
    with mock.patch("platform.release", return_value="of a test"):
        assert worker.run(create_run(home, spec)) == 0


def _nobody(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    record(Path(sys.argv[1]))
