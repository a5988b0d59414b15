"""Runs of the same requests with different codecs of the KV cache: which belong together, their figures, and from which context on
reading fewer bytes beats unpacking them, as a model and as it was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from app.panels.kv_quantization.measure import STANDARD
from app.words.text import in_sentence
from engine.config import EngineConfig, KVQuantization, codec_of_today, spec_of_today
from store import codecs as queries
from store.capacity import Capacity, capacity
from store.quality import FULL_PRECISION, quality_of_model_query
from store.samples import machine_of

ENOUGH_STEPS = 3  # of each side, before steps of one size and context are compared
SAME = 0.02  # ratios of step time this close to one are no difference
QUALITY = ("perplexity_ratio", "kl", "agreement", "greedy_agreement", "text_tokens")


@dataclass(frozen=True)
class Side:
    """One run among those that differ in nothing but the codec."""

    run_id: str
    name: str
    codec: KVQuantization | None
    capacity: Capacity | None
    model: Mapping[str, Any]
    peaks: Mapping[str, float]
    labels: tuple[str, ...]
    steps: Mapping[str, Any]  # a row of ``store.codecs.steps_query``
    output_tokens_per_s: float | None
    quality: Mapping[str, Any] | None  # of this codec on this model; None: not measured
    block_size: int
    disturbed: tuple[str, ...] = ()  # what visibly disturbed the machine while it was served

    def row(self) -> dict[str, Any]:
        """Its figures as one row; None for what is not known."""
        held, found = self.capacity, self.quality or {}
        return {
            "codec": self.name,
            "bits": None if held is None else held.bits,
            "capacity_tokens": None if held is None else held.tokens,
            "capacity_requests": None if held is None else held.requests,
            "most_running": self.steps.get("most_running"),
            "decode_step_ms": self.steps.get("decode_step_ms"),
            "decode_requests": self.steps.get("decode_requests"),
            "output_tokens_per_s": self.output_tokens_per_s,
            "preemptions": self.steps.get("preemptions"),
            **{name: found.get(name) for name in QUALITY},
            "disturbed": "; ".join(self.disturbed) or "nothing seen",
            "run_id": self.run_id,
        }


@dataclass(frozen=True)
class Sides:
    """The runs that stand side by side: full precision first, then by falling bits; one for each codec."""

    sides: tuple[Side, ...]
    left_out: int  # runs of the same requests that differ in more than the codec

    @property
    def full(self) -> Side | None:
        return next((side for side in self.sides if side.codec is None), None)

    @property
    def packed(self) -> tuple[Side, ...]:
        return tuple(side for side in self.sides if side.codec is not None)

    @property
    def runs(self) -> list[str]:
        return [side.run_id for side in self.sides]

    @property
    def names(self) -> dict[str, str]:
        return {side.run_id: side.name for side in self.sides}

    def table(self) -> pa.Table:
        return pa.Table.from_pylist([side.row() for side in self.sides])


def codec_name(codec: KVQuantization | None) -> str:
    """``int4``, ``kivi 2-bit``, or the codec with what is not usual about it."""
    if codec is None:
        return FULL_PRECISION
    for name, standard in STANDARD.items():
        if codec == standard:
            return name
    usual = KVQuantization(codec=codec.codec)
    others = [_in_words(key, value) for key, value in codec if _matters(codec, usual, key)]
    return ", ".join([codec.codec, *others])


def _matters(codec: KVQuantization, usual: KVQuantization, key: str) -> bool:
    return key != "codec" and codec.reads(key) and getattr(codec, key) != getattr(usual, key)


def _in_words(key: str, value: Any) -> str:
    """``wide keys off``, ``group 32``."""
    title = KVQuantization.model_fields[key].title or key
    said = {True: "on", False: "off", None: "automatic"}[value] if isinstance(value, bool | None) else value
    return f"{in_sentence(title)} {said}"


def side_by_side(con: duckdb.DuckDBPyConnection, run_id: str, workload_hash: str) -> Sides:
    """A run and the newest other runs of the same requests, one for each other codec, that differ from it in nothing else."""
    rows = queries.same_requests(con, workload_hash)
    own = next((row for row in rows if row["run_id"] == run_id), None)
    if own is None or (engine := _engine(own)) is None:
        return Sides((), 0)
    chosen: dict[str, tuple[dict[str, Any], EngineConfig]] = {codec_name(engine.kv_quantization): (own, engine)}
    left_out = 0
    for row in rows:
        other = _engine(row)
        if row is own or other is None or "warm-up" in row["labels"]:
            continue
        if _all_else(other, row) != _all_else(engine, own):
            left_out += 1
        else:
            chosen.setdefault(codec_name(other.kv_quantization), (row, other))
    return _sides(con, chosen, left_out)


def of_runs(con: duckdb.DuckDBPyConnection, run_ids: Sequence[str], workload_hash: str) -> Sides:
    """The sides that the given runs are, for instance the variants of a comparison; the first run of each codec."""
    rows = {row["run_id"]: row for row in queries.same_requests(con, workload_hash)}
    chosen: dict[str, tuple[dict[str, Any], EngineConfig]] = {}
    for run_id in run_ids:
        if run_id in rows and (engine := _engine(rows[run_id])) is not None:
            chosen.setdefault(codec_name(engine.kv_quantization), (rows[run_id], engine))
    return _sides(con, chosen, 0)


def _sides(
    con: duckdb.DuckDBPyConnection, chosen: dict[str, tuple[dict[str, Any], EngineConfig]], left_out: int
) -> Sides:
    ids = [row["run_id"] for row, _ in chosen.values()]
    steps = {row["run_id"]: row for row in queries.steps_query(ids).rows(con)}
    sides = []
    for name, (row, engine) in chosen.items():
        model = row["model"]
        sides.append(
            Side(
                row["run_id"],
                name,
                engine.kv_quantization,
                capacity(con, row["run_id"]),
                model,
                row["peaks"],
                tuple(row["labels"]),
                steps.get(row["run_id"], {}),
                row["figures"].get("output_tokens_per_s"),
                _quality(con, engine, row),
                engine.block_size,
                tuple(machine_of(con, row["run_id"])["disturbances"]),
            )
        )
    sides.sort(key=lambda side: (side.codec is not None, -(side.capacity.bits or 0) if side.capacity else 0, side.name))
    return Sides(tuple(sides), left_out)


def _engine(row: Mapping[str, Any]) -> EngineConfig | None:
    """A run's settings; None where this version cannot read them."""
    try:
        return EngineConfig.model_validate(spec_of_today(row["spec"]).get("engine") or {})
    except ValidationError:
        return None


def _all_else(engine: EngineConfig, row: Mapping[str, Any]) -> dict[str, Any]:
    """What must be equal: every setting but the codec, and what the run was served with."""
    settings = engine.model_dump(mode="json", exclude={"kv_quantization", "policy"})
    model = row["model"]
    served = {name: model.get(name) for name in ("name", "parameters", "dtype", "device")}
    return settings | {"policy": engine.resolved_policy, "served": served}


def _quality(con: duckdb.DuckDBPyConnection, engine: EngineConfig, row: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the run's codec costs on its model: measured for the run itself, or for another of the same model. None: for none."""
    if engine.kv_quantization is None:
        return {"perplexity_ratio": 1.0, "kl": 0.0, "agreement": 1.0, "greedy_agreement": 1.0, "text_tokens": None}
    found = quality_of_model_query(engine.model, str(row["model"].get("dtype"))).rows(con)
    found.sort(key=lambda other: other["run_id"] != row["run_id"])
    for other in found:
        spec = (json.loads(other["spec"] or "{}").get("engine")) or {}
        size = spec.get("block_size") if other["block_size"] is None else other["block_size"]
        seed = spec.get("seed") if other["seed"] is None else other["seed"]
        if (size, seed) == (engine.block_size, engine.seed) and _codec(other["settings"]) == engine.kv_quantization:
            return other
    return None


def _codec(settings: str | None) -> KVQuantization | None:
    try:
        return KVQuantization.model_validate(codec_of_today(json.loads(settings or "")))
    except (ValueError, TypeError):
        return None


# ---- reading fewer bytes against unpacking them ----------------------------------------------------------------------------


@dataclass(frozen=True)
class ReadingModel:
    """What a codec changes about a decode step, in seconds: ``fixed + context * (unpack - saved)``.

    ``saved``: bytes not read per token of context, at the run's measured copy bandwidth. ``unpack``: what attention over the packed form
    takes per token of context beyond reading its bytes, and ``fixed``: what it takes whatever the context (packing the new tokens, mixing
    channels); both from attention alone, timed packed and plain before the run began.
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
    """Measured step times of a codec's run as multiples of full precision's, by band of context; steps of equal requests only."""

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
    """From ``store.codecs.cells_query``: bands that both runs have steps in, at the same number of requests."""
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
        found = np.array(bands[band])
        weights = found[:, 3]
        columns[0].append(float(np.average(found[:, 0], weights=weights)))
        columns[1].append(float(np.exp(np.average(np.log(found[:, 1]), weights=weights))))
        columns[2].append(float(np.average(found[:, 2], weights=weights)))
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
    """Every codec's, against full precision. ``cells``: of ``store.codecs.cells_query``."""
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
