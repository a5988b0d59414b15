"""The embedded model, converted once into the user's cache directory, with a progress bar.

The work happens in a process of its own (``engine.model.embedded``), so the lab never imports torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from app.errors import LabError
from app.runs.process import SOURCE_ROOT, worker_environment
from engine.config.models import embedded_dir, is_converted

if TYPE_CHECKING:
    from rich.console import Console


def model_is_ready() -> bool:
    """Whether the embedded model's converted files are there and complete (sizes, not hashes)."""
    return is_converted(embedded_dir())


def prepare_embedded_model(console: Console) -> None:
    """Convert the embedded model if that has not been done, its progress shown on ``console``. Raises ``LabError``
    saying what is missing.
    """
    if model_is_ready():
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("Preparing the embedded model, once", total=1.0)
        with subprocess.Popen(
            [sys.executable, "-m", "engine.model.embedded"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=SOURCE_ROOT,
            env=worker_environment(),
        ) as worker:
            assert worker.stdout is not None
            assert worker.stderr is not None
            error = None
            for line in worker.stdout:
                message = json.loads(line)
                error = message.get("error", error)
                if "phase" in message:
                    description = f"Preparing the embedded model, once: {message['phase']}"
                    progress.update(task, description=description, completed=message["share"])
            last_words = worker.stderr.read().strip().splitlines()[-1:]
        if worker.returncode == 0:
            progress.update(task, description="The embedded model is ready", completed=1.0)
            return
    raise _failure(error, last_words)


def _failure(error: dict[str, str] | None, last_words: list[str]) -> LabError:
    if error is not None:
        return LabError(**error)
    return LabError(
        "model-not-ready",
        message=f"The embedded model could not be converted: {' '.join(last_words) or 'the process was ended'}.",
        mend="Free memory or disk space and try again; servescope doctor looks at both.",
    )
