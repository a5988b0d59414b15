"""``status.json`` is what its model accepts, or a run that is over with the reason; it is replaced whole, on a full disk too."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from telemetry.json_file import Unreadable, json_bytes, read_bounded, write_json
from telemetry.status import LABEL_UNREADABLE, StatusFile, end_orphan, is_final, read_status, write_status

HOSTILE = {
    "empty": "",
    "cut": '{"state": "finished", "labels": [',
    "no object": "[1]",
    "no state": "{}",
    "unknown state": '{"state": "done"}',
    "labels": '{"state": "finished", "labels": 5}',
    "summary": '{"state": "finished", "summary": "x"}',
    "started_unix_ns": '{"state": "finished", "started_unix_ns": "abc"}',
    "summary.iterations": '{"state": "finished", "summary": {"iterations": 1e30}}',
    "summary.requests.total": '{"state": "finished", "summary": {"requests": {"total": 2147483647}}}',
    "nested": '{"state": "finished", "error": ' + "[" * 100_000,
    "half a surrogate": '{"state": "finished", "labels": ["\\ud800"]}',
    "a number of 5,000 digits": '{"state": "finished", "pid": ' + "9" * 5000 + "}",
    "not a number": '{"state": "finished", "summary": {"duration_s": NaN}}',
    "not UTF-8": b'{"state": "finished", "labels": ["\xff"]}',
}


def write(run_dir: Path, content: str | bytes) -> None:
    run_dir.mkdir(exist_ok=True)
    (run_dir / "status.json").write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.mark.parametrize("what", HOSTILE)
def test_a_status_that_cannot_be_read_is_the_end_of_its_run_by_name(tmp_path: Path, what: str) -> None:
    write(tmp_path / "r1", HOSTILE[what])
    status = read_status(tmp_path / "r1")
    assert is_final(status), "it is never queued, so never served again"
    assert status["labels"] == [LABEL_UNREADABLE]
    assert "status.json cannot be read" in status["error"]["message"]
    assert "servescope delete r1" in status["error"]["mend"]
    if "." in what or what in ("labels", "summary"):
        assert what in status["error"]["message"], "the place is named"
    json_bytes(status)


@pytest.mark.parametrize("left", ["telemetry", "worker.log"])
def test_a_run_that_recorded_something_and_lost_its_status_is_not_queued(tmp_path: Path, left: str) -> None:
    assert read_status(tmp_path)["state"] == "queued", "nothing began yet"
    (tmp_path / left).mkdir()
    assert is_final(read_status(tmp_path))


def test_a_pipe_and_a_huge_file_hold_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "status.json")
    assert "no regular file" in read_status(tmp_path)["error"]["message"]
    huge = tmp_path / "huge.json"
    with huge.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(Unreadable, match="more than the"):
        read_bounded(huge)


def test_what_was_written_is_read_and_merged(tmp_path: Path) -> None:
    write_status(
        tmp_path, state="queued", queued_unix_ns=7, supervisor={"pid": 1, "process_start_ticks": 2, "boot_id": "b"}
    )
    status = StatusFile(tmp_path)
    status.update(state="loading", progress={"phase": "weights", "phase_share": 0.5})
    status.close("finished", summary={"requests": {"total": 3}, "iterations": 4}, spool={"slice": 10})
    stored = read_status(tmp_path)
    assert stored["state"] == "finished"
    assert stored["summary"] == {"requests": {"total": 3}, "iterations": 4}
    assert stored["spool"] == {"slice": 10}
    assert write_status(tmp_path, labels=["x"])["summary"]["iterations"] == 4
    assert not end_orphan(tmp_path), "it is over"


def test_what_no_status_may_hold_is_not_written(tmp_path: Path) -> None:
    write_status(tmp_path, state="queued")
    before = (tmp_path / "status.json").read_bytes()
    with pytest.raises(ValidationError):
        write_status(tmp_path, labels="not a list")
    assert (tmp_path / "status.json").read_bytes() == before


def test_a_value_that_was_refused_is_kept_as_text_whatever_it_was(tmp_path: Path) -> None:
    for value in ([1, 2], {"a": 1}, 10**30, "x", 5, None, True):
        kept = write_status(tmp_path, state="failed", error={"message": "no", "value": value})["error"]["value"]
        assert kept == (value if value is None or isinstance(value, str | bool) or value == 5 else str(value))
    assert json.loads((tmp_path / "status.json").read_bytes()) == read_status(tmp_path)


def test_a_file_reaches_the_disk_before_it_takes_the_old_ones_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("fsync"), sync(handle))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (done.append("rename"), replace(self, to))[1])
    write_status(tmp_path, state="queued")
    assert done == ["fsync", "rename"]


class FullDisk:
    """Lets no new file be made or grow in a folder, as a full file system does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int = errno.ENOSPC) -> None:
        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(tempfile, "mkstemp", refuse)


def test_a_full_disk_lets_a_status_be_replaced_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_status(tmp_path, state="queued", queued_unix_ns=7)
    FullDisk(monkeypatch)
    write_status(tmp_path, state="cancelled", error={"message": "Cancelled on a full disk. " * 20})
    assert read_status(tmp_path)["state"] == "cancelled"
    write_status(tmp_path, error=None)
    assert read_status(tmp_path)["error"] is None, "a shorter text leaves nothing of the longer one"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_what_does_not_fit_into_a_full_disk_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"n": 1})
    FullDisk(monkeypatch, code)
    with pytest.raises(OSError, match=os.strerror(code)):
        write_json(path, {"n": "x" * 100_000})
    assert json.loads(path.read_bytes()) == {"n": 1}
    with pytest.raises(OSError, match=os.strerror(code)):
        write_json(tmp_path / "new.json", {})
