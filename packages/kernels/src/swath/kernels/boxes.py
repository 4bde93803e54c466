"""Rotated boxes: one internal convention, and every other one that data sets and detectors use.

Inside Swath a rotated box is ``(cx, cy, w, h, theta)`` in pixels and radians, in an image frame
with x to the right and y down. ``theta`` turns **clockwise as seen on screen**: the side ``w``
points along ``(cos theta, sin theta)`` and ``h`` along ``(-sin theta, cos theta)``. Any ``theta``
and any order of the sides is allowed; what `normalise_boxes` calls a *version* is a choice of one
representative. Convert at the boundary, and compute only with the internal convention.

=================  =========  ========================  ==========================================
name               unit       positive turn on screen   range
=================  =========  ========================  ==========================================
``"swath"``        radians    clockwise                 any
``"oc"``           radians    clockwise                 (0, pi/2], OpenCV >= 4.5.1
``"le90"``         radians    clockwise                 [-pi/2, pi/2), w >= h, mmrotate
``"le135"``        radians    clockwise                 [-pi/4, 3 pi/4), w >= h, mmrotate
``"s5"``           radians    counter-clockwise         [-pi/2, pi/2), w >= h, OBBDetection and S5
``"mmcv_ccw"``     radians    counter-clockwise         any; mmcv's operators with clockwise=False
``"detectron2"``   degrees    counter-clockwise         any; also torchvision's CXCYWHR
``"quads"``        pixels     corners ``(..., 4, 2)``   clockwise from the corner (-w/2, -h/2)
``"polygons"``     pixels     corners ``(..., 8)``      the same, x and y alternating (DOTA)
``"hbb"``          pixels     none                      ``(x1, y1, x2, y2)``, enclosing box
=================  =========  ========================  ==========================================

All functions take any leading dimensions (also empty ones), compute with at least float32 (half
precision can't hold coordinates), return float64 for float64 and float32 for everything else, and
pass gradients. Boxes and corners of finite size never give NaN, however degenerate.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

VERSIONS = ("oc", "le90", "le135")
"""The representatives that `normalise_boxes` knows."""


def boxes_to_quads(boxes: Tensor) -> Tensor:
    """Corners of rotated boxes.

    Args:
        boxes: ``(..., 5)``, internal convention.

    Returns:
        ``(..., 4, 2)`` corners (x, y) in pixels: in the box's own axes (-w/2, -h/2), (w/2, -h/2),
        (w/2, h/2), (-w/2, h/2), hence clockwise on screen.
    """
    boxes = _checked(boxes, 5, "boxes")
    wide = _wide(boxes)
    centre, w, h, theta = wide[..., :2], wide[..., 2:3], wide[..., 3:4], wide[..., 4:]
    along = torch.cat((theta.cos(), theta.sin()), -1) * (w / 2)
    across = torch.cat((-theta.sin(), theta.cos()), -1) * (h / 2)
    corners = (-along - across, along - across, along + across, across - along)
    return torch.stack([centre + corner for corner in corners], -2).to(boxes.dtype)


def quads_to_boxes(quads: Tensor) -> Tensor:
    """Rectangles of smallest area around quadrilaterals.

    The smallest rectangle around points has a side along an edge of their convex hull, and the
    hull's edges are among the lines through two of the four points. All six are tried, so that the
    result is exact for any quadrilateral: convex, concave or self-crossing (both times it is the
    rectangle of the hull), collinear (a side of zero) or shrunk to a point (all of it zero).

    Among directions of equal area that of the longest edge wins, since it is known best; ``w`` is
    the extent along the first edge. A rectangle made by `boxes_to_quads` therefore comes back with
    its own ``w``, ``h`` and ``theta`` (modulo a full turn), unless both of its sides are zero.

    Args:
        quads: ``(..., 4, 2)`` or ``(..., 8)`` corners in pixels, in any order of turn.

    Returns:
        ``(..., 5)`` boxes, internal convention, ``theta`` in [-pi, pi].
    """
    quads = _as_quads(quads)
    wide = _wide(quads)
    middle = wide.mean(-2, keepdim=True).detach()  # coordinates far from the origin lose digits
    points = wide - middle
    ends = points[..., [1, 2, 2, 3, 2, 3], :] - points[..., [0, 1, 3, 0, 0, 1], :]
    # the second and fourth run along h: a quarter turn back gives the direction of w
    x, y = ends.unbind(-1)
    turned = torch.tensor([False, True, False, True, False, False], device=quads.device)
    axes = torch.stack((torch.where(turned, y, x), torch.where(turned, -x, y)), -1)

    # a length below rounding error has no direction
    length, size = axes.detach().abs().amax(-1), points.detach().abs().amax((-1, -2))[..., None]
    flat = length <= size * torch.finfo(quads.dtype).eps
    axes = torch.where(flat[..., None], axes.new_tensor([1.0, 0.0]), axes)
    axes = axes / torch.where(flat, 1.0, length)[..., None]  # keeps the norm from underflowing
    u = axes / torch.linalg.vector_norm(axes, dim=-1, keepdim=True)  # (..., 6, 2)
    v = torch.stack((-u[..., 1], u[..., 0]), -1)
    along = torch.einsum("...kc,...pc->...kp", u, points)
    across = torch.einsum("...kc,...pc->...kp", v, points)
    w, h = along.amax(-1) - along.amin(-1), across.amax(-1) - across.amin(-1)

    # areas that differ by the rounding of the corners only count as equal
    area = torch.where(flat, math.inf, (w * h).detach())
    rounding = 4 * torch.finfo(quads.dtype).eps * wide.detach().abs().amax((-1, -2))[..., None]
    smallest = area <= (area + rounding * (w + h).detach()).amin(-1, keepdim=True)
    is_edge = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 0.0], device=quads.device, dtype=wide.dtype)
    best = torch.where(smallest, length * is_edge, -1.0).argmax(-1, keepdim=True)

    def chosen(values: Tensor) -> Tensor:
        return values.gather(-1, best)

    x_mid = chosen((along.amax(-1) + along.amin(-1)) / 2)
    y_mid = chosen((across.amax(-1) + across.amin(-1)) / 2)
    cos, sin = chosen(u[..., 0]), chosen(u[..., 1])
    centre = middle[..., 0, :] + torch.cat(
        (cos * x_mid - sin * y_mid, sin * x_mid + cos * y_mid), -1
    )
    return torch.cat((centre, chosen(w), chosen(h), torch.atan2(sin, cos)), -1).to(quads.dtype)


def normalise_boxes(boxes: Tensor, version: str) -> Tensor:
    """Choose the representative of each box that a convention asks for; the rectangle stays.

    Boxes that already keep the convention come back unchanged, bit for bit.

    Args:
        boxes: ``(..., 5)``, internal convention, sides >= 0.
        version: ``"le90"``: w >= h and theta in [-pi/2, pi/2); ``"le135"``: w >= h and theta in
            [-pi/4, 3 pi/4); ``"oc"``: theta in (0, pi/2], sides in either order. Bounds are
            rounded to the result's dtype.

    Returns:
        ``(..., 5)``.

    Raises:
        ValueError: If the version is unknown.

    Source:
        mmrotate's ``angle_version`` (le90, le135) and OpenCV's ``minAreaRect`` since 4.5.1 (oc).
    """
    boxes = _checked(boxes, 5, "boxes")
    centre, w, h, theta = boxes[..., :2], boxes[..., 2], boxes[..., 3], boxes[..., 4]
    if version == "oc":  # half-open at the lower end: wrap the negative angle instead
        negative, turns = _wrap(-theta, -math.pi / 2, math.pi / 2)
        theta, swap = -negative, turns % 2 == 1
    elif version in VERSIONS:
        swap = w < h
        start = -math.pi / 2 if version == "le90" else -math.pi / 4
        theta, _ = _wrap(torch.where(swap, theta + math.pi / 2, theta), start, math.pi)
    else:
        raise ValueError(f"version must be one of {', '.join(VERSIONS)}; got {version!r}")
    sides = (torch.where(swap, h, w), torch.where(swap, w, h), theta)
    return torch.cat((centre, torch.stack(sides, -1)), -1)


def boxes_to_s5(boxes: Tensor) -> Tensor:
    """Boxes as S5's detector and OBBDetection have them: counter-clockwise, w >= h.

    Args:
        boxes: ``(..., 5)``, internal convention.

    Returns:
        ``(..., 5)``, theta in radians, counter-clockwise positive, in [-pi/2, pi/2).

    Source:
        S5 ``mmdet/core/bbox/transforms_obb/form.py``. The official code writes pi as 3.141592, so
        its range is narrower than ours by 7e-7. It also turns squares by a quarter each time, which
        gives the same rectangle; here a box in range stays as it is.
    """
    return normalise_boxes(_mirrored(boxes), "le90")


def s5_to_boxes(boxes: Tensor) -> Tensor:
    """Inverse of `boxes_to_s5`: ``(..., 5)`` with counter-clockwise radians to internal boxes."""
    return _mirrored(boxes)


def boxes_to_detectron2(boxes: Tensor) -> Tensor:
    """Boxes as detectron2 and torchvision (``CXCYWHR``) have them.

    Args:
        boxes: ``(..., 5)``, internal convention.

    Returns:
        ``(..., 5)``, angle in degrees, counter-clockwise positive, not brought into any range.

    Source:
        detectron2 ``structures/rotated_boxes.py``; torchvision ``BoundingBoxFormat.CXCYWHR``.
    """
    boxes = _checked(boxes, 5, "boxes")
    return torch.cat((boxes[..., :4], -torch.rad2deg(boxes[..., 4:])), -1)


def detectron2_to_boxes(boxes: Tensor) -> Tensor:
    """Inverse of `boxes_to_detectron2`: ``(..., 5)`` with counter-clockwise degrees to internal."""
    boxes = _checked(boxes, 5, "boxes")
    return torch.cat((boxes[..., :4], -torch.deg2rad(boxes[..., 4:])), -1)


def boxes_to_hbb(boxes: Tensor) -> Tensor:
    """Smallest horizontal boxes around rotated ones.

    Args:
        boxes: ``(..., 5)``, internal convention.

    Returns:
        ``(..., 4)``: x1, y1, x2, y2 in pixels.
    """
    boxes = _checked(boxes, 5, "boxes")
    wide = _wide(boxes)
    centre, sides, theta = wide[..., :2], wide[..., 2:4], wide[..., 4:]
    cos, sin = theta.cos().abs(), theta.sin().abs()
    half = (
        torch.cat((cos, sin), -1) * sides[..., :1] / 2
        + torch.cat((sin, cos), -1) * sides[..., 1:] / 2
    )
    return torch.cat((centre - half, centre + half), -1).to(boxes.dtype)


def quads_to_hbb(quads: Tensor) -> Tensor:
    """Smallest horizontal boxes around corners: ``(..., 4, 2)`` or ``(..., 8)`` to ``(..., 4)``."""
    quads = _as_quads(quads)
    return torch.cat((quads.amin(-2), quads.amax(-2)), -1)


def hbb_to_boxes(boxes: Tensor) -> Tensor:
    """Horizontal boxes ``(..., 4)`` x1, y1, x2, y2 as rotated boxes ``(..., 5)`` of angle zero."""
    boxes = _checked(boxes, 4, "horizontal boxes")
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low, torch.zeros_like(low[..., :1])), -1)


def box_areas(boxes: Tensor) -> Tensor:
    """Areas of rotated boxes: ``(..., 5)`` to ``(...)``, in square pixels."""
    boxes = _checked(boxes, 5, "boxes")
    return boxes[..., 2] * boxes[..., 3]


def quad_areas(quads: Tensor) -> Tensor:
    """Areas of simple quadrilaterals by the shoelace formula.

    Args:
        quads: ``(..., 4, 2)`` or ``(..., 8)``, in either order of turn. The two triangles of a
            self-crossing quadrilateral count against each other.

    Returns:
        ``(...)``, >= 0, in square pixels.
    """
    quads = _as_quads(quads)
    wide = _wide(quads)
    # half the cross product of the diagonals is the shoelace sum of four points
    first, second = wide[..., 2, :] - wide[..., 0, :], wide[..., 3, :] - wide[..., 1, :]
    cross = first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
    return (cross.abs() / 2).to(quads.dtype)


def convert_boxes(boxes: Tensor, source: str, target: str) -> Tensor:
    """Convert between any two conventions of this module's table.

    Args:
        boxes: Boxes in the source convention, ``(..., 5)``, ``(..., 4, 2)``, ``(..., 8)`` or
            ``(..., 4)`` as it asks.
        source: A name of the table.
        target: A name of the table.

    Returns:
        Boxes in the target convention. Corners that aren't a rectangle become the rectangle of
        smallest area on the way; ``"hbb"`` as a target encloses.

    Raises:
        ValueError: If a name is unknown or the shape doesn't fit the source.

    Examples:
        >>> convert_boxes(torch.tensor([[8.0, 8.0, 4.0, 2.0, 30.0]]), "detectron2", "le90")
        tensor([[ 8.0000,  8.0000,  4.0000,  2.0000, -0.5236]])
    """
    for name in (source, target):
        if name not in _FROM:
            raise ValueError(f"convention must be one of {', '.join(_FROM)}; got {name!r}")
    return _TO[target](_FROM[source](boxes))


def _mirrored(boxes: Tensor) -> Tensor:
    boxes = _checked(boxes, 5, "boxes")
    return torch.cat((boxes[..., :4], -boxes[..., 4:]), -1)


def _identity(boxes: Tensor) -> Tensor:
    return _checked(boxes, 5, "boxes")


def _polygons(boxes: Tensor) -> Tensor:
    return boxes_to_quads(boxes).flatten(-2)


def _version(name: str) -> Callable[[Tensor], Tensor]:
    return lambda boxes: normalise_boxes(boxes, name)


_FROM: dict[str, Callable[[Tensor], Tensor]] = {
    "swath": _identity,
    **dict.fromkeys(VERSIONS, _identity),
    "s5": s5_to_boxes,
    "mmcv_ccw": _mirrored,
    "detectron2": detectron2_to_boxes,
    "quads": quads_to_boxes,
    "polygons": quads_to_boxes,
    "hbb": hbb_to_boxes,
}
_TO: dict[str, Callable[[Tensor], Tensor]] = {
    "swath": _identity,
    **{name: _version(name) for name in VERSIONS},
    "s5": boxes_to_s5,
    "mmcv_ccw": _mirrored,
    "detectron2": boxes_to_detectron2,
    "quads": boxes_to_quads,
    "polygons": _polygons,
    "hbb": boxes_to_hbb,
}


def _checked(tensor: Tensor, size: int, what: str) -> Tensor:
    """At least float32, with the last dimension that is asked for."""
    if tensor.ndim == 0 or tensor.shape[-1] != size:
        raise ValueError(f"{what} must have shape (..., {size}); got {tuple(tensor.shape)}")
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _as_quads(quads: Tensor) -> Tensor:
    """``(..., 8)`` or ``(..., 4, 2)`` as ``(..., 4, 2)`` of at least float32."""
    if quads.ndim >= 1 and quads.shape[-1] == 8:
        quads = quads.reshape(*quads.shape[:-1], 4, 2)
    if quads.shape[-2:] != (4, 2):
        raise ValueError(
            f"quadrilaterals must have shape (..., 4, 2) or (..., 8); got {tuple(quads.shape)}"
        )
    return quads if quads.dtype == torch.float64 else quads.float()


def _wide(tensor: Tensor) -> Tensor:
    """Double precision where the device has it, so that float32 results are correctly rounded."""
    return tensor if tensor.device.type == "mps" else tensor.double()


def _wrap(theta: Tensor, start: float, period: float) -> tuple[Tensor, Tensor]:
    """Bring angles into [start, start + period); also the number of periods taken off."""
    end = start + period
    inside = (theta >= start) & (theta < end)
    turns = torch.where(inside, 0.0, ((theta.detach() - start) / period).floor())
    wrapped = theta - turns * period
    # rounding can leave an angle on or just beyond a bound, which are the same direction
    turns = torch.where(wrapped >= end, turns + 1, turns)
    outside = (wrapped < start) | (wrapped >= end)
    return torch.where(outside, start + (wrapped - wrapped.detach()), wrapped), turns
