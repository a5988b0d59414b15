"""What a browser says it painted is kept only where it is a PNG of a size that a report takes."""

from __future__ import annotations

import base64
import struct

import pytest

from app.charts.picture import BEGINS, LARGEST, LONGEST, PNG, of_png
from app.errors import LabError
from app.words.pictures import PICTURES


def painted(width: int = 800, height: int = 400, begins: bytes = PNG, after: int = 64) -> str:
    return BEGINS + base64.b64encode(begins + struct.pack(">II", width, height) + bytes(after)).decode()


def test_a_picture_keeps_its_shape() -> None:
    figure = of_png(painted(800, 400))
    assert figure.layout.images[0].source == painted(800, 400)
    assert figure.layout.height - figure.layout.margin.t - figure.layout.margin.b == 200


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (None, "no PNG as a data URL"),
        ({"png": 1}, "no PNG as a data URL"),
        ("javascript:alert(1)", "no PNG as a data URL"),
        ("data:image/svg+xml,<svg onload='alert(1)'/>", "no PNG as a data URL"),
        (BEGINS + "not base64!", "base64"),
        (BEGINS + base64.b64encode(b"<svg/>").decode(), "it is no PNG"),
        (BEGINS + base64.b64encode(PNG).decode(), "requires a buffer"),
        (painted(width=0), "0 x 400 pixels"),
        (painted(height=LONGEST + 1), "pixels; at most"),
        (painted(after=LARGEST + 10), "over 4 MiB"),
    ],
    ids=[
        "nothing",
        "a map",
        "a script",
        "an SVG",
        "no base64",
        "other bytes",
        "cut",
        "no width",
        "too high",
        "too big",
    ],
)
def test_what_is_no_picture_is_refused_with_the_reason(told: object, why: str) -> None:
    with pytest.raises(LabError, match=why) as refused:
        of_png(told)
    assert refused.value.field == "picture"
    assert refused.value.mend


@pytest.mark.parametrize("name", PICTURES)
def test_where_a_picture_comes_from_is_said(name: str) -> None:
    assert PICTURES[name].explained.startswith(PICTURES[name].help)
