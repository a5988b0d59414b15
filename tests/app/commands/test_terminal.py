"""What came in a file is shown on the terminal and never obeyed; Ctrl-C is heard while DuckDB works."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from app.commands.console import emit, say, table
from app.commands.printable import PrintableStream, guard_terminal, printable, printable_json
from app.commands.rich_console import TerminalConsole
from app.errors import LabError
from app.home import Home
from app.runs.folder import create_run
from app.runs.notes import write_notes
from app.runs.process import worker_environment
from telemetry.status import write_status
from tests.app.lab_process import lab_on
from tests.app.small_runs import small_spec, wait_for

ROOT = Path(__file__).resolve().parents[3]
CLIPBOARD = "\x1b]52;c;ZXZpbA==\x07"
PLANTED = f"a {CLIPBOARD}\x1b[2J\x9b2Jb\r\x08\x7f\u202ec"
OBEYED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
SLOW = "SELECT sum(a.range * b.range) FROM range(1000000) a, range(1000000) b"
ASK = """
import sys, threading, time
from functools import partial
from app.cli import main
from app.server import indexing
from store import select

indexing.safe_select = partial(select.safe_select, timeout_s=600)  # what ends it is Ctrl-C

def tell():
    while not select._under_way:
        time.sleep(0.01)
    print("asked", flush=True)

threading.Thread(target=tell, daemon=True).start()
main()
"""
"""``servescope sql`` that says when the query is under way."""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A store with a run whose every text holds escape sequences."""
    home = Home(tmp_path / "home").prepare()
    spec = small_spec("planted", model=f"/nowhere/{PLANTED}")
    run_dir = create_run(home, spec.model_copy(update={"title": PLANTED, "scenario": PLANTED}))
    error = {"kind": "x", "field": PLANTED, "value": PLANTED, "message": PLANTED, "mend": PLANTED}
    write_status(run_dir, state="failed", labels=[PLANTED], error=error)
    write_notes(home, "planted", name=PLANTED, notes=PLANTED)
    return home


def on_a_terminal(home: Home, *arguments: str) -> str:
    """What a command writes to a terminal, both streams."""
    ours, theirs = pty.openpty()
    environment = worker_environment() | {"SERVESCOPE_HOME": str(home.root), "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "app.cli", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    said = b""
    try:
        while chunk := os.read(ours, 65_536):
            said += chunk
    except OSError:  # the other end is closed
        pass
    process.wait(timeout=60)
    os.close(ours)
    return said.decode("utf-8")


def obeyed(said: str) -> list[str]:
    """Control characters that are neither rich's colours nor the terminal's own line ends."""
    return OBEYED.findall(re.sub("\x1b\\[[0-9;]*m", "", said).replace("\r\n", "\n")) + re.findall("\r(?!\n)", said)


@pytest.mark.parametrize(
    "arguments",
    [
        ["runs"],
        ["runs", "--json"],
        ["show", "planted"],
        ["show", "planted", "--json"],
        ["cancel", "planted"],
        ["cancel", PLANTED.replace("\x00", "")],
        ["run", f"/nowhere/{PLANTED}.yaml"],
        ["sql", f"SELECT '{PLANTED}' AS \"{PLANTED}\""],
        ["sql", f"SELEKT {PLANTED}"],
        ["import", f"/nowhere/{PLANTED}"],
    ],
    ids=lambda arguments: " ".join(arguments[:1] + arguments[2:]).encode("unicode_escape").decode()[:20],
)
@pytest.mark.sampled(3)  # one console writes for them all
def test_no_command_hands_escapes_to_the_terminal(home: Home, arguments: list[str]) -> None:
    said = on_a_terminal(home, *arguments)
    assert said.strip()
    assert obeyed(said) == []


def test_json_says_the_same_with_escapes_written_out(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    emit({"title": PLANTED, "half": "\ud800"})
    text = capsys.readouterr().out
    assert json.loads(text) == {"title": PLANTED, "half": "\ud800"}
    assert OBEYED.findall(text) == []


def test_what_is_plain_stays_as_it_is() -> None:
    for text in ("", "line\n\ttab", "Grüße, 你好, 🦥, ‰", 'quotes " and \\ backslashes'):
        assert printable(text) == text
        assert printable_json(json.dumps(text, ensure_ascii=False)) == json.dumps(text, ensure_ascii=False)
    assert printable("\x1b[2J\x9b\u202e\ud800") == "\\x1b[2J\\u009b\\u202e\\ud800"


def test_every_way_of_writing_passes_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stderr", raw)
    monkeypatch.setattr(sys, "stdout", raw)
    guard_terminal()
    guard_terminal()
    assert isinstance(sys.stderr, PrintableStream)
    assert not isinstance(sys.stderr.raw, PrintableStream)
    say(PLANTED)
    print(PLANTED, "\ud800", "ü")
    sys.stdout.writelines([PLANTED])
    logging.Logger("alone").addHandler(logging.StreamHandler())
    logging.StreamHandler().emit(logging.makeLogRecord({"msg": PLANTED}))
    sys.excepthook(LabError, LabError("x", message=PLANTED), None)
    console = TerminalConsole(sys.stdout)
    console.print(table(("a", PLANTED), [(PLANTED, 1)], title=f"[bold]{PLANTED}"))
    console.print(PLANTED, markup=False)
    written = raw.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert obeyed(written) == []
    assert written.count("\\x1b") >= 14
    assert "[bold]" in written, "markup in a title is text"


def test_nothing_in_the_house_makes_a_console_of_its_own() -> None:
    for file in (ROOT / "app").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        if file.name not in ("rich_console.py", "printable.py"):
            assert not re.search(r"\bConsole\(|__std(out|err)__|sys\.std(out|err)\.(write|buffer)", text), file


def test_ctrl_c_during_a_query_ends_it_at_once_and_without_a_traceback(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").prepare()
    process = subprocess.Popen(
        [sys.executable, "-c", ASK, "sql", SLOW],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=worker_environment() | {"SERVESCOPE_HOME": str(home.root)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, errors.strip()) == (130, "Interrupted.")


def test_ctrl_c_of_a_lab_ends_the_queries_it_answers(tmp_path: Path) -> None:
    refusals: list[str] = []

    def ask() -> None:
        try:
            lab.sql(SLOW)
        except LabError as error:
            refusals.append(error.message)

    with lab_on(Home(tmp_path / "home")) as lab:
        asking = threading.Thread(target=ask)
        lab_at_work = psutil.Process(lab.pid)
        idle = lab_at_work.cpu_times().user
        asking.start()
        wait_for(lambda: lab_at_work.cpu_times().user > idle + 1)  # seconds: it works on the query
        code, errors = lab.stop()
        asking.join()
    assert (code, refusals) == (0, ["The query was stopped."])
    assert "Traceback" not in errors
