"""Two runs of the same requests side by side: figures by group, what should come out, and what one pair can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from app.errors import LabError
from app.experiments.expectations import Side, expectations
from app.home import Home
from app.runs.facts import RunFacts, asked_apart, load_run, told_apart
from app.runs.latencies import ALL, groups_of
from app.words.plain import counted
from app.words.table import Column, Row, Table
from app.words.text import number
from store.aside import rows_aside
from store.metrics import METRICS, STALL_MS, carries
from store.statistics import SMALL
from store.summary import latencies_of, summary

MOST_WORDS = 3
SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": None}


def pair_of(home: Home, one: str, other: str) -> dict[str, Any]:
    """``pair_result`` of two runs by their ids, from their own spools. Raises ``LabError`` for unknown runs, and for
    runs that were not asked the same.
    """
    before, after = in_order(load_run(home, one), load_run(home, other))
    if apart := asked_apart(before, after):
        raise LabError(
            "not-comparable",
            field="--beside",
            value=other,
            message=f"{one} and {other} were not asked the same requests: {apart}.",
            mend="Take runs of one scenario, seed and workload, or see both unpaired: choose them on the Runs page.",
        )
    with rows_aside(home.runs, [one, other]) as rows:
        return pair_result(rows.con, after.spec.scenario, *sides_of(before, after))


def in_order(one: RunFacts, other: RunFacts) -> tuple[RunFacts, RunFacts]:
    """The earlier run, then the later."""
    first, second = sorted((one, other), key=lambda facts: (facts.spec.created_unix_ns, facts.run_id))
    return first, second


def sides_of(before: RunFacts, after: RunFacts) -> tuple[Side, Side]:
    """Both runs, each called by how it differs from the other, in a few words."""
    first, second = (
        Side(
            ", ".join(told_apart(one, other)[:MOST_WORDS]) or one.run_id,
            one.spec.engine,
            [one.run_id],
        )
        for one, other in ((before, after), (after, before))
    )
    return first, second


def pair_result(con: duckdb.DuckDBPyConnection, scenario: str, before: Side, after: Side) -> dict[str, Any]:
    """Everything the page shows of a pair, as plain data; each side has one run, which is over and in the database."""
    sides = {"before": before, "after": after}
    told = {key: summary(con, side.runs[0]) or {} for key, side in sides.items()}
    return {
        **{
            key: {
                "name": side.name,
                "run_id": side.runs[0],
                "labels": told[key].get("labels") or [],
                "disturbances": told[key].get("disturbances") or [],
                "same_requests": told[key].get("workload_hash"),
            }
            for key, side in sides.items()
        },
        "figures": pair_figures(told["before"], told["after"]),
        "expect": expectations(con, scenario, [before, after]),
        "says": what_one_pair_tells(told["before"], told["after"]),
    }


def pair_figures(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for every figure of every group that both runs have. Both are summaries, and stalls have one threshold for
    both.
    """
    titles = latencies_of(before, after)
    groups = {
        name: (one, groups_of(after)[name]) for name, one in groups_of(before).items() if name in groups_of(after)
    }
    rows: list[dict[str, Any]] = []
    for group, sides in groups.items():
        for metric, title in titles.items():
            latencies = [side.get(metric) or {} for side in sides]
            counts = [told.get("count") or 0 for told in latencies]
            for name, share in SHARES.items():
                few = share is not None and any(count and not carries(count, share) for count in counts)
                values = [told.get(name) for told in latencies]
                rows.append(_row(group, metric, f"{title}, {name}, ms", values, counts, few))
        for metric, title in (
            ("output_tokens_per_s", "Output tokens per second"),
            ("stalls", f"Stalls: gaps above {STALL_MS:g} ms"),
        ):
            rows.append(_row(group, metric, title, [side.get(metric) for side in sides], [], False))
    return rows


def _row(
    group: str, metric: str, title: str, values: Sequence[float | None], counts: Sequence[int], few: bool
) -> dict[str, Any]:
    before, after = values
    ratio = after / before if before and after is not None else None
    return {
        "group": group,
        "metric": metric,
        "figure": title,
        "before": before,
        "after": after,
        "ratio": ratio,
        "samples": list(counts),
        "too_few": few,
    }


def pair_table(result: Mapping[str, Any], group: str = ALL) -> Table:
    """The figures of one group in two columns, named by the two runs."""
    columns = (
        Column("figure", ("figure",), lambda row: str(row["figure"])),
        Column(result["before"]["name"], ("before",), lambda row: number(row["before"])),
        Column(result["after"]["name"], ("after",), lambda row: number(row["after"])),
        Column(
            "change",
            ("ratio",),
            _change,
            help="The second column over the first; ▲ is better, ▼ worse, neither within 10 %.",
        ),
        Column("samples", ("samples",), _samples, help="How many samples each percentile rests on, in both runs."),
    )
    rows = [row for row in result["figures"] if row["group"] == group]
    return Table(f"Figures of {group}", columns, rows, summary=f"{len(rows)} figures of {group} in both runs")


def _change(row: Row) -> str:
    if row["ratio"] is None:
        return "–"
    better = METRICS[row["metric"]].better
    if abs(row["ratio"] - 1) <= SMALL or better is None:
        return f"x{row['ratio']:.3g}"
    return f"{'▲' if (row['ratio'] < 1) == (better == 'lower') else '▼'} x{row['ratio']:.3g}"


def _samples(row: Row) -> str:
    counts = dict.fromkeys(row["samples"])
    said = " / ".join(f"{count:,}" for count in counts)
    return f"{said}, too few" if row["too_few"] else said


def what_one_pair_tells(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What can and cannot be read from one run on each side, in sentences."""
    requests = (after.get("requests") or {}).get("total") or 0
    said = [
        f"One run each, of the same {counted(requests, 'request')}. How much two runs with the same settings differ "
        "is not known from one "
        f"pair: a time that differs by less than {SMALL:.0%} may be chance. Repeats say how sure it is."
    ]
    disturbed = [name for name, told in (("first", before), ("second", after)) if told.get("disturbances")]
    if disturbed:
        said.append(f"The machine was disturbed during the {' and the '.join(disturbed)} run; its times say less.")
    if before.get("output_digest") and after.get("output_digest"):
        same = before["output_digest"] == after["output_digest"]
        said.append(
            "Both gave the same tokens." if same else "They did not give the same tokens, so the work differs too."
        )
    return said
