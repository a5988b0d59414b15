"""One figure for all of a run's output, so that runs of the same requests can be held against each other."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence


def digest_of(outputs: Iterable[tuple[int, Sequence[int]]]) -> str:
    """SHA-256 over every request's output token ids, in request order.

    Args:
        outputs: number of each request and its output token ids, in any order.
    """
    digest = hashlib.sha256()
    for index, output in sorted(outputs, key=lambda each: each[0]):
        ids = array("q", output)
        digest.update(array("q", [index, len(ids)]).tobytes())
        digest.update(ids.tobytes())
    return digest.hexdigest()
