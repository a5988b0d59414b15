"""Real text without shipping any: the English prose and the source code that come with every Python.

Prose is ``pydoc_data.topics``, the language reference; code is the standard library. Both differ a little between
Python releases, so text prompts (and workload hashes) are equal on equal Python versions.
"""

from __future__ import annotations

import ast
import importlib.util
import random
from functools import cache

SOURCES = (
    "argparse", "ast", "bisect", "calendar", "colorsys", "configparser", "csv", "difflib", "fnmatch", "fractions",
    "graphlib", "heapq", "inspect", "json.encoder", "queue", "sched", "shlex", "statistics", "string", "textwrap",
)  # fmt: skip


@cache
def paragraphs() -> tuple[str, ...]:
    """Running English paragraphs of the language reference, in the order of their topics' names."""
    from pydoc_data.topics import topics

    kept = []
    for name in sorted(topics):
        for block in topics[name].split("\n\n"):
            lines = block.splitlines()
            running = all(line[:1].isalnum() or line.startswith(('"', "'", "(")) for line in lines)
            if len(lines) >= 3 and running and block.endswith("."):
                kept.append(" ".join(lines))
    return tuple(kept)


@cache
def functions() -> tuple[str, ...]:
    """Top-level functions of some standard library modules, as source text."""
    texts = []
    for module in SOURCES:
        spec = importlib.util.find_spec(module)
        source = spec.loader.get_source(module) if spec and spec.loader else None  # type: ignore[attr-defined]
        if source:
            nodes = (n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef))
            texts += [text for n in nodes if (text := ast.get_source_segment(source, n))]
    if not texts:
        raise RuntimeError("this Python carries no source of its standard library; use another prompt kind than code")
    return tuple(texts)


def prose(words: int, rng: random.Random) -> str:
    """Exactly ``words`` words of prose from a random paragraph on."""
    return _gather(paragraphs(), words, rng, " ", "\n\n")


def code(words: int, rng: random.Random) -> str:
    """Source code from a random function on, at least ``words`` words of it."""
    return _gather(functions(), words, rng, None, "\n\n\n")


def short_function(max_lines: int, rng: random.Random) -> str:
    """A function of 4 to ``max_lines`` lines."""
    fitting = [f for f in functions() if 4 <= f.count("\n") + 1 <= max_lines]
    return rng.choice(fitting)


def _gather(pieces: tuple[str, ...], words: int, rng: random.Random, separator: str | None, joiner: str) -> str:
    """Whole pieces from a random one on; prose (``separator`` given) is cut at exactly ``words`` words."""
    at, left, taken = rng.randrange(len(pieces)), words, []
    while left > 0:
        piece = pieces[at % len(pieces)]
        if separator is not None and len(piece.split()) > left:
            piece = separator.join(piece.split()[:left])
        taken.append(piece)
        left -= len(piece.split())
        at += 1
    return joiner.join(taken)
