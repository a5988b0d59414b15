"""What each technique shows of a run, and adds to a report and to words: one folder per technique, named as its
setting.

``PANELS`` is the only list: views, reports and words ask every member and name none.
"""

from __future__ import annotations

from app.panels.chunked_prefill import ChunkedPrefill
from app.panels.far_pool import FarPoolPanel
from app.panels.kv_layout import KVLayoutPanel
from app.panels.kv_quantization import KVQuantizationPanel
from app.panels.kv_tiers import KVTiersPanel
from app.panels.panel import Panel
from app.panels.placement import PlacementPanel
from app.panels.preemption import PreemptionPanel
from app.panels.prefix_sharing import PrefixSharing
from app.panels.speculation import Speculation
from app.panels.time_to_live import TimeToLivePanel

PANELS: list[Panel] = [
    ChunkedPrefill(),
    PrefixSharing(),
    Speculation(),
    KVQuantizationPanel(),
    PreemptionPanel(),
    KVLayoutPanel(),
    PlacementPanel(),
    KVTiersPanel(),
    TimeToLivePanel(),
    FarPoolPanel(),
]
"""In the order in which they draw."""
