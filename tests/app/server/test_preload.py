"""The first visitor waits for no import."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import app

ROOM = Path(app.__file__).resolve().parent


def test_nothing_that_a_page_imports_is_left_for_the_first_visit() -> None:
    wanted = set()
    for script in (ROOM / "shell.py", *(ROOM / "pages").glob("*.py")):
        for node in ast.walk(ast.parse(script.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module != "__future__":
                wanted.add(node.module)
    assert "app.views.finished" in wanted
    code = "import json, sys; from app.server.preload import _load; _load(); print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "could not be loaded" not in done.stderr
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert wanted - {"app.lab"} <= loaded
    assert "plotly.graph_objs._scatter" in loaded, "a first figure was drawn"
