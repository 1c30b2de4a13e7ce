"""Labels beside the points of a picture, each where it covers neither a point, nor a line, nor another label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

BESIDE = (
    (0, 1),
    (0, -1),
    (1, 0),
    (-1, 0),
    (1, 1),
    (-1, 1),
    (1, -1),
    (-1, -1),
)  # above first: right and up are positive
GAPS = (6, 12, 20, 30, 42, 56, 72, 90)  # in points; from the third on, a thin line leads to what is meant
MARKER_RADIUS = 5  # in points, edge included


@dataclass(frozen=True)
class Label:
    """A label that has no place yet.

    Attributes:
        text: What it says.
        colour: Of the text.
        anchors: What it is about: points (cost, quality), or one height of a line across the panel.
        is_line: Whether it is about such a line.
    """

    text: str
    colour: str
    anchors: Sequence[tuple[float, float]]
    is_line: bool = False


def place_labels(axes: Any, labels: Sequence[Label]) -> None:
    """Write the labels into a panel whose figure is laid out, those of points first.

    Where there is no free place within reach, a label stands above its first anchor.
    """
    taken = [box for label in labels for box in _drawn_boxes(axes, label)]
    for label in sorted(labels, key=lambda label: label.is_line):
        taken.append(_place(axes, label, taken))


def _place(axes: Any, label: Label, taken: Sequence[Any]) -> Any:
    """Write one label, and return the box that it fills."""
    from matplotlib.text import Text

    written = axes.annotate(
        label.text,
        label.anchors[0],
        xycoords=axes.get_yaxis_transform() if label.is_line else "data",
        textcoords="offset points",
        xytext=(0, 0),
        fontsize=8,
        color=label.colour,
        arrowprops={"arrowstyle": "-", "color": label.colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": MARKER_RADIUS},
    )
    written.set_in_layout(False)  # the layout is made, and the label lies inside the panel

    def put(gap: float, direction: tuple[int, int], anchor: tuple[float, float]) -> Any:
        right, up = direction
        written.xy = anchor
        written.set_position((gap * right, gap * up) if not label.is_line else (0, 3 * up))
        written.set_horizontalalignment(("center", "left", "right")[right])
        written.set_verticalalignment(("center", "bottom", "top")[up])
        written.arrow_patch.set_visible(gap > GAPS[1])
        written.get_window_extent()  # moves the text to its new place; what it returns holds the line to the anchor as well
        return Text.get_window_extent(written).padded(1)

    tries = list(product(GAPS, BESIDE, label.anchors))
    if label.is_line:
        height = label.anchors[0][1]
        tries = [(0, (-side, up), (place, height)) for side, place in ((1, 0.99), (-1, 0.01)) for up in (1, -1)]
    for attempt in tries:
        box = put(*attempt)
        if not any(box.overlaps(other) for other in taken) and _lies_in(box, axes.bbox):
            return box
    return put(*tries[0])


def _drawn_boxes(axes: Any, label: Label) -> list[Any]:
    """The marks of a model, in pixels: its markers with the thin line between them, or its line across the panel."""
    from matplotlib.transforms import Bbox

    if label.is_line:
        height = axes.transData.transform((axes.get_xlim()[0], label.anchors[0][1]))[1]
        return [Bbox.from_extents(axes.bbox.x0, height - 1, axes.bbox.x1, height + 1)]
    radius = MARKER_RADIUS * axes.figure.dpi / 72
    places = axes.transData.transform(label.anchors)
    boxes = [Bbox.from_extents(x - radius, y - radius, x + radius, y + radius) for x, y in places]
    for start, end in pairwise(places):
        steps = int(abs(end - start).max() // 2) + 1
        between = [start + (end - start) * step / steps for step in range(steps)]
        boxes += [Bbox.from_extents(x - 1, y - 1, x + 1, y + 1) for x, y in between]
    return boxes


def _lies_in(inner: Any, outer: Any) -> bool:
    return outer.x0 <= inner.x0 and outer.y0 <= inner.y0 and inner.x1 <= outer.x1 and inner.y1 <= outer.y1
