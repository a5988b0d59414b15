"""``python -m engine.model.embedded``: convert the embedded model where that has not been done.

Prints one JSON object per line: ``{"phase": ..., "share": ...}`` while it works, ``{"error": {...}}`` if it fails.
"""

from __future__ import annotations

import json
import sys

from engine.config.errors import EngineError
from engine.config.models import EMBEDDED_MODEL
from engine.model.load import model_directory, resolve


def _report(phase: str, share: float) -> None:
    print(json.dumps({"phase": phase, "share": share}), flush=True)


def main() -> int:
    """Convert in this process, reporting on standard output."""
    try:
        directory = model_directory(resolve(EMBEDDED_MODEL), _report)
    except EngineError as error:
        print(json.dumps({"error": error.as_dict()}), flush=True)
        return 1
    print(json.dumps({"phase": "done", "share": 1.0, "directory": str(directory)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
