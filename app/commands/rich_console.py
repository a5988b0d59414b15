"""Rich consoles for the command line. Apart from the streams, as importing rich takes longer than most commands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from app.commands.printable import printable, unguarded


class TerminalConsole(Console):
    """A rich console on a standard stream. Markup in texts is the caller's affair; escapes in them are shown."""

    def __init__(self, stream: Any) -> None:
        super().__init__(file=unguarded(stream), highlight=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)
