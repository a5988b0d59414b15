"""``python -m engine.quality SPEC.json RESULT.json``: measure in a process of its own; progress as JSON lines on
standard output."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

from engine.config import load_plugins
from engine.failures import describe
from engine.quality.meter import QualityMeter, QualitySpec


def main(arguments: list[str]) -> int:
    """0: the result is written. 1: it is not, and the last line says why."""
    if len(arguments) != 2:
        print("usage: python -m engine.quality SPEC.json RESULT.json", file=sys.stderr)
        return 2
    source, target = map(Path, arguments)
    try:
        load_plugins()
        spec = QualitySpec.model_validate_json(source.read_bytes())
        result = QualityMeter(spec, lambda phase, share: _say({"phase": phase, "share": share})).measure()
    except Exception as error:
        traceback.print_exc()
        _say({"error": describe(error)})
        return 1
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1), encoding="utf-8")
    partial.replace(target)
    return 0


def _say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
