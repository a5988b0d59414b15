"""The command line as scripts use it: JSON on standard output, words on standard error, exit code 0 only if it happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.home import Home
from app.runs.folder import create_run
from app.runs.process import worker_environment
from scenarios.file_schema import SCHEMA
from telemetry.status import read_status, state, write_status
from tests.app.lab_process import asked_here, lab_on, scenario_file, servescope
from tests.app.small_runs import small_spec, spooled, wait_for, wait_for_state

RUN_KEYS = {
    "run_id", "status", "labels", "requests", "iterations", "output_tokens", "output_tokens_per_s", "ttft_ms", "itl_ms",
    "tpot_ms", "e2e_ms", "prefix_hit_tokens", "draft_tokens", "accepted_tokens", "preemptions", "kv_capacity_tokens",
    "peak_kv_tokens", "output_digest", "workload_hash",
}  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, dict[str, Any]]:
    """A home with one run that the command line served with no lab about, and what it printed."""
    folder = tmp_path_factory.mktemp("served")
    home = Home(folder / "home").prepare()
    done = servescope(home, "run", str(scenario_file(folder)), "--set", "max_num_seqs=2", "--json")
    assert done.returncode == 0, done.stderr
    return home, json.loads(done.stdout)


def test_run_prints_the_contract_and_nothing_else(served: tuple[Home, dict[str, Any]]) -> None:
    _, result = served
    assert set(result) >= RUN_KEYS
    assert result["status"] == "finished"
    assert result["requests"]["total"] == result["requests"]["finished"] == 4
    assert result["requests"]["failed"] == 0
    assert result["output_tokens"] == 4 * 8
    assert "random weights" in result["labels"]
    assert len(result["output_digest"]) == len(result["workload_hash"]) == 64
    for name in ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms"):
        figures = result[name]
        assert set(figures) >= {"p50", "p90", "p99", "mean"}
        assert 0 < figures["p50"] <= figures["p90"] <= figures["p99"]


def test_the_same_run_gives_the_same_tokens(served: tuple[Home, dict[str, Any]], tmp_path: Path) -> None:
    home, result = served
    again = json.loads(servescope(home, "run", str(scenario_file(tmp_path)), "--json").stdout)
    assert again["output_digest"] == result["output_digest"]
    assert again["workload_hash"] == result["workload_hash"]
    assert again["run_id"] != result["run_id"]


def test_runs_show_and_sql_agree_with_the_run(served: tuple[Home, dict[str, Any]]) -> None:
    home, result = served
    run_id = result["run_id"]
    listed = json.loads(asked_here(home, "runs", "--json").stdout)["runs"]
    assert run_id in [run["run_id"] for run in listed]
    shown = json.loads(asked_here(home, "show", run_id, "--json").stdout)
    assert {key: shown[key] for key in RUN_KEYS} == {key: result[key] for key in RUN_KEYS}
    query = f"SELECT count(*) AS n FROM iterations WHERE run_id = '{run_id}'"
    assert json.loads(asked_here(home, "sql", query, "--json").stdout)["rows"] == [{"n": result["iterations"]}]


def test_people_get_tables(served: tuple[Home, dict[str, Any]]) -> None:
    home, result = served
    for command in (["runs"], ["show", result["run_id"]], ["scenarios"], ["sql", "SELECT 1 AS one"]):
        done = asked_here(home, *command)
        assert done.returncode == 0
        assert done.stdout.strip()
        with pytest.raises(json.JSONDecodeError):
            json.loads(done.stdout)
    assert "TTFT" in asked_here(home, "show", result["run_id"]).stdout


def test_the_start_of_an_id_is_enough(served: tuple[Home, dict[str, Any]]) -> None:
    home, result = served
    listed = [run["run_id"] for run in json.loads(asked_here(home, "runs", "--json").stdout)["runs"]]
    unique = next(
        result["run_id"][:n] for n in range(1, 65) if sum(r.startswith(result["run_id"][:n]) for r in listed) == 1
    )
    assert json.loads(asked_here(home, "show", unique, "--json").stdout)["run_id"] == result["run_id"]


@pytest.mark.parametrize("damage", [b"", b"this is no database at all" * 100, None])
def test_a_corrupt_or_missing_database_is_rebuilt_from_the_runs(
    served: tuple[Home, dict[str, Any]], damage: bytes | None
) -> None:
    home, result = served
    if damage is None:
        home.database.unlink()
    else:
        home.database.write_bytes(damage)
    if damage:
        refused = servescope(home, "sql", "SELECT 1")
        assert refused.returncode == 1
        assert "servescope reindex" in refused.stderr
        assert "Traceback" not in refused.stderr
    assert servescope(home, "reindex").returncode == 0
    query = f"SELECT count(*) AS n FROM iterations WHERE run_id = '{result['run_id']}'"
    assert json.loads(asked_here(home, "sql", query, "--json").stdout)["rows"] == [{"n": result["iterations"]}]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "startr"], ["startr", "starter"]),
        (["run", "starter", "--set", "chunked_prefil=off"], ["chunked_prefil", "chunked_prefill"]),
        (["run", "starter", "--set", "chunked_prefill.token_budget=0"], ["chunked_prefill.token_budget", "0"]),
        (["run", "starter", "--set", "nonsense"], ["--set", "KEY=VALUE"]),
        (["run", "starter", "--set", "policy=fastest"], ["policy", "fastest", "stall-free"]),
        (
            ["run", "starter", "--set", "chunked_prefill=off", "--set", "chunked_prefill.token_budget=32"],
            ["chunked_prefill.token_budget", "32", "contradicts chunked_prefill=off"],
        ),
        (["run", "starter", "--set", "kv_quantization=maybe"], ["kv_quantization", "switched on or off"]),
        (
            ["run", "starter", "--set", "kv_quantization.codec=kivi", "--set", "kv_quantization.group=32"],
            ["block_size", "kv_quantization.group", "does not divide block_size (16)"],
        ),
        (["run", "/nowhere/at-all.yaml"], ["/nowhere/at-all.yaml"]),
        (["show", "nobody"], ["nobody"]),
        (["show", "../../etc/passwd"], ["not a run id"]),
        (["cancel", "nobody"], ["nobody"]),
        (["delete", "nobody"], ["nobody"]),
        (["delete"], ["--empty-trash"]),
        (["restore", "nobody"], ["nobody"]),
        (["sql", "DROP TABLE runs"], ["Only one SELECT"]),
        (["sql", "SELECT 1; SELECT 2"], ["Only one SELECT"]),
        (["sql", ""], ["Only one SELECT"]),
        (["sql", "SELECT * FROM read_text('/etc/passwd')"], ["error"]),
        (["sql", "SELECT nothing FROM runs"], ["nothing"]),
    ],
)
def test_bad_input_names_what_is_wrong_and_ends_with_1(home: Home, arguments: list[str], words: list[str]) -> None:
    done = asked_here(home, *arguments)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    with_json = asked_here(home, *arguments, "--json")
    assert with_json.returncode == 1
    assert set(json.loads(with_json.stdout)["error"]) >= {"kind", "field", "value", "message", "mend"}
    assert home.run_ids() == []


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    done = servescope(Home(blocked), "run", "starter")
    assert done.returncode == 1
    assert str(blocked) in done.stderr
    assert "SERVESCOPE_HOME" in done.stderr


def test_a_run_that_fails_ends_with_1_and_the_engines_words(home: Home, tmp_path: Path) -> None:
    done = servescope(home, "run", str(scenario_file(tmp_path)), "--set", "model=no/such-model/here", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["status"] == "failed"
    assert "no/such-model/here" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.rare)])
def test_interrupting_a_run_ends_it_cleanly_and_keeps_what_it_did(home: Home, tmp_path: Path, number: int) -> None:
    command = [
        sys.executable,
        "-m",
        "app.cli",
        "run",
        str(scenario_file(tmp_path, requests=3000, tokens=1500)),
        "--json",
    ]
    process = subprocess.Popen(
        command,
        env=worker_environment() | {"SERVESCOPE_HOME": str(home.root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(home.run_ids)
    [run_id] = home.run_ids()
    wait_for_state(home, run_id, "running")
    wait_for(lambda: spooled(home.run_dir(run_id)) > 2000)
    process.send_signal(number)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    result = json.loads(output)
    assert result["status"] == "cancelled"
    assert result["iterations"] > 0
    assert "unfinished" in result["labels"]


def test_with_a_lab_up_its_queue_serves_the_run_and_its_database_has_it(home: Home, tmp_path: Path) -> None:
    with lab_on(home) as lab:
        done = servescope(home, "run", str(scenario_file(tmp_path)), "--json")
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert set(result) >= RUN_KEYS
        assert f"{lab.address.url}/?run={result['run_id']}" in done.stderr
        count = f"SELECT count(*) AS n FROM iterations WHERE run_id = '{result['run_id']}'"
        wait_for(lambda: lab.sql(count) == [[result["iterations"]]])
        asked = servescope(home, "sql", count, "--json")
        assert json.loads(asked.stdout)["rows"] == [{"n": result["iterations"]}]
        refused = servescope(home, "reindex")
        assert refused.returncode == 1
        assert lab.address.url in refused.stderr
        ended = servescope(home, "cancel", result["run_id"])
        assert ended.returncode == 1
        assert "ended already" in ended.stderr


def test_delete_restore_and_empty_trash(home: Home) -> None:
    write_status(create_run(home, small_spec("one")), state="finished")
    assert asked_here(home, "delete", "one").returncode == 0
    assert home.run_ids() == []
    assert asked_here(home, "restore", "one").returncode == 0
    assert home.run_ids() == ["one"]
    asked_here(home, "delete", "one")
    assert json.loads(asked_here(home, "delete", "--empty-trash", "--json").stdout)["removed"] == ["one"]


def test_a_run_left_by_a_command_line_that_was_killed_is_not_shown_as_running(home: Home) -> None:
    write_status(create_run(home, small_spec("left")), state="running", pid=2**22 + 1, process_start_unix=1.0)
    [run] = json.loads(asked_here(home, "runs", "--json").stdout)["runs"]
    assert run["status"] == "crashed"
    assert state(read_status(home.run_dir("left"))) == "crashed"


def test_help_and_listing_import_nothing_heavy(home: Home) -> None:
    """What makes a command slow to start is an import; these never need torch, Streamlit or the database."""
    heavy = ("torch", "streamlit", "duckdb", "pyarrow", "transformers", "pandas", "plotly")
    program = (
        "import sys\nfrom app.cli import app\n"
        "try:\n    app(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    for arguments in (["--help"], ["runs", "--json"], ["scenarios", "--json"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            capture_output=True,
            text=True,
            env=worker_environment() | {"SERVESCOPE_HOME": str(home.root)},
        )
        assert done.stdout.splitlines()[-1] == "[]", arguments


def test_serving_a_run_never_imports_torch_or_streamlit_here(home: Home, tmp_path: Path) -> None:
    program = (
        "import sys\nfrom app.cli import app\n"
        "try:\n    app(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print([name for name in ('torch', 'streamlit', 'transformers') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "run", str(scenario_file(tmp_path)), "--json"],
        capture_output=True,
        text=True,
        env=worker_environment() | {"SERVESCOPE_HOME": str(home.root)},
    )
    assert done.stderr.splitlines()[-1] == "[]", done.stderr


def test_doctor_names_what_is_missing_and_what_mends_it(tmp_path: Path) -> None:
    done = servescope(Home(tmp_path / "home"), "doctor", "--json", SERVESCOPE_CHROMIUM="/nowhere/browser")
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert {
        "python",
        "packages",
        "torch",
        "cpu",
        "gpu counters",
        "memory",
        "store",
        "model",
        "browser",
        "database",
    } <= set(checks)
    assert checks["torch"]["state"] == "ok"
    assert checks["browser"]["state"] == "note"
    assert "chromium" in checks["browser"]["mend"]
    (tmp_path / "home" / "servescope.duckdb").write_bytes(b"damaged" * 1000)
    done = asked_here(Home(tmp_path / "home"), "doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert done.returncode == 1
    assert checks["database"]["state"] == "broken"
    assert "reindex" in checks["database"]["mend"]


def test_version_is_the_packages(home: Home) -> None:
    done = asked_here(home, "--version")
    if done.returncode:  # not installed: run from a bare source tree
        pytest.skip("the package is not installed here")
    assert done.stdout.strip().count(".") == 2
    assert os.linesep in done.stdout


def test_help_is_whole_and_an_empty_store_says_what_to_do(home: Home) -> None:
    said = asked_here(home, "--help").stdout
    commands = said.partition("Commands:")[2].strip().splitlines()
    assert len(commands) >= 17
    assert [line for line in commands if line.endswith("...") or not line.endswith(".")] == []
    assert "servescope run starter" in asked_here(home, "runs").stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sweep", "starter", "--over", "x"), "--over = 'x': A setting is written KEY=VALUE."),
        (("compare", "starter"), "error: A comparison takes 2 to 64 variants, these are 0."),
        (("restore", "zz"), "There is no run 'zz' in the trash."),
    ],
    ids=["a value that is missing", "no variant", "not in the trash"],
)
def test_a_refusal_names_the_option_it_is_about(home: Home, arguments: tuple[str, ...], words: str) -> None:
    done = asked_here(home, *arguments)
    assert done.returncode == 1
    assert words in done.stderr


def test_a_preview_says_what_would_be_asked_and_leaves_no_run(home: Home, tmp_path: Path) -> None:
    asked = [
        "chat",
        "--set",
        "model=random:tiny",
        "--set",
        "workload.chat.requests=5",
        "--set",
        "workload.sizing=fixed",
    ]
    expected = json.loads(asked_here(home, "preview", *asked, "--json").stdout)
    assert (expected["requests"], expected["following"]) == (5, 0)
    assert sum(one["count"] for one in expected["arrivals_s"]) == 5
    assert expected["load"] > 0
    said = asked_here(home, "preview", *asked)
    assert "5 requests" in said.stderr
    assert "#" in said.stdout
    assert json.loads(asked_here(home, "runs", "--json").stdout)["runs"] == []


def test_scenarios_schema_is_the_published_one(home: Home) -> None:
    assert asked_here(home, "scenarios", "--schema").stdout == SCHEMA.read_text(encoding="utf-8")
