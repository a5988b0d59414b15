"""What the first visitor would wait for, done before one comes: the pages' imports, and a first figure.

It takes about two seconds of a core. Left to the first visit they fall into a run as likely as not, and on a machine
with two cores the engine then shares its core with them.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
import threading

log = logging.getLogger("servescope.lab")


def preload() -> threading.Thread:
    """Begin in the background; a visitor who comes meanwhile waits for the rest as it would for all of it."""
    thread = threading.Thread(target=_load, name="preload", daemon=True)
    thread.start()
    return thread


def _load() -> None:
    try:
        import_pages()
        _draw_one()
        _read_cards()
    except Exception:  # a page that cannot be loaded says so to whoever opens it
        log.exception("a page could not be loaded ahead")


def import_pages() -> list[str]:
    """Import everything that pages draw with; returns the modules' names."""
    import app.charts
    import app.panels
    import app.views

    names = [
        module.name
        for room in (app.charts, app.panels, app.views)
        for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}.")
    ]
    names += ["app.attach.page", "app.door.page"]
    for name in names:
        importlib.import_module(name)
    return names


def _draw_one() -> None:
    """Plotly reads its templates and finds its encoder with the first figure."""
    from app.charts.frame import new_figure
    from app.theme import palette

    figure = new_figure(palette("light"), y_title="")
    figure.add_scatter(x=[0.0], y=[0.0])
    figure.to_json()


def _read_cards() -> None:
    """The papers' cards are read once; 72 files take half a second."""
    from scenarios import papers

    papers.cards()
