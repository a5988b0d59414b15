"""Where ServeScope keeps things, and the only way a run id becomes a path.

Layout (``docs/architecture.md``)::

    HOME/runs/<run_id>/   one run
    HOME/trash/<run_id>/  a deleted run, until it is restored or emptied
    HOME/experiments/<experiment_id>/experiment.json  runs that belong together
    HOME/reports/<report_id>/report.json  charts that were pinned, with notes (absent until then)
    HOME/scenarios/, HOME/settings/, HOME/traces/  scenarios, settings and traces of a person's own (absent until then)
    HOME/learners/, HOME/rooms/  what was predicted: by a browser's learner, in a workshop's room (absent until then)
    HOME/locks/           one lock per device, one for the database
    HOME/spare/           output of the warm worker that waits for the next run
    HOME/servescope.duckdb, HOME/lab.json, HOME/entrance.json

Ids that reach this module may come from a page or a command line; anything that is not a plain run id is refused before
it touches a path.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.errors import LabError
from telemetry.folder import RUN_ID, is_run

ENV = "SERVESCOPE_HOME"
EXPERIMENT_FILE, REPORT_FILE = "experiment.json", "report.json"
LEAST_FREE_BYTES = 256 * 1024 * 1024  # a run of minutes with full recording writes well below this


@dataclass(frozen=True)
class Home:
    """One store on disk. Creating the object touches nothing; ``prepare()`` makes the folders."""

    root: Path

    @classmethod
    def from_environment(cls) -> Home:
        """``SERVESCOPE_HOME``, or the platform's user data directory."""
        value = os.environ.get(ENV)
        if value:
            return cls(Path(value).expanduser().absolute())
        import platformdirs

        return cls(Path(platformdirs.user_data_dir("servescope", appauthor=False)))

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def trash(self) -> Path:
        return self.root / "trash"

    @property
    def experiments(self) -> Path:
        return self.root / "experiments"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    @property
    def scenarios(self) -> Path:
        return self.root / "scenarios"

    @property
    def settings(self) -> Path:
        return self.root / "settings"

    @property
    def queries(self) -> Path:
        return self.root / "queries"

    @property
    def traces(self) -> Path:
        return self.root / "traces"

    @property
    def lessons(self) -> Path:
        return self.root / "lessons"

    @property
    def learners(self) -> Path:
        return self.root / "learners"

    @property
    def rooms(self) -> Path:
        return self.root / "rooms"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    @property
    def spare(self) -> Path:
        return self.root / "spare"

    @property
    def database(self) -> Path:
        return self.root / "servescope.duckdb"

    @property
    def entrance_file(self) -> Path:
        return self.root / "entrance.json"

    @property
    def lab_file(self) -> Path:
        return self.root / "lab.json"

    def prepare(self) -> Home:
        """Make the folders and prove that they can be written.

        Raises ``LabError`` when they cannot, or when the path has characters that the database cannot take.
        """
        with self._explained():
            self._make_folders()
            with tempfile.TemporaryFile(dir=self.root) as probe:
                probe.write(b"x")
                probe.flush()
        return self

    def reach(self) -> Home:
        """Make the folders that are missing; for what must be possible on a full disk: deleting, cancelling, exporting.

        Raises ``LabError`` when one is missing and cannot be made, or as ``prepare`` does for the path.
        """
        with self._explained():
            self._make_folders()
        return self

    def _make_folders(self) -> None:
        self._check_path()
        for folder in (self.root, self.runs, self.trash, self.experiments, self.locks, self.spare):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LabError(
                "home-unwritable",
                field=ENV,
                value=str(self.root),
                message=f"{ENV} is {self.root}, which cannot be written: {error.strerror or error}.",
                mend=f"Make the folder writable and give it space (servescope delete --empty-trash), or name another: "
                f"export {ENV}=/path/to/folder",
            ) from error

    def _check_path(self) -> None:
        """DuckDB takes ``?`` for the start of options and needs UTF-8; a line break would spoil every message with a
        path in it.
        """
        path = str(self.root)
        if "?" in path or any(not letter.isprintable() for letter in path):
            shown = ascii(path)[1:-1]
            raise LabError(
                "home-unusable",
                field=ENV,
                value=shown,
                message=f"{ENV} is {shown}, which has a question mark, a control character or bytes that are not "
                f"UTF-8.",
                mend=f"Name a folder without them: export {ENV}=/path/to/folder",
            )

    def free_bytes(self) -> int:
        """Bytes the file system under the home can still take."""
        return shutil.disk_usage(self.root).free

    def require_space(self, needed: int = LEAST_FREE_BYTES) -> None:
        """Raises ``LabError`` when fewer than ``needed`` bytes are free."""
        free = self.free_bytes()
        if free < needed:
            raise LabError(
                "disk-full",
                field=ENV,
                value=str(self.root),
                message=f"Only {free // 2**20} MiB are free under {self.root}; a run wants {needed // 2**20} MiB.",
                mend=f"Free some space (servescope delete --empty-trash), or name another folder in {ENV}.",
            )

    def run_dir(self, run_id: str) -> Path:
        """The folder of a run, existing or not. Raises ``LabError`` for anything that is not a run id."""
        return self.runs / checked_run_id(run_id)

    def existing_run_dir(self, run_id: str) -> Path:
        """The folder of a run that exists. Raises ``LabError`` naming the nearest ids otherwise."""
        folder = self.run_dir(run_id)
        if not is_run(folder):
            raise deleted_run(run_id) if self.trash_dir(run_id).is_dir() else unknown_run(run_id, self.run_ids())
        return folder

    def experiment_dir(self, experiment_id: str) -> Path:
        """The folder of an experiment, existing or not. Raises ``LabError`` for anything that is not an id."""
        return self.experiments / checked_run_id(experiment_id)

    def object_dir(self, name: str) -> Path:
        """The folder of the experiment of this id if there is one, else of the run. Raises as ``run_dir`` does."""
        folder = self.experiment_dir(name)
        return folder if (folder / EXPERIMENT_FILE).exists() else self.run_dir(name)

    def existing_object_dir(self, name: str) -> Path:
        """The same of one that exists. Raises as ``existing_run_dir`` does."""
        folder = self.object_dir(name)
        return folder if folder.parent == self.experiments else self.existing_run_dir(name)

    def report_dir(self, report_id: str) -> Path:
        """The folder of a report, existing or not. Raises ``LabError`` for anything that is not an id."""
        return self.reports / checked_run_id(report_id)

    def report_ids(self) -> list[str]:
        """Ids of every report on disk, sorted."""
        return [one for one in _ids_in(self.reports) if (self.reports / one / REPORT_FILE).exists()]

    def place_of(self, trashed: Path) -> Path:
        """Where something in the trash belongs, by the file that says what it is."""
        places = {EXPERIMENT_FILE: self.experiments, REPORT_FILE: self.reports}
        folder = next((place for name, place in places.items() if (trashed / name).exists()), self.runs)
        return folder / trashed.name

    def trash_dir(self, run_id: str) -> Path:
        return self.trash / checked_run_id(run_id)

    def experiment_ids(self) -> list[str]:
        """Ids of every experiment on disk, sorted; a folder without its file is none yet."""
        return [
            experiment_id
            for experiment_id in _ids_in(self.experiments)
            if (self.experiments / experiment_id / EXPERIMENT_FILE).exists()
        ]

    def run_ids(self) -> list[str]:
        """Ids of every run on disk, sorted."""
        return _ids_in(self.runs)

    def trashed_ids(self) -> list[str]:
        return _ids_in(self.trash)


def checked_run_id(run_id: str) -> str:
    """The id itself if it is one (lower case letters, digits, dashes). Raises ``LabError``."""
    if not isinstance(run_id, str) or not RUN_ID.fullmatch(run_id):
        raise LabError(
            "bad-run-id",
            field="run",
            value=str(run_id)[:80],
            message=f"{str(run_id)[:80]!r} is not a run id: lower case letters, digits and dashes, at most 64.",
            mend="servescope runs lists the ids.",
        )
    return run_id


def unknown_run(run_id: str, known: list[str]) -> LabError:
    from app.errors import nearest

    close = nearest(run_id, known)
    return LabError(
        "unknown-run",
        field="run",
        value=run_id,
        message=f"There is no run {run_id!r}.",
        mend=f"Nearest: {', '.join(close)}." if close else "servescope runs lists the runs there are.",
    )


def deleted_run(run_id: str) -> LabError:
    return LabError(
        "deleted-run",
        field="run",
        value=run_id,
        message=f"The run {run_id} was deleted; it is in the trash.",
        mend=f"servescope restore {run_id} brings it back.",
    )


def _ids_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if RUN_ID.fullmatch(entry.name) and entry.is_dir())
