"""Coroutines beside a browser: it has its own event loop running in the process's first thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def apart(work: Callable[[], T]) -> T:
    """What ``work`` returns or raises, called in a thread of its own, where no loop runs yet."""
    found: list[T] = []
    wrong: list[BaseException] = []

    def run() -> Any:
        try:
            found.append(work())
        except BaseException as error:
            wrong.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if wrong:
        raise wrong[0]
    return found[0]
