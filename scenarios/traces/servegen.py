"""ServeGen: what each client of a real service did, window by window, and requests drawn from that.

A folder has two files for each client ``N``:

    chunk-N-trace.csv     no header: window's start in s, requests/s, cv of gaps, Gamma or Weibull, its shape, its scale;
                          a window without requests has no name there
    chunk-N-dataset.json  window's start -> input_tokens, output_tokens (and reason_ratio): each the text of a map
                          of lengths to probabilities; it holds until the next start

In a window every client gets as many requests as its rate makes of the window's length, rounded at random; their gaps
are drawn from its distribution and stretched to fill the window. Both lengths of a request are read at one quantile,
as the published generator does.
"""

from __future__ import annotations

import bisect
import itertools
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.config import ConfigError
from scenarios.gaps import filling
from scenarios.traces.files import lines, opened
from scenarios.traces.rows import LONGEST_PROMPT, Trace, TraceRow, bad, number

LICENCE = "published in alibaba/ServeGen under Apache-2.0"
COLUMNS = ("start", "rate", "cv", "distribution", "shape", "scale")
DISTRIBUTIONS = ("Gamma", "Weibull")
LENGTHS = ("input_tokens", "output_tokens")
MOST_BYTES = 100_000_000  # of one client's lengths; the largest published file has a tenth
FILE = re.compile(r"chunk-(\d+)-trace\.csv")
POINTER = "version https://git-lfs"


@dataclass(frozen=True)
class Window:
    """What a client did from one start to the next."""

    rate: float  # requests/s; 0: nothing
    distribution: str
    shape: float
    scale: float

    def gap(self, rng: random.Random) -> float:
        if self.distribution == "Gamma":
            return rng.gammavariate(self.shape, self.scale)
        return rng.weibullvariate(self.scale, self.shape)


def draw(
    folder: Path,
    count: int,
    rng: random.Random,
    *,
    from_s: float = 0.0,
    rate: float | None = None,
    clients: int | None = None,
) -> Trace:
    """``count`` requests of the folder's clients in order of arrival; fewer where its windows end before.

    Args:
        folder: with ``chunk-N-trace.csv`` and ``chunk-N-dataset.json`` of every client.
        from_s: the window that this moment lies in is the first.
        rate: requests/s of all clients together, shared out as recorded; None: as recorded.
        clients: only so many, those with the highest rates in the first window that has any; None: all.

    Raises:
        ConfigError: no such folder, or a bad line, by file, line and value.
    """
    files = _files(folder)
    starts = _starts(files[0])
    ends = [*starts[1:], 2 * starts[-1] - starts[-2]]
    moments: list[tuple[float, int, Path]] = []  # arrival, window's start, the client's file
    for start, end in zip(starts, ends, strict=True):
        if end <= from_s:
            continue
        windows = [(file, window) for file in files if (window := _window(file, start)).rate > 0]
        if clients is not None and windows and len(files) > clients:
            windows = sorted(windows, key=lambda one: -one[1].rate)[:clients]
            files = [file for file, _ in windows]
        total = sum(window.rate for _, window in windows)
        for file, window in windows:
            wanted = window.rate * (end - start) * (1 if rate is None else rate / total)
            many = int(wanted + rng.random())
            gaps = filling(end - start, [window.gap(rng) for _ in range(many + 1)])
            moments += [(start + at, start, file) for at in itertools.accumulate(gaps[:-1])]
        moments = sorted(moment for moment in moments if moment[0] >= from_s)
        if len(moments) >= count:
            break
    return Trace(tuple(_with_lengths(moments[:count], rng)), 0)


def _with_lengths(moments: Sequence[tuple[float, int, Path]], rng: random.Random) -> Iterator[TraceRow]:
    """The requests: each client's lengths are read once, and only where it has any."""
    known: dict[Path, dict[int, dict[str, str]]] = {}
    tables: dict[tuple[Path, int], list[_Lengths]] = {}
    for arrival_s, start, file in moments:
        if (file, start) not in tables:
            if file not in known:
                known[file] = _dataset(_dataset_of(file))
            tables[file, start] = _tables(_dataset_of(file), known[file], start)
        quantile = rng.random()
        prompt, output = (table.at(quantile) for table in tables[file, start])
        yield TraceRow(arrival_s, prompt, output)


class _Lengths:
    """Lengths and their probabilities."""

    def __init__(self, pairs: list[tuple[int, float]]) -> None:
        self.lengths = [length for length, _ in pairs]
        self.cumulative = list(itertools.accumulate(weight for _, weight in pairs))

    def at(self, quantile: float) -> int:
        place = bisect.bisect_right(self.cumulative, quantile * self.cumulative[-1])
        return max(1, self.lengths[min(place, len(self.lengths) - 1)])


def _files(folder: Path) -> list[Path]:
    """The clients' windows, by the clients' numbers."""
    chunks = {int(match[1]): path for path in folder.glob("chunk-*-trace.csv") if (match := FILE.fullmatch(path.name))}
    if not chunks:
        raise ConfigError(
            "path",
            str(folder),
            "It is no folder of ServeGen's clients: there is no chunk-N-trace.csv in it.",
            "Give a folder such as data/language/m-small of a copy of ServeGen.",
        )
    return [chunks[number] for number in sorted(chunks)]


def _starts(file: Path) -> list[int]:
    """Where the windows begin; the same for all clients."""
    with opened(file) as text:
        starts = [int(_record(file, n, line)["start"]) for n, line in enumerate(lines(file, text), 1) if line.strip()]
    if len(starts) < 2 or any(b <= a for a, b in itertools.pairwise(starts)):
        raise bad(file, 1, None, "its windows' starts do not go up, or there is only one")
    return starts


def _window(file: Path, start: int) -> Window:
    """A client's window."""
    with opened(file) as text:
        for line, written in enumerate(lines(file, text), 1):
            if not written.strip():
                continue
            record = _record(file, line, written)
            if int(record["start"]) != start:
                continue
            rate, shape, scale = (number(file, line, record, key) for key in ("rate", "shape", "scale"))
            if not record["distribution"]:
                return Window(0.0, "", 0.0, 0.0)
            if record["distribution"] not in DISTRIBUTIONS:
                raise bad(file, line, record["distribution"], f"gaps are one of {', '.join(DISTRIBUTIONS)}")
            if rate > 0 and not (shape > 0 and scale > 0):
                raise bad(file, line, [shape, scale], "shape and scale must be above 0")
            return Window(rate, record["distribution"], shape, scale)
    raise bad(file, 1, start, f"it has no window that begins at {start} s, as another client's file has")


def _record(file: Path, line: int, written: str) -> dict[str, str]:
    if written.startswith(POINTER):
        raise _pointer(file)
    values = [value.strip() for value in written.split(",")]
    if len(values) != len(COLUMNS) or not values[0].isdigit():
        raise bad(file, line, written.strip()[:80], f"a window has {len(COLUMNS)} values: {', '.join(COLUMNS)}")
    return dict(zip(COLUMNS, values, strict=True))


def _dataset_of(file: Path) -> Path:
    return file.with_name(file.name.replace("-trace.csv", "-dataset.json"))


def _dataset(file: Path) -> dict[int, dict[str, str]]:
    """A client's lengths by the start they hold from, as they are written."""
    with opened(file) as text:
        written = text.read(MOST_BYTES + 1)
    if written.startswith(POINTER):
        raise _pointer(file)
    if len(written) > MOST_BYTES:
        raise bad(file, 1, None, f"it is longer than {MOST_BYTES:,} characters")
    try:
        windows = {int(start): dict(fields) for start, fields in json.loads(written).items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise bad(file, 1, written[:80], "it is not a JSON object of windows by their starts") from None
    return dict(sorted(windows.items()))


def _tables(file: Path, windows: dict[int, dict[str, str]], start: int) -> list[_Lengths]:
    """Both lengths in a window: those written for the last start up to it."""
    begin = max((at for at in windows if at <= start), default=None)
    fields = windows[begin] if begin is not None else {}
    missing = [name for name in LENGTHS if name not in fields]
    if missing and any(name.startswith(("text_", "image_", "audio_", "video_")) for name in fields):
        media = ", ".join(sorted(fields))
        raise ConfigError(
            "path",
            str(file),
            f"Its requests have other media than text ({media}), which are not served.",
            "Take a folder of data/language or data/reason.",
        )
    return [_lengths(file, begin, name, str(fields.get(name, ""))) for name in LENGTHS]


def _lengths(file: Path, begin: int | None, name: str, written: str) -> _Lengths:
    pairs = []
    for pair in filter(None, written.strip().removeprefix("{").removesuffix("}").split(",")):
        length, _, weight = pair.partition(":")
        record = {"length": length, "probability": weight}
        pairs.append((int(number(file, 1, record, "length")), number(file, 1, record, "probability")))
    if not sum(weight for _, weight in pairs) > 0 or max(pairs)[0] > LONGEST_PROMPT:
        message = f"The window from {begin} s has requests, and {name} gives no lengths for it."
        raise ConfigError("path", str(file), message, "Fetch the file again, or take another from_s.")
    return _Lengths(sorted(pairs))


def _pointer(file: Path) -> ConfigError:
    return ConfigError("path", str(file), "It is a pointer of Git LFS and no data.", "Fetch the data: git lfs pull.")
