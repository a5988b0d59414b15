"""What all tests of the app share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def scrolled_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no window here in which a reader could come near a chart, so all are drawn."""
    for place in (
        "app.components.chart_card",
        "app.panels.prefix_sharing.played",
        "app.views.energy",
        "app.views.requests",
        "app.views.timeline",
    ):
        monkeypatch.setattr(f"{place}.when_seen", lambda draw, **_: draw())
    for place in ("app.components.when_seen", "app.views.finished_charts"):
        monkeypatch.setattr(f"{place}.once_idle", lambda draw, **_: draw())
