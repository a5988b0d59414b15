"""The tables of KV quantization: quality per codec, and runs that differ in nothing but the codec."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from app.panels.kv_quantization.codec_runs import Sides
from app.panels.kv_quantization.words import HELP
from app.words.table import Column, Table, figure_of, share, words_of

Row = Mapping[str, Any]


def signed(ratio: float) -> str:
    """A ratio as a change in percent; none is never negative."""
    return f"{round(100 * (ratio - 1), 2) + 0.0:+.2f} %"


def _measured(title: str, key: str, write: Callable[[Any], str]) -> Column:
    """A column that says nothing of full precision, against which it is measured, nor where nothing was measured."""

    def text(row: Row) -> str:
        return "" if row["place"] == 0 or row[key] is None else write(row[key])

    return Column(title, (key,), text)


def _facts(row: Row) -> str:
    return f"{row['needles_found']} of {row['needles']}" if row["needles"] else ""


def _cut(row: Row) -> str:
    return "" if row["chunking_logits"] is None else f"{row['chunking_logits']:.2g}"


QUALITY = (
    words_of("codec", "name"),
    _measured("bits", "bits", lambda bits: f"{bits:.2f}"),
    Column("KV capacity, times", ("capacity",), lambda row: f"{row['capacity']:.2f}x"),
    Column("perplexity", ("perplexity",), lambda row: f"{row['perplexity']:.3f}"),
    _measured("change", "perplexity_ratio", signed),
    _measured("KL divergence, nats", "kl", lambda kl: f"{kl:.4f}"),
    _measured("top-1 agreement", "agreement", share),
    _measured("greedy agreement", "greedy_agreement", lambda value: f"{100 * value:.0f} %"),
    Column("needles found", ("needles_found", "needles"), _facts),
    Column("logit change, cut otherwise", ("chunking_logits",), _cut),
)
"""Of a row of ``store.quality``."""

CODECS = (
    words_of("codec", "codec"),
    figure_of("bits", "bits", "%.2f", HELP["bits"]),
    figure_of("KV capacity, tok", "capacity_tokens", "localized", HELP["capacity_tokens"]),
    figure_of("max concurrent requests", "capacity_requests", "%.1f", HELP["capacity_requests"]),
    figure_of("most running", "most_running", "", HELP["most_running"]),
    figure_of("decode step p50, ms", "decode_step_ms", "%.1f", HELP["decode_step_ms"]),
    figure_of("requests per decode step", "decode_requests", "%.1f", HELP["decode_requests"]),
    figure_of("output tok/s", "output_tokens_per_s", "%.1f", HELP["output_tokens_per_s"]),
    figure_of("preemptions", "preemptions", "", HELP["preemptions"]),
    figure_of("perplexity, x", "perplexity_ratio", "%.4f", HELP["perplexity_ratio"]),
    figure_of("KL divergence, nats", "kl", "%.4f", HELP["kl"]),
    figure_of("top-1 agreement", "agreement", "percent", HELP["agreement"], share),
    figure_of("greedy agreement", "greedy_agreement", "percent", HELP["greedy_agreement"], share),
    words_of("disturbed by", "disturbed", HELP["disturbed"]),
    Column("run", ("run_id",), lambda row: str(row["run_id"]), "run", "Opens the run."),
)
"""Of a ``codec_runs.Side``'s row."""


def quality_table(rows: Sequence[Row]) -> Table:
    """What codecs cost, measured for a run. ``rows``: of ``store.quality``, full precision first."""
    full, codecs = rows[0], rows[1:]
    labels = json.loads(full["labels"] or "[]")
    note = (
        f"Measured on {full['model']}, {full['dtype']} on {full['device']}; {full['text_tokens']} tokens of "
        f"{full['text']}."
    )
    note += f" Labels: {', '.join(labels)}." if labels else ""
    summary = "; ".join(
        f"{codec['name']}: {codec['capacity']:.2f} times the tokens, perplexity {signed(codec['perplexity_ratio'])}"
        for codec in codecs
    )
    return Table("Quality per codec of the KV cache", QUALITY, rows, note, summary)


def codec_table(sides: Sides) -> Table:
    """Room, speed and quality of runs that differ in nothing but the codec."""
    rows = [side.row() for side in sides.sides]
    summary = "; ".join(
        f"{row['codec']} {row['capacity_tokens']} tokens, {row['preemptions']} preemptions" for row in rows
    )
    note = "The first repeat of each. Quality is of the codec on this model; a dash: not measured."
    return Table("Codecs of the KV cache", CODECS, rows, note, summary)
