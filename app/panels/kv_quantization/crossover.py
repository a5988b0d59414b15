"""From which context on reading fewer bytes beats unpacking them, as a model and as it was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from app.panels.kv_quantization.codec_runs import Side, Sides

ENOUGH_STEPS = 3  # of each side, before steps of one size and context are compared
SAME = 0.02  # ratios of step time this close to one are no difference


@dataclass(frozen=True)
class ReadingModel:
    """What a codec changes about a decode step, in seconds: ``fixed + context * (unpack - saved)``.

    ``saved``: bytes not read per token of context, at the run's measured copy bandwidth. ``unpack``: what attention
    over the packed form takes per token of context beyond reading its bytes, and ``fixed``: what it takes whatever the
    context (packing the new tokens, mixing channels); both from attention alone, timed packed and plain before the run
    began.
    """

    saved_bytes: float
    saved: float
    unpack: float
    fixed: float

    @property
    def crossover(self) -> float | None:
        """Tokens of context in a step from which on the codec is faster; None: from none."""
        gain = self.saved - self.unpack
        return self.fixed / gain if gain > 0 else None

    def step_ratio(self, plain_ms: np.ndarray, context: np.ndarray) -> np.ndarray:
        """Step time with the codec as a multiple of a plain step's, at contexts."""
        change = 1e3 * (self.fixed + context * (self.unpack - self.saved))
        return np.asarray((plain_ms + change) / plain_ms)


def reading_model(side: Side) -> ReadingModel | None:
    """None where the run did not measure what it needs."""
    timed, bandwidth = side.model.get("kv_attention_s"), side.peaks.get("bytes_per_s")
    full, packed = side.model.get("kv_full_bytes_per_token"), side.model.get("kv_bytes_per_token")
    if not timed or not bandwidth or not full or not packed:
        return None
    few, many = timed["context_tokens"]
    if many <= few:
        return None
    slopes = {form: (timed[form][1] - timed[form][0]) / (many - few) for form in ("packed", "plain")}
    starts = {form: timed[form][0] - few * slopes[form] for form in ("packed", "plain")}
    saved = (full - packed) / bandwidth
    unpack = max(0.0, slopes["packed"] - slopes["plain"] + saved)
    return ReadingModel(full - packed, saved, unpack, max(0.0, starts["packed"] - starts["plain"]))


@dataclass(frozen=True)
class StepRatios:
    """Measured step times of a codec's run as multiples of full precision's, by band of context; steps of equal
    requests only.
    """

    context: np.ndarray  # tokens, mean of the band's steps
    ratio: np.ndarray
    plain_ms: np.ndarray
    steps: np.ndarray  # compared, of the side with fewer

    @property
    def crossover(self) -> float | None:
        """Context of the first band from which on no band was slower and the last was faster; None: there is none."""
        slower = np.flatnonzero(self.ratio > 1 - SAME)
        first = int(slower[-1]) + 1 if len(slower) else 0
        return float(self.context[first]) if first < len(self.ratio) else None


def step_ratios(cells: pa.Table, packed: str, plain: str) -> StepRatios:
    """From ``store.codec_runs.cells_query``: bands that both runs have steps in, at the same number of requests."""
    sides: dict[str, dict[tuple[int, int], dict[str, Any]]] = {packed: {}, plain: {}}
    for cell in cells.to_pylist():
        if cell["run_id"] in sides and cell["steps"] >= ENOUGH_STEPS:
            sides[cell["run_id"]][cell["batch"], cell["band"]] = cell
    bands: dict[int, list[tuple[float, float, float, int]]] = {}
    for key in sides[packed].keys() & sides[plain].keys():
        one, other = sides[packed][key], sides[plain][key]
        weight = min(one["steps"], other["steps"])
        middle = (one["context_tokens"] + other["context_tokens"]) / 2
        bands.setdefault(key[1], []).append((middle, one["step_ms"] / other["step_ms"], other["step_ms"], weight))
    columns: list[list[float]] = [[], [], [], []]
    for band in sorted(bands):
        in_band = np.array(bands[band])
        weights = in_band[:, 3]
        columns[0].append(float(np.average(in_band[:, 0], weights=weights)))
        columns[1].append(float(np.exp(np.average(np.log(in_band[:, 1]), weights=weights))))
        columns[2].append(float(np.average(in_band[:, 2], weights=weights)))
        columns[3].append(float(weights.sum()))
    return StepRatios(*(np.array(values) for values in columns))


@dataclass(frozen=True)
class Crossover:
    """From which context on a codec's steps are faster than full precision's: predicted next to measured."""

    name: str
    measured: StepRatios
    modelled: ReadingModel | None

    @property
    def measured_words(self) -> str:
        if not len(self.measured.ratio):
            return "not known"
        at = self.measured.crossover
        if at is None:
            return "never here"
        return "always here" if at <= self.measured.context[0] else f"from {at:,.0f} tok"

    @property
    def modelled_words(self) -> str:
        if self.modelled is None:
            return "not known"
        at = self.modelled.crossover
        return "never" if at is None else f"from {at:,.0f} tok"

    def row(self) -> dict[str, str]:
        """What was measured, what is predicted, and the figures the prediction is made of."""
        ratios, model = self.measured, self.modelled
        row = {"codec": self.name, "faster, measured": self.measured_words, "faster, modelled": self.modelled_words}
        row |= {"step time, measured": _span(ratios.ratio, ".2f") + "x" if len(ratios.ratio) else ""}
        row |= {"at context, tok": _span(ratios.context, ",.0f")}
        row |= {"spared per tok, modelled": "" if model is None else _time(model.saved)}
        row |= {"unpacking per tok": "" if model is None else _time(model.unpack)}
        return row | {"more per step": "" if model is None else _time(model.fixed)}

    @property
    def words(self) -> str:
        """Both in a sentence."""
        if not len(self.measured.ratio):
            said = "no steps of both runs had the same number of requests and a similar context, so nothing is compared"
        elif self.measured.crossover is None:
            said = f"measured, its steps never became faster ({_span(self.measured.ratio, '.2f')} times as long)"
        elif self.measured_words.startswith("always"):
            said = f"measured, its steps were faster throughout ({_span(self.measured.ratio, '.2f')} times as long)"
        else:
            said = f"measured, its steps were faster {self.measured_words.replace('tok', 'tokens of context on')}"
        if self.modelled is None:
            return f"{self.name}: {said}; no model, for the run did not time attention over the packed cache."
        told = self.modelled_words.replace("tok", "tokens of context on")
        return f"{self.name}: {said}; modelled, {told if told != 'never' else 'they never do on this device'}."


def crossovers(cells: pa.Table, sides: Sides) -> list[Crossover]:
    """Every codec's, against full precision. ``cells``: of ``store.codec_runs.cells_query``."""
    full = sides.full
    if full is None:
        return []
    return [Crossover(s.name, step_ratios(cells, s.run_id, full.run_id), reading_model(s)) for s in sides.packed]


def _span(values: np.ndarray, form: str) -> str:
    if not len(values):
        return ""
    low, high = (format(float(value), form) for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def _time(seconds: float) -> str:
    size = abs(seconds)
    if size >= 1e-3:
        return f"{1e3 * seconds:.3g} ms"
    return f"{1e6 * seconds:.3g} µs" if size >= 1e-6 else f"{1e9 * seconds:.3g} ns"
