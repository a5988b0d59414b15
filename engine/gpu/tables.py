"""The host's side of the block tables: arrays that follow the requests' lists."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.request import Request

_NOTHING = np.empty(0, np.int32)


class BlockTables:
    """Block tables as arrays, converted when they are new or changed and only extended when they grew."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[list[int], np.ndarray, int]] = {}
        self._versions = 0

    def of(self, request: Request, count: int) -> np.ndarray:
        """The first ``count`` blocks [count] int32."""
        table = request.block_table
        copy, array, version = self._known.get(request.index, ([], _NOTHING, 0))
        if copy != table:
            grown = len(copy) < len(table) <= len(array) and table[: len(copy)] == copy
            if grown:
                array[len(copy) : len(table)] = table[len(copy) :]
            else:
                array = np.empty(2 * max(len(table), 16), np.int32)
                array[: len(table)] = table
                self._versions += 1
                version = self._versions
            self._known[request.index] = (table.copy(), array, version)
        return array[:count]

    def version(self, request: Request) -> int:
        """A number that no other table has; it stays the same while the request's table only grows."""
        return self._known[request.index][2]

    def forget(self, keep: Sequence[Request]) -> None:
        """Drop tables that are not these requests', once there are many."""
        if len(self._known) <= 2 * len(keep) + 64:
            return
        indices = {r.index for r in keep}
        self._known = {index: entry for index, entry in self._known.items() if index in indices}
