"""What is handed to someone else: a page, all rows, a trace, figures; and what comes back is the same."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import pytest

from app.errors import LabError
from app.experiments.commands import run_command
from app.experiments.file import read_experiment, write_experiment
from app.experiments.judge import result_of_experiment
from app.experiments.plan import Experiment, Turn, Variant, plan
from app.exports.csv_files import safe_cell
from app.exports.export import export
from app.exports.import_file import import_file, imported_in_words
from app.exports.report import experiment_report
from app.home import Home
from app.runs.notes import write_notes
from app.runs.result import result_of
from app.server.indexing import select
from app.settings.written import parse_settings
from benchmarks.querying import REQUESTS_AT_ONCE, make_rows
from scenarios import build
from store.database import Database
from store.errors import StoreError
from store.summary import compute_summary
from tests.app.lab_process import asked_here, scenario_file, servescope
from tests.app.small_runs import served_experiment
from tests.store.test_quality_rows import codec as measured
from tests.store.test_quality_rows import write as write_quality

HOSTILE = "<img src=x onerror=alert(1)>'\"; DROP TABLE runs -- \u202egnp"
MOST_BYTES = 6_000_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, str]:
    """A finished experiment of two repeats, with names that look like markup."""
    folder = tmp_path_factory.mktemp("served")
    home = Home(folder / "home").prepare()
    variants = (Variant("on", {"chunked_prefill.token_budget": "16"}), Variant(HOSTILE, {"chunked_prefill": "off"}))
    experiment, specs = plan(str(scenario_file(folder)), variants, 2)
    return home, served_experiment(home, experiment, specs)


def test_another_lab_gets_the_same_figures_to_the_last_digit(served: tuple[Home, str], tmp_path: Path) -> None:
    home, experiment_id = served
    file, there = tmp_path / "out.servescope", Home(tmp_path / "there").prepare()
    run_id = read_experiment(home, experiment_id).runs_of("on")[0]
    write_notes(home, run_id, name=HOSTILE)
    export(home, experiment_id, tmp_path / "unmeasured.servescope")
    write_quality(home.run_dir(run_id), measured(HOSTILE))
    assert export(home, experiment_id, file) == file.stat().st_size
    assert len(import_file(there, tmp_path / "unmeasured.servescope").runs) == 4
    assert imported_in_words(import_file(there, file)) == [
        "0 runs imported, 4 were here already.",
        f"The measured quality of {run_id}: missing here, and taken over from the file.",
    ]
    assert result_of_experiment(there, experiment_id) == result_of_experiment(home, experiment_id)
    assert result_of(there, run_id) == result_of(home, run_id)
    asked = f"SELECT * FROM quality WHERE run_id = '{run_id}' ORDER BY place"
    assert select(there, asked, 10) == select(home, asked, 10)
    assert len(select(there, asked, 10)[1]) == 2
    export(there, experiment_id, tmp_path / "again.servescope")
    assert (tmp_path / "again.servescope").read_bytes() == file.read_bytes()


def test_an_experiment_that_is_being_served_is_neither_exported_nor_imported(
    served: tuple[Home, str], tmp_path: Path
) -> None:
    home, experiment_id = served
    before = read_experiment(home, experiment_id)
    document = home.experiments / experiment_id / "experiment.json"
    text = document.read_text()
    document.write_text(text.replace('"state":"finished"', '"state":"running"'))
    try:
        with pytest.raises(LabError, match="being served"):
            export(home, experiment_id, tmp_path / "out.servescope")
    finally:
        write_experiment(home, before)


def test_the_page_is_small_holds_texts_as_texts_and_no_way_out(served: tuple[Home, str], tmp_path: Path) -> None:
    home, experiment_id = served
    for name in (experiment_id, read_experiment(home, experiment_id).runs_of("on")[0]):
        out = tmp_path / f"{name}.html"
        assert export(home, name, out) < MOST_BYTES
        text = out.read_text()
        assert "<img src=x" not in text
        assert '"showSendToCloud": false' in text
        assert '"showSendToCloud": true' not in text
        assert text.count("plotly.js v") == 1, "the library is there once"
        assert "random weights" in text


def test_the_page_of_a_run_carries_its_measured_quality(served: tuple[Home, str], tmp_path: Path) -> None:
    home, experiment_id = served
    run_id = read_experiment(home, experiment_id).runs_of("on")[0]
    write_quality(home.run_dir(run_id), measured(HOSTILE))
    export(home, run_id, tmp_path / "run.html")
    text = (tmp_path / "run.html").read_text()
    assert "Quality per codec of the KV cache" in text
    assert "+2.00 %" in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert "<img src=x" not in text


@pytest.mark.rare
def test_the_page_of_a_comparison_sets_codecs_side_by_side(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").prepare()
    variants = (Variant("full"), Variant("packed", {"kv_quantization.codec": "int8"}))
    experiment, specs = plan(str(scenario_file(tmp_path)), variants, 1)
    export(home, served_experiment(home, experiment, specs), tmp_path / "out.html")
    text = (tmp_path / "out.html").read_text()
    assert "Codecs of the KV cache" in text
    assert "<td>full precision</td>" in text
    assert "<td>int8</td>" in text


def test_a_trace_has_every_iteration_and_every_request(served: tuple[Home, str], tmp_path: Path) -> None:
    home, experiment_id = served
    run_id = read_experiment(home, experiment_id).runs_of("on")[0]
    export(home, run_id, tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    result = result_of(home, run_id)
    spans = [event for event in events if event["ph"] == "X"]
    assert sum(event["cat"] == "iteration" for event in spans) == result["iterations"]
    assert sum(event["cat"] == "request" for event in spans) == result["requests"]["total"]
    assert all(event["dur"] >= 0 for event in spans)


def test_figures_as_csv(served: tuple[Home, str], tmp_path: Path) -> None:
    home, experiment_id = served
    export(home, experiment_id, tmp_path / "out.csv")
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    metrics = result_of_experiment(home, experiment_id)["metrics"]
    assert len(rows) == sum(len(by_variant) for by_variant in metrics.values())
    first = next(row for row in rows if (row["metric"], row["variant"]) == ("ttft_ms", "on"))
    assert float(first["value"]) == metrics["ttft_ms"]["on"]["value"]
    assert safe_cell("=1+1") == "'=1+1"


def test_what_cannot_be_exported_is_said(served: tuple[Home, str], tmp_path: Path) -> None:
    home, experiment_id = served
    with pytest.raises(LabError, match="no format"):
        export(home, experiment_id, tmp_path / "out.pdf")
    with pytest.raises(LabError, match="no folder"):
        export(home, experiment_id, tmp_path / "nowhere" / "out.html")
    with pytest.raises(LabError, match="no run"):
        export(home, "nothing", tmp_path / "out.html")
    (tmp_path / "empty.servescope").write_bytes(b"")
    with pytest.raises(StoreError, match="no whole zip"):
        import_file(home, tmp_path / "empty.servescope")


def test_a_page_says_how_to_serve_its_run_again() -> None:
    settings = {"prefix_sharing": "on", "speculation.k": "3", "kv_blocks": "160", "sampling.stop": '["a b"]'}
    engine = build("shared-prompt", settings).engine.model_dump(mode="json")
    command = run_command("shared-prompt", engine)
    asked = {"workload.requests": "4", "workload.prompt.texts": '["a b", "c"]'}
    whole = shlex.split(run_command("shared-prompt", engine, asked))
    assert parse_settings([word for word in whole[3:] if word != "--set"]).items() >= asked.items()
    assert command.startswith("servescope run shared-prompt --set ")
    words = shlex.split(command)[3:]
    again = parse_settings([word for word in words if word != "--set"])
    assert build("shared-prompt", again).engine.model_dump(mode="json") == engine
    assert run_command("gone", engine) == "servescope run gone"


@pytest.mark.slow
def test_the_commands_print_what_was_promised(served: tuple[Home, str], tmp_path: Path) -> None:
    home, experiment_id = served
    mine = read_experiment(home, experiment_id).runs_of("on")[0]
    write_notes(home, mine, name=HOSTILE)
    out = tmp_path / "out.servescope"
    exported = servescope(home, "export", experiment_id, "-o", str(out), "--json")
    assert json.loads(exported.stdout) == {"path": str(out), "bytes": out.stat().st_size}
    imported = asked_here(Home(tmp_path / "other"), "import", str(out), "--json")
    assert len(json.loads(imported.stdout)["runs"]) == 4
    assert (json.loads(imported.stdout)["taken"], json.loads(imported.stdout)["kept"]) == ([], [])
    write_notes(Home(tmp_path / "other"), mine, name="mine")
    again = asked_here(Home(tmp_path / "other"), "import", str(out))
    assert again.returncode == 0
    assert f"The name and notes of {mine}: here already with other content, and left as it was here." in again.stderr
    refused = asked_here(home, "import", str(tmp_path / "nothing.servescope"), "--json")
    assert refused.returncode == 1


@pytest.mark.slow
def test_a_long_experiment_is_thinned_to_a_small_page_that_says_so(tmp_path: Path) -> None:
    steps = 50_000
    experiment = Experiment(
        "x-long",
        "compare",
        "starter",
        "A long one",
        "Is the page small?",
        (Variant("a"), Variant("b", {"policy": "orca"})),
        1,
        tuple(Turn(name, 0, run_id=f"long-{name}", done=True) for name in "ab"),
        dict.fromkeys("ab", "0" * 64),
        state="finished",
    )
    with Database(tmp_path / "long.duckdb") as database, database.read() as con:
        for turn in experiment.turns:
            make_rows(con, turn.run_id, steps * REQUESTS_AT_ONCE)
            figures = json.dumps(compute_summary(con, turn.run_id))
            con.execute("UPDATE runs SET figures = ? WHERE run_id = ?", [figures, turn.run_id])
        page = experiment_report(con, experiment)
    assert len(page.encode()) < MOST_BYTES
    assert "Charts show a part of the rows" in page
