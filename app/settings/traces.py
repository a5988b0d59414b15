"""Trace files that a person brings: kept in ``HOME/traces`` if they are ones."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from app.errors import LabError
from app.home import Home
from app.rights import Right, needs
from scenarios import traces

MOST_ROWS = 200  # of a trace that is dropped, as the number of requests to begin with
MOST_BYTES = 200 << 20


@dataclass(frozen=True)
class KeptTrace:
    """``rows``: as many as a run begins with, at most ``MOST_ROWS``. ``has_blocks``: they say what they share."""

    path: Path
    rows: int
    has_blocks: bool


@needs(Right.KEEP)
def keep_trace(home: Home, name: str, data: bytes) -> KeptTrace:
    """Keep a trace file under its name; one that is there already is replaced.

    Raises:
        LabError: it is no file name, too large, or cannot be written.
        ConfigError: it is no trace, with the row and what is wrong there.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name.replace("\\", "/")).name).lstrip(".-")[:100]
    if not safe:
        raise LabError("bad-trace", field="trace", value=name[:80], message="The file has no name.", mend="Name it.")
    if len(data) > MOST_BYTES:
        said = f"A trace has at most {MOST_BYTES >> 20} MiB here; this one has {len(data) >> 20}."
        raise LabError("bad-trace", field="trace", value=safe, message=said, mend="Cut it, or give its path instead.")
    place = home.traces / safe
    try:
        home.traces.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.traces, prefix=".trace-") as folder:
            part = Path(folder) / safe
            part.write_bytes(data)
            trace = traces.read(part, "auto", MOST_ROWS)
            part.replace(place)
    except OSError as error:
        said = f"The trace cannot be kept: {error.strerror}."
        raise LabError("bad-trace", field="trace", value=safe, message=said, mend="Free some space.") from error
    if not trace.rows:
        place.unlink(missing_ok=True)
        said = f"{safe} has no row that can be served."
        raise LabError("bad-trace", field="trace", value=safe, message=said, mend="docs/scenarios.md has the formats.")
    return KeptTrace(place, len(trace.rows), any(row.block_ids for row in trace.rows))
