"""A picture that a browser painted, as a figure that a report can keep."""

from __future__ import annotations

import base64
import struct

import plotly.graph_objects as go

from app.errors import LabError

BEGINS = "data:image/png;base64,"
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
LARGEST = 4 << 20
"""Bytes of a picture."""
LONGEST = 16_384  # pixels of an edge
MARGIN = 8


def of_png(address: object) -> go.Figure:
    """``address``: the PNG as a data URL, painted at twice its size. Raises ``LabError`` for anything that is none."""
    try:
        if not isinstance(address, str) or not address.startswith(BEGINS):
            raise ValueError("it is no PNG as a data URL")
        if len(address) > LARGEST * 4 // 3 + len(BEGINS):
            raise ValueError(f"it has over {LARGEST >> 20} MiB")
        data = base64.b64decode(address[len(BEGINS) :], validate=True)
        if not data.startswith(PNG):
            raise ValueError("it is no PNG")
        width, height = struct.unpack(">II", data[len(PNG) : len(PNG) + 8])
        if not (0 < width <= LONGEST and 0 < height <= LONGEST):
            raise ValueError(f"it has {width} x {height} pixels; at most {LONGEST:,} each way")
    except (ValueError, struct.error) as error:
        raise LabError(
            "bad-picture",
            field="picture",
            value=str(address)[:40],
            message=f"The browser's picture cannot be kept: {error}.",
            mend="Make the picture smaller, or take it as a PNG file.",
        ) from error
    figure = go.Figure()
    image = {"source": address, "x": 0, "y": 1, "sizex": 1, "sizey": 1, "xref": "paper", "yref": "paper"}
    figure.add_layout_image(image, sizing="contain", layer="above")
    hidden = {"visible": False, "fixedrange": True}
    return figure.update_layout(
        height=height // 2 + 2 * MARGIN, xaxis=hidden, yaxis=hidden, margin=dict.fromkeys("lrtb", MARGIN)
    )
