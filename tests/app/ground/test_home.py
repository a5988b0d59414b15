"""The store on disk: nothing but a run id becomes a path, and a folder that cannot be used says so."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path

import pytest

from app.errors import LabError
from app.home import Home, checked_run_id
from store.database import Database
from telemetry.json_file import write_json


@pytest.mark.parametrize(
    "wicked",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/etc",
        "a\x00b",
        "A",
        "a b",
        "-a",
        "x" * 65,
        "a\n",
        "é",
        "a.b",
        "~",
        "$HOME",
        None,
        7,
    ],
)
def test_only_a_run_id_becomes_a_path(tmp_path: Path, wicked: object) -> None:
    with pytest.raises(LabError) as caught:
        Home(tmp_path).run_dir(wicked)  # type: ignore[arg-type]
    assert caught.value.kind == "bad-run-id"
    assert caught.value.field == "run"
    assert caught.value.mend


@pytest.mark.parametrize("fine", ["a", "0", "20260131-142233-0f3a", "x" * 64])
def test_a_run_id_stays_itself_and_inside_the_home(tmp_path: Path, fine: str) -> None:
    assert checked_run_id(fine) == fine
    assert Home(tmp_path).run_dir(fine).parent == tmp_path / "runs"


def test_an_unknown_run_names_the_nearest(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    folder = home.run_dir("20260131-142233-0f3a")
    folder.mkdir()
    write_json(folder / "spec.json", {})
    with pytest.raises(LabError, match="20260131-142233-0f3a"):
        home.existing_run_dir("20260131-142233-0f3b")


def test_the_environment_names_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVESCOPE_HOME", str(tmp_path / "here"))
    assert Home.from_environment().root == tmp_path / "here"
    monkeypatch.delenv("SERVESCOPE_HOME")
    assert Home.from_environment().root.name == "servescope"


def test_a_home_that_is_a_file_is_refused_with_a_mend(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(LabError) as caught:
        Home(blocked).prepare()
    assert caught.value.kind == "home-unwritable"
    assert str(blocked) in caught.value.message
    assert "SERVESCOPE_HOME" in caught.value.mend


@pytest.mark.parametrize("name", [b"what?", b"two\nlines", b"\xff\xfe", b"bell\x07"])
def test_a_home_whose_path_the_database_cannot_take_is_refused_and_not_made(tmp_path: Path, name: bytes) -> None:
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    with pytest.raises(LabError) as caught:
        Home(root).prepare()
    assert caught.value.kind == "home-unusable"
    assert caught.value.message.isprintable()
    assert not root.exists()


@pytest.mark.parametrize("name", ["two words", "ä", "a'b", "a#b%20*", ":memory:"])
def test_any_other_path_is_a_home(tmp_path: Path, name: str) -> None:
    home = Home(tmp_path / name).prepare()
    with Database(home.database) as database:
        assert database.checkpoint()
    assert home.database.is_file()


def test_too_little_space_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    with pytest.raises(LabError) as caught:
        home.require_space(home.free_bytes() + 2**40)
    assert caught.value.kind == "disk-full"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_named_as_such(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        home = Home(tmp_path).prepare()
        (tmp_path / "filler").write_bytes(b"x" * home.free_bytes())
        with pytest.raises(LabError) as caught:
            home.prepare()
        assert "space" in caught.value.message.lower()
        with pytest.raises(LabError, match="MiB are free"):
            home.require_space()
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_json(path, {"n": 0, "pad": "x" * 5000})
    stop = threading.Event()

    def write() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            write_json(path, {"n": n, "pad": "x" * 5000})

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(2000):
            value = json.loads(path.read_text())
            assert len(value["pad"]) == 5000
    finally:
        stop.set()
        writer.join()
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]
