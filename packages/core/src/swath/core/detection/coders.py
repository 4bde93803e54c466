"""From boxes to the numbers that networks predict, and back.

Every coder has ``encode(anchors, boxes) -> deltas`` and ``decode(anchors, deltas) -> boxes``,
computes in float32 (float64 for float64) and passes gradients.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from swath.kernels import boxes_to_hbb, boxes_to_quads, boxes_to_s5, normalise_boxes, s5_to_boxes

Version = Literal["s5", "le90", "le135", "oc"]
"""Which of a rectangle's representatives a detector works with."""

RATIO_CLIP = 0.016
"""Least ratio of the sides of a decoded box to its anchor's, 16 / 1000; the largest is 1 / this."""


def representative(boxes: Tensor, version: Version) -> Tensor:
    """The same rectangles, as a detector of this version has them.

    Args:
        boxes: ``(..., 5)``, Swath's convention.
        version: As for `swath.kernels.normalise_boxes`; or ``"s5"``: w >= h, and the angle that
            S5 counts counter-clockwise in [-pi/2, pi/2), so that it is in (-pi/2, pi/2] here.
    """
    chosen: Tensor = (
        s5_to_boxes(boxes_to_s5(boxes)) if version == "s5" else normalise_boxes(boxes, version)
    )
    return chosen


class _Scaled:
    """Means and deviations by which deltas are normalised."""

    def __init__(
        self, means: Sequence[float], stds: Sequence[float], ratio_clip: float = RATIO_CLIP
    ) -> None:
        self.means, self.stds = tuple(means), tuple(stds)
        self.largest = abs(math.log(ratio_clip))

    def _normalised(self, deltas: Tensor) -> Tensor:
        return (deltas - deltas.new_tensor(self.means)) / deltas.new_tensor(self.stds)

    def _plain(self, deltas: Tensor) -> Tensor:
        deltas = _wide(deltas)
        return deltas * deltas.new_tensor(self.stds) + deltas.new_tensor(self.means)

    def _stretch(self, deltas: Tensor) -> Tensor:
        """Ratios of sides, from their logarithms."""
        return deltas.clamp(-self.largest, self.largest).exp()


class DeltaXYWHCoder(_Scaled):
    """Horizontal boxes by shifts in anchor sides and logarithms of side ratios.

    Args:
        means: Subtracted from (dx, dy, dw, dh).
        stds: Then divided by.
        ratio_clip: See `RATIO_CLIP`.

    Source:
        Girshick et al. 2014, R-CNN, appendix C.
    """

    def __init__(
        self,
        means: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
        stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        ratio_clip: float = RATIO_CLIP,
    ) -> None:
        super().__init__(means, stds, ratio_clip)

    def encode(self, anchors: Tensor, boxes: Tensor) -> Tensor:
        """Deltas ``(N, 4)`` of boxes ``(N, 4)`` relative to anchors ``(N, 4)``, both corners."""
        centre, sides = _centre_and_sides(anchors)
        own_centre, own_sides = _centre_and_sides(boxes)
        shift, stretch = (own_centre - centre) / sides, (own_sides / sides).log()
        return self._normalised(torch.cat((shift, stretch), -1))

    def decode(self, anchors: Tensor, deltas: Tensor) -> Tensor:
        """Boxes ``(N, 4)``, x1, y1, x2, y2, of deltas ``(N, 4)``."""
        deltas = self._plain(deltas)
        centre, sides = _centre_and_sides(anchors)
        centre = centre + deltas[:, :2] * sides
        half = sides * self._stretch(deltas[:, 2:]) / 2
        return torch.cat((centre - half, centre + half), -1)


class MidpointOffsetCoder(_Scaled):
    """Rotated boxes by their enclosing horizontal ones, and where they touch its top and right.

    Deltas are those of `DeltaXYWHCoder` between anchor and enclosing box, then how far the vertex
    on the top lies right of its middle, in widths, and the vertex on the right side below its
    middle, in heights. Any such six numbers describe a parallelogram; decoding lengthens its
    shorter diagonal to make a rectangle.

    Args:
        means: Subtracted from (dx, dy, dw, dh, da, db).
        stds: Then divided by.
        ratio_clip: See `RATIO_CLIP`.
        offset_clamp: Largest absolute value of da and db in decoding.
        version: Of the boxes that come out.
        official_ties: The vertex on the right is the lowest within 0.1 px of that side, as
            officially, and not the one that follows on the vertex at the top. Where a box is so
            nearly horizontal or so thin that only this choice is a tie, the official numbers
            describe a line.
        periodic: As a box turns through a right angle, both offsets go from -0.5 to 0.5, and then
            jump back. Taken as periodic they go on instead: `nearest` lets a network be right on
            either side of the jump, and decoding takes what lies beyond. Otherwise it learns both
            codes of nearly upright boxes, and gives their mean: a box turned by 45 degrees.

    Source:
        Xie et al. 2021, Oriented R-CNN, arXiv:2108.05699, section 3.1; OBBDetection's
        ``midpoint_offset_coder.py`` for taking the rightmost vertex within 0.1 px of the top.
    """

    def __init__(
        self,
        means: Sequence[float] = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0, 0.5, 0.5),
        ratio_clip: float = RATIO_CLIP,
        offset_clamp: float = 0.5,
        version: Version = "le90",
        official_ties: bool = False,
        periodic: bool = False,
    ) -> None:
        super().__init__(means, stds, ratio_clip)
        self.offset_clamp, self.version = offset_clamp, version
        self.official_ties, self.periodic = official_ties, periodic

    def encode(self, anchors: Tensor, boxes: Tensor) -> Tensor:
        """Deltas ``(N, 6)`` of rotated boxes ``(N, 5)`` relative to horizontal anchors."""
        centre, sides = _centre_and_sides(anchors)
        own_centre, own_sides = _centre_and_sides(boxes_to_hbb(boxes))
        x, y = boxes_to_quads(boxes).unbind(-1)  # (N, 4) each, clockwise
        on_top = y - y.amin(1, keepdim=True) <= 0.1
        top = x.masked_fill(~on_top, -math.inf).argmax(1, keepdim=True)
        right = (top + 1) % 4
        if self.official_ties:
            on_right = x.amax(1, keepdim=True) - x <= 0.1
            right = y.masked_fill(~on_right, -math.inf).argmax(1, keepdim=True)
        touching = torch.cat((x.gather(1, top), y.gather(1, right)), 1)
        shift, stretch = (own_centre - centre) / sides, (own_sides / sides).log()
        offset = (touching - own_centre) / own_sides
        return self._normalised(torch.cat((shift, stretch, offset), -1))

    def nearest(self, targets: Tensor, deltas: Tensor) -> Tensor:
        """Of the codes of the boxes that ``targets`` describe those nearest to ``deltas``.

        Both ``(N, 6)``; where offsets aren't periodic, a box has but one code.
        """
        if not self.periodic:
            return targets
        periods = (self._plain(deltas) - self._plain(targets))[:, 4:].mean(1, True).round()
        offsets = targets[:, 4:] + periods / targets.new_tensor(self.stds[4:])
        return torch.cat((targets[:, :4], offsets), 1)

    def decode(self, anchors: Tensor, deltas: Tensor) -> Tensor:
        """Rotated boxes ``(N, 5)`` of deltas ``(N, 6)``."""
        deltas = self._plain(deltas)
        centre, sides = _centre_and_sides(anchors)
        centre = centre + deltas[:, :2] * sides
        sides = sides * self._stretch(deltas[:, 2:4])
        offset = deltas[:, 4:]
        if self.periodic:
            offset = offset - offset.mean(1, True).round()
        offset = offset.clamp(-self.offset_clamp, self.offset_clamp) * sides
        half = sides / 2
        top = torch.stack((offset[:, 0], -half[:, 1]), -1)  # from the centre, like all vertices
        right = torch.stack((half[:, 0], offset[:, 1]), -1)
        lengths = torch.stack((_norm(top), _norm(right)))
        longest = lengths.amax(0)
        top, right = (
            vertex * (longest / length)[:, None]
            for vertex, length in zip((top, right), lengths, strict=True)
        )
        return representative(torch.cat((centre, _rectangle(top, right)), -1), self.version)


class RotatedDeltaCoder(_Scaled):
    """Rotated boxes by shifts along the anchor's own axes, side ratios and a small turn.

    Of the two ways to match sides the one with the smaller turn is taken.

    Args:
        means: Subtracted from (dx, dy, dw, dh, dtheta).
        stds: Then divided by.
        ratio_clip: See `RATIO_CLIP`.
        clockwise: Sense in which a positive dtheta turns: False for S5 and OBBDetection, True for
            mmrotate.
        version: Of the boxes that come out.

    Source:
        OBBDetection's ``obb2obb_delta_xywht_coder.py``; mmrotate's ``DeltaXYWHAOBBoxCoder`` with
        ``edge_swap=True, proj_xy=True``.
    """

    def __init__(
        self,
        means: Sequence[float] = (0.0, 0.0, 0.0, 0.0, 0.0),
        stds: Sequence[float] = (0.1, 0.1, 0.2, 0.2, 0.1),
        ratio_clip: float = RATIO_CLIP,
        clockwise: bool = True,
        version: Version = "le90",
    ) -> None:
        super().__init__(means, stds, ratio_clip)
        self.sense, self.version = 1 if clockwise else -1, version

    def encode(self, anchors: Tensor, boxes: Tensor) -> Tensor:
        """Deltas ``(N, 5)`` of rotated boxes ``(N, 5)`` relative to rotated anchors ``(N, 5)``."""
        anchors, boxes = _wide(anchors), _wide(boxes)
        way = boxes[:, :2] - anchors[:, :2]
        along, across = _axes(anchors[:, 4])
        shift = torch.stack(((way * along).sum(1), (way * across).sum(1)), -1) / anchors[:, 2:4]
        turn = self.sense * (boxes[:, 4] - anchors[:, 4])
        straight, swapped = _half_turn(turn), _half_turn(turn + math.pi / 2)
        keeps = straight.abs() < swapped.abs()
        sides = torch.where(keeps[:, None], boxes[:, 2:4], boxes[:, [3, 2]])
        stretch = (sides / anchors[:, 2:4]).log()
        turn = torch.where(keeps, straight, swapped)[:, None]
        return self._normalised(torch.cat((shift, stretch, turn), -1))

    def decode(self, anchors: Tensor, deltas: Tensor) -> Tensor:
        """Rotated boxes ``(N, 5)`` of deltas ``(N, 5)``."""
        deltas, anchors = self._plain(deltas), _wide(anchors)
        along, across = _axes(anchors[:, 4])
        way = deltas[:, :2] * anchors[:, 2:4]
        centre = anchors[:, :2] + way[:, :1] * along + way[:, 1:] * across
        sides = anchors[:, 2:4] * self._stretch(deltas[:, 2:4])
        theta = anchors[:, 4:] + self.sense * deltas[:, 4:]
        return representative(torch.cat((centre, sides, theta), -1), self.version)


def _rectangle(top: Tensor, right: Tensor) -> Tensor:
    """w, h and theta ``(N, 3)`` of the rectangle around the origin with these two vertices.

    The first side runs from top to right. Where the two coincide it has no direction: then the
    rectangle is the horizontal one around them.
    """
    edge = right - top
    theta = torch.atan2(edge[:, 1], edge[:, 0])
    along, across = _axes(theta)
    corners = torch.stack((top, right))
    w, h = (2 * (corners * axis).sum(-1).abs().amax(0) for axis in (along, across))
    return torch.stack((w, h, theta), -1)


def _axes(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors ``(N, 2)`` along the sides w and h."""
    cos, sin = theta.cos(), theta.sin()
    return torch.stack((cos, sin), -1), torch.stack((-sin, cos), -1)


def _half_turn(theta: Tensor) -> Tensor:
    """The angle modulo pi, in [-pi/2, pi/2)."""
    return theta - math.pi * torch.floor(theta / math.pi + 0.5)


def _centre_and_sides(corners: Tensor) -> tuple[Tensor, Tensor]:
    corners = _wide(corners)
    low, high = corners[:, :2], corners[:, 2:]
    return (low + high) / 2, high - low


def _norm(vectors: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return length


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
