"""Runs of the same requests with different codecs of the KV cache: which belong together, and their figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
from pydantic import ValidationError

from app.panels.kv_quantization.measure import STANDARD
from app.words.text import in_sentence
from engine.config import EngineConfig, KVQuantization, codec_of_today, spec_of_today
from store import codec_runs as queries
from store.machine import machine_of
from store.pool_room import PoolRoom, pool_room
from store.quality import FULL_PRECISION, quality_of_model_query

QUALITY = ("perplexity_ratio", "kl", "agreement", "greedy_agreement", "text_tokens")


@dataclass(frozen=True)
class Side:
    """One run among those that differ in nothing but the codec."""

    run_id: str
    name: str
    codec: KVQuantization | None
    capacity: PoolRoom | None
    model: Mapping[str, Any]
    peaks: Mapping[str, float]
    labels: tuple[str, ...]
    steps: Mapping[str, Any]  # a row of ``store.codec_runs.steps_query``
    output_tokens_per_s: float | None
    quality: Mapping[str, Any] | None  # of this codec on this model; None: not measured
    block_size: int
    disturbed: tuple[str, ...] = ()  # what visibly disturbed the machine while it was served

    def row(self) -> dict[str, Any]:
        """Its figures as one row; None for what is not known."""
        held, quality = self.capacity, self.quality or {}
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
            **{name: quality.get(name) for name in QUALITY},
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
    """A run and the newest other runs of the same requests, one for each other codec, that differ from it in nothing
    else.
    """
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
                pool_room(con, row["run_id"]),
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
    """What the run's codec costs on its model: measured for the run itself, or for another of the same model. None: for
    none.
    """
    if engine.kv_quantization is None:
        return {"perplexity_ratio": 1.0, "kl": 0.0, "agreement": 1.0, "greedy_agreement": 1.0, "text_tokens": None}
    others = quality_of_model_query(engine.model, str(row["model"].get("dtype"))).rows(con)
    others.sort(key=lambda other: other["run_id"] != row["run_id"])
    for other in others:
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
