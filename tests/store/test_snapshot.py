"""A snapshot gives back what went in; what is damaged, hostile or newer is refused and changes nothing."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from row_maker import record_run, set_status, spooled

from store import parquet_spool
from store.database import Database
from store.errors import StoreError
from store.ingest import Collector
from store.snapshot import DATE, export_snapshot
from store.snapshot_import import Imported, import_snapshot
from store.summary import summary
from telemetry.rows import ROW_TYPES
from tests.store.test_quality_rows import codec, document

HOSTILE = "<script>alert(1)</script>'; DROP TABLE runs; -- \u202egnp.exe\x07"


def check_spec(data: bytes) -> str:
    return str(json.loads(data)["run_id"])


def check_experiment(data: bytes) -> str:
    return str(json.loads(data)["experiment_id"])


class Lab:
    """The folders of one store."""

    def __init__(self, root: Path) -> None:
        self.root, self.runs, self.experiments = root, root / "runs", root / "experiments"
        for folder in (self.runs, self.experiments):
            folder.mkdir(parents=True)

    def read(self, file: Path) -> Imported:
        return import_snapshot(file, self.runs, self.experiments, self.root, check_spec, check_experiment)

    def content(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*"))

    def figures(self, run_id: str) -> object:
        with Database(self.root / f"{run_id}.duckdb") as database:
            Collector(self.runs, database).ingest_once(run_id)
            with database.read() as con:
                return summary(con, run_id)


@pytest.fixture
def here(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path / "here")
    for run_id in ("r1", "r2"):
        run_dir = record_run(lab.runs, run_id, steps=40)
        set_status(run_dir, "finished", labels=["random weights"])
        (run_dir / "notes.json").write_text(json.dumps({"name": HOSTILE}))
    plan = lab.experiments / "x-1"
    plan.mkdir()
    (plan / "experiment.json").write_text('{"experiment_id": "x-1"}')
    return lab


@pytest.fixture
def there(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "there")


@pytest.fixture
def file(here: Lab, tmp_path: Path) -> Path:
    out = tmp_path / "out.servescope"
    export_snapshot(out, [here.runs / "r1", here.runs / "r2"], here.experiments / "x-1")
    return out


def test_an_imported_run_has_the_same_rows_and_the_same_figures(here: Lab, there: Lab, file: Path) -> None:
    assert there.read(file) == Imported(("r1", "r2"), (), "x-1")
    for row in ROW_TYPES:
        assert spooled(there.runs / "r1", row) == spooled(here.runs / "r1", row)
    assert there.figures("r1") == here.figures("r1")
    assert json.loads((there.runs / "r1" / "notes.json").read_text())["name"] == HOSTILE


def test_export_import_export_gives_the_same_bytes(there: Lab, file: Path, tmp_path: Path) -> None:
    there.read(file)
    again = tmp_path / "again.servescope"
    export_snapshot(again, [there.runs / "r2", there.runs / "r1"], there.experiments / "x-1")
    assert again.read_bytes() == file.read_bytes()


def test_importing_twice_changes_nothing(there: Lab, file: Path) -> None:
    there.read(file)
    before = there.content()
    assert there.read(file) == Imported((), ("r1", "r2"), "x-1")
    assert there.content() == before


def test_a_run_that_is_here_gets_what_it_lacks_and_keeps_what_it_has(
    here: Lab, there: Lab, file: Path, tmp_path: Path
) -> None:
    there.read(file)
    mine = there.runs / "r1" / "notes.json"
    mine.write_text('{"name": "mine"}')
    (there.runs / "r2" / "notes.json").unlink()
    (there.experiments / "x-1" / "experiment.json").write_text('{"experiment_id": "x-1", "more": 1}')
    measured = json.dumps(document(codec("int8"))).encode()
    (here.runs / "r1" / "quality.json").write_bytes(measured)
    later = tmp_path / "later.servescope"
    export_snapshot(later, [here.runs / "r1", here.runs / "r2"], here.experiments / "x-1")
    imported = there.read(later)
    assert (imported.runs, imported.known) == ((), ("r1", "r2"))
    assert set(imported.taken) == {("r1", "quality.json"), ("r2", "notes.json")}
    assert set(imported.kept) == {("r1", "notes.json"), ("x-1", "experiment.json")}
    assert set(imported.changed) == {"r1", "r2"}
    assert (there.runs / "r1" / "quality.json").read_bytes() == measured
    assert (there.runs / "r2" / "notes.json").read_bytes() == (here.runs / "r2" / "notes.json").read_bytes()
    assert json.loads(mine.read_text()) == {"name": "mine"}
    before = there.content()
    again = there.read(later)
    assert (again.taken, again.kept) == ((), imported.kept)
    assert there.content() == before


def test_what_was_taken_over_is_given_back_where_the_import_breaks_off(
    here: Lab, there: Lab, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.read(file)
    shutil.rmtree(there.experiments / "x-1")
    (here.runs / "r1" / "quality.json").write_text(json.dumps(document(codec("int8"))))
    later = tmp_path / "later.servescope"
    export_snapshot(later, [here.runs / "r1", here.runs / "r2"], here.experiments / "x-1")
    before, rename = there.content(), Path.rename

    def full(self: Path, target: Path) -> Path:
        if self.name == "experiment":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space"):
        there.read(later)
    assert there.content() == before


def test_a_run_that_is_not_over_is_not_exported(here: Lab, tmp_path: Path) -> None:
    set_status(here.runs / "r1", "running")
    with pytest.raises(StoreError, match="not over"):
        export_snapshot(tmp_path / "out.servescope", [here.runs / "r1"])
    assert not (tmp_path / "out.servescope").exists()


def rewrite(file: Path, change: Callable[[dict[str, bytes]], None], *, honest: bool = False) -> None:
    """Change members; ``honest``: also their sizes and hashes in the manifest, as someone who means it would."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    comment = b""
    if honest:
        manifest = json.loads(members.pop("manifest.json"))
        manifest["members"] = {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in members.items()
        }
        members["manifest.json"] = json.dumps(manifest).encode()
    comment = hashlib.sha256(members.get("manifest.json", b"")).hexdigest().encode()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, DATE), data)
        archive.comment = comment


def other_bytes(members: dict[str, bytes]) -> None:
    members["runs/r1/telemetry/slice.parquet"] = members["runs/r1/telemetry/slice.parquet"][:-1] + b"x"


def climb(members: dict[str, bytes]) -> None:
    members["runs/../../evil.json"] = b"{}"


def absolute(members: dict[str, bytes]) -> None:
    members["/tmp/evil.json"] = b"{}"


def newer(members: dict[str, bytes]) -> None:
    manifest = json.loads(members["manifest.json"])
    members["manifest.json"] = json.dumps(manifest | {"schema_version": 99}).encode()


def queued(members: dict[str, bytes]) -> None:
    members["runs/r1/status.json"] = b'{"state": "queued"}'


def another_name(members: dict[str, bytes]) -> None:
    members["runs/r1/spec.json"] = members["runs/r2/spec.json"]


def other_columns(members: dict[str, bytes]) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"iteration": [1]}), sink)
    members["runs/r1/telemetry/slice.parquet"] = sink.getvalue()


def unknown_choice(members: dict[str, bytes]) -> None:
    table = pq.read_table(io.BytesIO(members["runs/r1/telemetry/slice.parquet"]))
    at = table.schema.get_field_index("kind")
    kinds = pa.array(["<b>"] * table.num_rows)
    sink = io.BytesIO()
    pq.write_table(table.set_column(at, table.schema.field(at), kinds), sink, row_group_size=1000, store_schema=False)
    members["runs/r1/telemetry/slice.parquet"] = sink.getvalue()


def another_experiment(members: dict[str, bytes]) -> None:
    members["experiment/experiment.json"] = b'{"experiment_id": "x-2"}'


def no_quality(members: dict[str, bytes]) -> None:
    members["runs/r1/quality.json"] = b'{"codecs": [1]}'


def no_manifest(members: dict[str, bytes]) -> None:
    del members["manifest.json"]


@pytest.mark.parametrize(
    ("change", "honest", "reason"),
    [
        (other_bytes, False, "altered"),
        (climb, True, "names a path"),
        (absolute, True, "names a path"),
        (newer, False, "newer"),
        (queued, True, "is over"),
        (another_name, True, "that of"),
        (other_columns, True, "columns"),
        (unknown_choice, True, "unknown kind"),
        (another_experiment, True, "its experiment"),
        (no_quality, True, "quality.json cannot be read"),
        (no_manifest, False, "no manifest"),
    ],
)
def test_what_is_wrong_is_refused_and_nothing_changes(
    there: Lab, file: Path, change: Callable[[dict[str, bytes]], None], honest: bool, reason: str
) -> None:
    rewrite(file, change, honest=honest)
    before = there.content()
    with pytest.raises(StoreError, match=reason):
        there.read(file)
    assert there.content() == before


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.999])
def test_a_truncated_file_is_refused_and_nothing_changes(there: Lab, file: Path, share: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    before = there.content()
    with pytest.raises(StoreError, match="refused"):
        there.read(file)
    assert there.content() == before


def test_any_altered_byte_is_refused_or_means_nothing(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    whole = Lab(tmp_path / "whole")
    whole.read(file)
    for at in range(0, len(data), max(1, len(data) // 60)):
        changed = bytearray(data)
        changed[at] ^= 0x55
        file.write_bytes(changed)
        lab = Lab(tmp_path / str(at))
        try:
            lab.read(file)
        except StoreError:
            assert lab.content() == ["experiments", "runs"], f"byte {at}"
        else:  # a byte that a zip file carries for nothing, such as a date
            assert lab.content() == whole.content(), f"byte {at}"
            assert spooled(lab.runs / "r1", "slice") == spooled(whole.runs / "r1", "slice"), f"byte {at}"


def test_a_bomb_is_refused_before_it_is_unpacked(there: Lab, file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    bomb = b" " * 50_000_000 + b"{}"
    members["runs/r1/spec.json"] = bomb
    manifest = json.loads(members.pop("manifest.json"))
    manifest["members"]["runs/r1/spec.json"] = {"bytes": len(bomb), "sha256": hashlib.sha256(bomb).hexdigest()}
    text = json.dumps(manifest).encode()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.writestr("manifest.json", text, zipfile.ZIP_STORED)
        archive.comment = hashlib.sha256(text).hexdigest().encode()
    with pytest.raises(StoreError, match="would unpack"):
        there.read(file)
    assert there.content() == ["experiments", "runs"]


def test_too_many_rows_are_refused(there: Lab, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_spool, "MOST_ROWS", 10)
    with pytest.raises(StoreError, match="rows"):
        there.read(file)
    assert there.content() == ["experiments", "runs"]


def test_a_run_of_the_same_name_with_other_content_is_left_alone(there: Lab, file: Path) -> None:
    mine = record_run(there.runs, "r2", steps=7)
    set_status(mine, "finished")
    before = there.content()
    with pytest.raises(StoreError, match="here already"):
        there.read(file)
    assert there.content() == before


def test_the_manifest_names_the_licences_of_traces(here: Lab, tmp_path: Path) -> None:
    spec = here.runs / "r1" / "spec.json"
    spec.write_text(json.dumps(json.loads(spec.read_text()) | {"licences": {"trace.jsonl": "Apache-2.0"}}))
    out = tmp_path / "out.servescope"
    export_snapshot(out, [here.runs / "r1", here.runs / "r2"])
    manifest = json.loads(zipfile.ZipFile(out).read("manifest.json"))
    assert manifest["licences"] == {"trace.jsonl": "Apache-2.0"}
