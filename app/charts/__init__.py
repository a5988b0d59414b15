"""Charts of recorded runs: a table in, a Plotly figure out. Columns carry the live socket's names
(``docs/architecture.md``).
"""

from app.charts.devices import device_activity, memory_and_power
from app.charts.frame import CONFIG, HEIGHT, TALL, column, on_one_clock
from app.charts.iterations import batch_makeup, iteration_timeline
from app.charts.pool import kv_pool, running_and_waiting
from app.charts.roofline import roofline
from app.charts.tokens import Ghost, token_gaps

__all__ = [
    "CONFIG",
    "HEIGHT",
    "TALL",
    "Ghost",
    "batch_makeup",
    "column",
    "device_activity",
    "iteration_timeline",
    "kv_pool",
    "memory_and_power",
    "on_one_clock",
    "roofline",
    "running_and_waiting",
    "token_gaps",
]
