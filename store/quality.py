"""The table ``quality``: what codecs of the KV cache cost, measured for a run. An index of the runs' ``quality.json``; the files are the truth."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import duckdb

from store.quality_file import MOST_BYTES, Chunking, CodecCost, Needle, Quality, Side
from store.query import Query
from store.schema import QUALITY_COLUMNS, quoted
from store.transaction import transaction
from telemetry.folder import QUALITY as FILE
from telemetry.json_file import Unreadable, parse_as, read_bounded

FULL_PRECISION = "full precision"

Stamp = tuple[int, int]


class QualityIndex:
    """Keeps the table as the runs' folders are. A file is in the table exactly once, told by its digest; it is read again only when it
    has changed."""

    def __init__(self, runs_dir: Path) -> None:
        self._runs_dir = runs_dir
        self._seen: dict[str, Stamp] = {}  # run -> time and size of the file that was looked at last

    def sync(self, con: duckdb.DuckDBPyConnection) -> int:
        """Take in what is new or changed in any run's folder, take out what is gone; returns how many runs changed."""
        if not self._runs_dir.is_dir():  # unmounted, not emptied
            return 0
        paths = {path.parent.name: path for path in self._runs_dir.glob(f"*/{FILE}")}
        return self._take(con, paths, _digests(con))

    def sync_run(self, con: duckdb.DuckDBPyConnection, run_id: str) -> int:
        """The same for one run."""
        path = self._runs_dir / run_id / FILE
        return self._take(con, {run_id: path} if path.is_file() else {}, _digests(con, run_id))

    def _take(self, con: duckdb.DuckDBPyConnection, paths: dict[str, Path], stored: dict[str, str]) -> int:
        fresh: dict[str, list[dict[str, Any]]] = {}
        for run_id, path in paths.items():
            try:
                about = path.stat()
                stamp = (about.st_mtime_ns, about.st_size)
                if self._seen.get(run_id) == stamp:
                    continue
                data = read_bounded(path, MOST_BYTES)
            except Unreadable:
                data = b""
            except OSError:  # deleted meanwhile
                continue
            if stored.get(run_id) != hashlib.sha256(data).hexdigest():
                fresh[run_id] = rows_of(run_id, data) or []
            self._seen[run_id] = stamp
        gone = stored.keys() - paths.keys()
        changed = {run_id for run_id, rows in fresh.items() if rows or run_id in stored} | gone
        if changed:
            try:
                with transaction(con):
                    for run_id in changed:
                        con.execute("DELETE FROM quality WHERE run_id = ?", [run_id])
                    _insert(con, [row for rows in fresh.values() for row in rows])
            except duckdb.Error:
                for run_id in fresh:  # not in the table: look again next time
                    self._seen.pop(run_id, None)
                raise
        for run_id in gone:
            self._seen.pop(run_id, None)
        return len(changed)


def rows_of(run_id: str, data: bytes) -> list[dict[str, Any]] | None:
    """A file's rows: full precision first, then every codec; None for a file that is none."""
    try:
        quality = parse_as(Quality, data[: MOST_BYTES + 1], Path(FILE))
    except Unreadable:
        return None
    about = {
        "model": quality.model,
        "dtype": quality.dtype,
        "device": quality.device,
        "block_size": quality.block_size,
        "seed": quality.seed,
        "labels": json.dumps(quality.labels, ensure_ascii=False),
        "text": quality.text,
        "text_tokens": quality.tokens,
        "new_tokens": quality.new_tokens,
        "needle_tokens": quality.needle_tokens,
        "digest": hashlib.sha256(data).hexdigest(),
    }
    full = quality.full
    row = dict.fromkeys(QUALITY_COLUMNS) | about
    row |= {"run_id": run_id, "place": 0, "name": FULL_PRECISION, "capacity": 1.0, "perplexity_ratio": 1.0}
    row |= {"bytes_per_token": full.bytes_per_token, "perplexity": full.perplexity}
    row |= {**_needles(full.needles), **_chunking(full)}
    rows = [row]
    for place, codec in enumerate(quality.codecs, 1):
        rows.append(_codec(codec, full.perplexity) | about | {"run_id": run_id, "place": place})
    assert all(row.keys() == QUALITY_COLUMNS.keys() for row in rows)
    return rows


def digest_of(run_dir: Path) -> str | None:
    """What tells a run's result from an earlier one; None where there is none that can be read."""
    try:
        data = read_bounded(run_dir / FILE, MOST_BYTES)
    except (OSError, Unreadable):
        return None
    return hashlib.sha256(data).hexdigest() if rows_of(run_dir.name, data) else None


def _codec(codec: CodecCost, full_perplexity: float) -> dict[str, Any]:
    settings = codec.settings.model_dump(mode="json")
    return {
        "name": codec.name,
        "codec": codec.settings.codec,
        "settings": json.dumps(settings, sort_keys=True),
        "bits": codec.bits,
        "window_tokens": codec.window,
        "bytes_per_token": codec.bytes_per_token,
        "capacity": codec.capacity,
        "perplexity": codec.perplexity,
        "perplexity_ratio": codec.perplexity / full_perplexity,
        "kl": codec.kl,
        "agreement": codec.agreement,
        "greedy_agreement": codec.greedy_agreement,
        "first_divergence": codec.first_divergence,
        "key_error": codec.key_error,
        "value_error": codec.value_error,
        **_needles(codec.needles),
        **_chunking(codec),
    }


def _needles(needles: Sequence[Needle]) -> dict[str, int]:
    return {"needles": len(needles), "needles_found": sum(needle.found for needle in needles)}


def _chunking(side: Side) -> dict[str, float | None]:
    """What reading the text in other pieces changed; files of earlier versions do not say."""
    chunking = side.chunking or Chunking()
    return {f"chunking_{name}": value for name, value in chunking.model_dump().items()}


def _digests(con: duckdb.DuckDBPyConnection, run_id: str | None = None) -> dict[str, str]:
    """Of the files that are in the table, by run; of one run or of all."""
    where, values = ("WHERE run_id = ?", [run_id]) if run_id is not None else ("", [])
    return dict(con.execute(f"SELECT DISTINCT run_id, digest FROM quality {where}", values).fetchall())


def _insert(con: duckdb.DuckDBPyConnection, rows: Iterable[dict[str, Any]]) -> None:
    names = list(QUALITY_COLUMNS)
    marks = ", ".join(f"?::{QUALITY_COLUMNS[name].removesuffix(' NOT NULL')}" for name in names)
    for row in rows:
        con.execute(
            f"INSERT INTO quality ({', '.join(map(quoted, names))}) VALUES ({marks})", [row[name] for name in names]
        )


def quality_query(run_id: str) -> Query:
    """What was measured for a run: full precision first, then every codec."""
    return Query("SELECT * EXCLUDE (run_id) FROM quality WHERE run_id = $run ORDER BY place", {"run": run_id})


def quality(con: duckdb.DuckDBPyConnection, run_id: str) -> list[dict[str, Any]]:
    return quality_query(run_id).rows(con)


def quality_of_model_query(model: str, dtype: str) -> Query:
    """What was measured for any run of a model, latest runs first; of a run that is no longer here nothing is left."""
    return Query(
        """
SELECT q.* EXCLUDE (key_error, value_error, text), r.spec
FROM quality q JOIN runs r USING (run_id) WHERE q.model = $model AND q.dtype = $dtype AND q.place > 0
ORDER BY r.created_unix_ns DESC, run_id, place LIMIT 2000""".strip(),
        {"model": model, "dtype": dtype},
    )
