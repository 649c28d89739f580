"""Where the labels of a line's points go, so that they cover neither points, lines nor each
other.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

_CHARACTER_WIDTH = 7.5
_HEIGHT = 13.0
_GAP = 8.0
# Samples of each piece of the line that a label may not cover.
_SAMPLES = 24


@dataclass(frozen=True, slots=True)
class Point:
    """Pixels; y grows downwards."""

    x: float
    y: float


@dataclass(frozen=True, slots=True)
class _Box:
    """The ground of a label."""

    left: float
    top: float
    width: float

    def holds(self, point: Point, margin: float) -> bool:
        return (
            self.left - margin <= point.x <= self.left + self.width + margin
            and self.top - margin <= point.y <= self.top + _HEIGHT + margin
        )

    def meets(self, other: "_Box") -> bool:
        return (
            self.left < other.left + other.width
            and other.left < self.left + self.width
            and abs(self.top - other.top) < _HEIGHT
        )


def place_labels(
    points: Sequence[Point],
    texts: Sequence[str],
    others: Sequence[tuple[Point, Point]],
    left: float,
) -> list[Point]:
    """The middle of each label's base line. others: further lines; left: where the field begins."""
    lines = [*itertools.pairwise(points), *others]
    covered = [*points, *(sample for line in lines for sample in _along(line))]
    boxes: list[_Box] = []
    for point, text in zip(points, texts, strict=True):

        def crowding(box: _Box) -> int:
            outside = box.left < left or any(box.meets(other) for other in boxes)
            return sum(box.holds(sample, 2.0) for sample in covered) + 1000 * outside

        boxes.append(min(_candidates(point, len(text) * _CHARACTER_WIDTH), key=crowding))
    return [Point(box.left + box.width / 2, box.top + _HEIGHT - 2.5) for box in boxes]


def _candidates(point: Point, width: float) -> list[_Box]:
    """Around the point, the best places first."""
    right, left = point.x + _GAP, point.x - _GAP - width
    above, below = point.y - _GAP - _HEIGHT, point.y + _GAP
    centre, middle = point.x - width / 2, point.y - _HEIGHT / 2
    places = ((right, middle), (left, middle), (centre, above), (centre, below))
    corners = ((right, below), (left, above), (right, above), (left, below))
    return [_Box(x, y, width) for x, y in (*places, *corners)]


def _along(line: tuple[Point, Point]) -> list[Point]:
    """Points on a line, its ends left out."""
    start, end = line
    shares = [number / _SAMPLES for number in range(1, _SAMPLES)]
    return [
        Point(start.x + (end.x - start.x) * share, start.y + (end.y - start.y) * share)
        for share in shares
    ]
