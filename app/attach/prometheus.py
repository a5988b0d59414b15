"""Pages of metrics in Prometheus' text format and in OpenMetrics: samples by name and labels.

Sources: the text exposition format of Prometheus, version 0.0.4, and OpenMetrics 1.0. Comments, units and exemplars
are passed over; time stamps too, since a page says what is true when it is read.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping

MOST_SAMPLES = 200_000
LONGEST_LINE = 16_384
Labels = tuple[tuple[str, str], ...]
"""Sorted by name."""
Page = Mapping[str, Mapping[Labels, float]]

_LINE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)[ \t]+([^ \t{}]+)(?:[ \t]+-?[0-9.eE+]+)?[ \t]*$")
_LABEL = re.compile(r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*(,|$)')
_ESCAPED = re.compile(r"\\(.)")
_MEANS = {"n": "\n", "\\": "\\", '"': '"'}


class NotMetrics(ValueError):
    """A text that is no page of metrics; the message says where."""


def parse_page(text: str) -> Page:
    """The samples of a page: name -> labels -> value. Of a sample that stands twice the last counts.

    Raises ``NotMetrics`` naming the first line that is none.
    """
    samples: dict[str, dict[Labels, float]] = defaultdict(dict)
    count = 0
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip("\r\t ")
        if not line or line.startswith("#"):
            continue
        if len(line) > LONGEST_LINE:
            raise NotMetrics(f"line {number} has {len(line):,} characters")
        name, labels, value = _sample(line, number)
        samples[name][labels] = value
        count += 1
        if count > MOST_SAMPLES:
            raise NotMetrics(f"more than {MOST_SAMPLES:,} samples")
    return samples


def _sample(line: str, number: int) -> tuple[str, Labels, float]:
    name, brace, rest = line.partition("{")
    if brace and "#" not in name:
        close = _closing(line, len(name))
        inside, rest = line[len(name) + 1 : close], line[close + 1 :]
        found = _LINE.match(f"{name.strip()} {_but_exemplar(rest).strip()}") if close > 0 else None
    else:
        inside, found = "", _LINE.match(_but_exemplar(line))
    if found is None:
        raise NotMetrics(f"line {number} is no sample: {line[:80]!r}")
    try:
        value = float(found.group(2).replace("Inf", "inf"))
    except ValueError as error:
        raise NotMetrics(f"line {number} has no number: {line[:80]!r}") from error
    return found.group(1), _labels(inside, number), value


def _but_exemplar(text: str) -> str:
    return text.split(" # ", 1)[0]


def _closing(head: str, brace: int) -> int:
    """Where the labels end; -1 where they do not. Braces within quotes count for nothing."""
    quoted = escaped = False
    for place in range(brace + 1, len(head)):
        character = head[place]
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = quoted
        elif character == '"':
            quoted = not quoted
        elif character == "}" and not quoted:
            return place
    return -1


def _labels(text: str, number: int) -> Labels:
    found, at, text = {}, 0, text.strip()
    while at < len(text):
        label = _LABEL.match(text, at)
        if label is None:
            raise NotMetrics(f"line {number} has labels that are none: {text[:80]!r}")
        found[label.group(1)] = _ESCAPED.sub(lambda m: _MEANS.get(m.group(1), m.group(0)), label.group(2))
        at = label.end()
    return tuple(sorted(found.items()))


def total(page: Page, name: str) -> float | None:
    """The sum over all label sets; None where the page has no such sample, or none that is a number."""
    known = [value for value in page.get(name, {}).values() if math.isfinite(value)]
    return sum(known) if known else None
