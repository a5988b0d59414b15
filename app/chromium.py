"""Finds a Chrome or Chromium on this machine: for the browser tests and for picture exports.

``python -m app.chromium`` prints its path, or says how to get one and exits with 1.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

ENV = "SERVESCOPE_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
PLACES = (
    "/usr/lib/chromium/chromium",
    "/snap/bin/chromium",
    "/opt/google/chrome/chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
HOW_TO_GET_ONE = (
    "There is no Chrome or Chromium. On Debian and Ubuntu: sudo apt-get install chromium. Elsewhere install Chrome, "
    f"or name the program in {ENV}."
)


def find_chromium() -> Path | None:
    """The browser named in ``SERVESCOPE_CHROMIUM``, else the first one found; None if there is none.

    A name that is set but is no program counts as none: a wish is not replaced in silence.
    """
    wanted = os.environ.get(ENV)
    if wanted:
        path = shutil.which(wanted)
        return Path(path) if path else None
    for name in (*NAMES, *PLACES):
        path = shutil.which(name)
        if path:
            return Path(path)
    return None


def main() -> int:
    browser = find_chromium()
    if browser is None:
        print(HOW_TO_GET_ONE, file=sys.stderr)
        return 1
    print(browser)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
