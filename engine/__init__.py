"""What is studied: the serving engine. Imports telemetry only; knows no page, no database, no scenario."""

import os

# The OpenMP runtime reads this when torch loads it. By default CPU threads spin so long between two operations that
# beside other work (a lab server, a browser) every operation waits for a thread that is not running, and an iteration
# takes many times as long. A spin of a fraction of a millisecond costs nothing on an idle machine and keeps the
# engine's speed on a busy one.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
