"""An exported page opens with the network cut: every chart drawn, nothing asked for, nothing said on the console."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from app.exports.export import export
from app.home import Home
from tests.app.exports.test_exports import served

__all__ = ["served"]
pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.mark.parametrize("whole", [True, False], ids=["experiment", "single run"])
def test_it_opens_without_a_network(browser: Browser, served: tuple[Home, str], tmp_path: Path, whole: bool) -> None:
    home, experiment_id = served
    out = tmp_path / "out.html"
    name = experiment_id if whole else next(r for r in home.run_ids() if r.endswith("-001"))
    export(home, name, out)
    context = browser.new_context(offline=True)
    page = context.new_page()
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("requestfailed", lambda request: said.append(f"failed: {request.url}"))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.goto(out.as_uri())
    charts = page.locator(".js-plotly-plot")
    drawn = page.locator(".js-plotly-plot .main-svg").evaluate_all("all => all.length")
    assert charts.count() == (7 if whole else 8)
    assert drawn >= charts.count()
    marks = charts.evaluate_all("all => all.map(p => p.querySelectorAll('.trace, .points, .scatterlayer path').length)")
    assert all(count > 0 for count in marks), f"an empty chart: {marks}"
    assert page.locator("[data-title*='hare']").count() == 0
    assert page.locator("img[src=x]").count() == 0
    charts.first.hover()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    context.close()
