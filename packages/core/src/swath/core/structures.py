"""`RotatedBoxes`: rotated boxes that torchvision's v2 transforms move together with the image.

torchvision has rotated boxes of its own, but turns them counter-clockwise in degrees, clamps them
by moving corners, and lags up to a pixel behind the image when a rotation expands the canvas. Here
every geometric transform does one thing: it moves the four corners exactly as it moves the image,
in double precision, and takes the rectangle of smallest area around them. For flips, crops, pads,
turns and uniform scaling that is the moved box itself; after anisotropic scaling, shear or
perspective a box becomes a parallelogram or worse, and the rectangle encloses it (as in data sets
whose labels are polygons; S5 does the same after resizing).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from swath.kernels.boxes import (
    box_areas,
    boxes_to_hbb,
    boxes_to_quads,
    normalise_boxes,
    quads_to_boxes,
)

Size = tuple[int, int]
"""Height and width in pixels."""

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


class RotatedBoxes(tv_tensors.TVTensor):  # type: ignore[misc]
    """Rotated boxes of one image: ``(N, 5)`` cx, cy, w, h in pixels and theta in radians.

    ``theta`` is clockwise positive as seen on screen and free of any range; see
    `swath.kernels.boxes`. Boxes may reach beyond the image. As with all tv_tensors, arithmetic and
    indexing give plain tensors, while ``clone``, ``to`` and ``detach`` keep the type; `select`
    picks boxes and keeps it too.

    Args:
        data: Anything that makes a floating-point tensor ``(N, 5)``.
        canvas_size: Height and width of the image in pixels.
        dtype: Of the tensor; default: that of the data.
        device: Of the tensor; default: that of the data.
        requires_grad: Whether to record gradients; default: as the data does.

    Raises:
        ValueError: If the data isn't of shape ``(N, 5)`` and floating point.
    """

    canvas_size: Size

    def __new__(
        cls,
        data: Any,
        *,
        canvas_size: Sequence[int],
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        requires_grad: bool | None = None,
    ) -> Self:
        """Check the shape and wrap."""
        tensor = cls._to_tensor(data, dtype=dtype, device=device, requires_grad=requires_grad)
        if tensor.numel() == 0:
            tensor = tensor.reshape(0, 5)
        if tensor.ndim != 2 or tensor.shape[1] != 5 or not tensor.is_floating_point():
            raise ValueError(
                "rotated boxes must be floating point of shape (N, 5); "
                f"got {tensor.dtype} of shape {tuple(tensor.shape)}"
            )
        return cls._wrap(tensor, canvas_size)

    @classmethod
    def _wrap(cls, tensor: Tensor, canvas_size: Sequence[int]) -> Self:
        boxes: Self = tensor.as_subclass(cls)
        boxes.canvas_size = (int(canvas_size[0]), int(canvas_size[1]))
        return boxes

    @classmethod
    def wrap(cls, tensor: Tensor, like: "RotatedBoxes", **kwargs: Any) -> "RotatedBoxes":
        """What `torchvision.tv_tensors.wrap` calls after 0.26; ``canvas_size`` may be replaced."""
        return cls._wrap(tensor, kwargs.get("canvas_size", like.canvas_size))

    @classmethod
    def _wrap_output(
        cls, output: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if isinstance(output, tuple | list):
            return type(output)(cls._wrap_output(part, args, kwargs) for part in output)
        inputs = [*args, *(kwargs or {}).values()]
        like = next((value for value in inputs if isinstance(value, RotatedBoxes)), None)
        if isinstance(output, Tensor) and like is not None:
            plain = output.as_subclass(Tensor)
            # a column or a comparison of boxes isn't boxes, whatever the return type is set to
            shaped = plain.ndim == 2 and plain.shape[1] == 5 and plain.is_floating_point()
            return cls._wrap(plain, like.canvas_size) if shaped else plain
        return output

    @classmethod
    def from_quads(
        cls, quads: Tensor, *, canvas_size: Sequence[int], dtype: torch.dtype | None = None
    ) -> Self:
        """The smallest rectangles around quadrilaterals.

        Args:
            quads: ``(N, 4, 2)`` or ``(N, 8)`` corners in pixels.
            canvas_size: Height and width of the image.
            dtype: Of the boxes; default: float64 for float64, else float32.
        """
        plain = torch.as_tensor(quads)
        if plain.numel() == 0:
            plain = plain.reshape(0, 4, 2)
        return cls(quads_to_boxes(plain), canvas_size=canvas_size, dtype=dtype)

    def _plain(self) -> Tensor:
        plain: Tensor = self.as_subclass(Tensor)
        return plain

    def to_quads(self) -> Tensor:
        """Corners ``(N, 4, 2)``, clockwise on screen from (-w/2, -h/2)."""
        return boxes_to_quads(self._plain())

    def to_version(self, version: str) -> "RotatedBoxes":
        """The same rectangles, represented as ``"oc"``, ``"le90"`` or ``"le135"`` asks for."""
        return self.wrap(normalise_boxes(self._plain(), version), self)

    def to_hbb(self) -> tv_tensors.BoundingBoxes:
        """Enclosing horizontal boxes ``(N, 4)``, x1, y1, x2, y2."""
        return tv_tensors.BoundingBoxes(
            boxes_to_hbb(self._plain()), format="XYXY", canvas_size=self.canvas_size
        )

    def area(self) -> Tensor:
        """Areas ``(N,)`` in square pixels, whether inside the image or not."""
        return box_areas(self._plain())

    def select(self, index: Any) -> "RotatedBoxes":
        """Some of the boxes, by mask, slice or list of indices, as `RotatedBoxes`."""
        return self.wrap(self._plain()[index].reshape(-1, 5), self)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return str(self._make_repr(canvas_size=self.canvas_size))


@dataclass(frozen=True)
class Detections:
    """What a detector says about one image.

    Attributes:
        boxes: ``(N, 4)`` x1, y1, x2, y2 or rotated ``(N, 5)``, plain tensors, in pixels.
        scores: ``(N,)`` in 0..1.
        labels: int64 ``(N,)``.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, index: Any) -> "Detections":
        """Some of them, by mask, slice or indices."""
        return Detections(self.boxes[index], self.scores[index], self.labels[index])


def visible_fraction(boxes: RotatedBoxes) -> Tensor:
    """How much of each box lies inside the image.

    Args:
        boxes: ``(N, 5)``.

    Returns:
        ``(N,)`` in [0, 1]: area inside the canvas over area. A box without area counts as visible
        (1) if its centre is inside.
    """
    import shapely

    height, width = boxes.canvas_size
    plain = boxes._plain().detach().cpu().double()
    centre = plain[:, :2]
    inside = (centre >= 0).all(1) & (centre <= centre.new_tensor([width, height])).all(1)
    fraction = inside.double()
    solid = box_areas(plain) > 0
    polygons = shapely.polygons(boxes_to_quads(plain[solid]).numpy())
    clipped = shapely.area(shapely.intersection(polygons, shapely.box(0, 0, width, height)))
    fraction[solid] = torch.from_numpy(clipped / shapely.area(polygons)).clamp(0, 1)
    return fraction.to(boxes.device, boxes.dtype)


def keep_visible(
    boxes: RotatedBoxes, min_side: float = 1.0, min_visible_fraction: float = 0.25
) -> Tensor:
    """Which boxes are still worth learning after a crop; index boxes and labels with it.

    Args:
        boxes: ``(N, 5)``.
        min_side: Least length in pixels of the shorter side.
        min_visible_fraction: Least share of the area that must lie inside the image.

    Returns:
        Boolean ``(N,)``.
    """
    sides = boxes._plain()[:, 2:4].amin(1)
    return (sides >= min_side) & (visible_fraction(boxes) >= min_visible_fraction)


# What each transform does to points. Where torchvision's rule for the new canvas is more than a
# line, `F.<name>_bounding_boxes` of a probe tells it.


def _kernel(functional: Callable[..., Any]) -> Callable[[Kernel], Kernel]:
    """Register a function as what a functional of torchvision does to `RotatedBoxes`."""

    def register(kernel: Kernel) -> Kernel:
        F.register_kernel(functional, RotatedBoxes)(kernel)
        return kernel

    return register


def _move(
    boxes: RotatedBoxes,
    corners: Callable[[Tensor], Tensor],
    canvas_size: Sequence[int] | None = None,
) -> RotatedBoxes:
    """Boxes around the moved corners; ``corners`` maps float64 ``(N, 4, 2)`` to the same."""
    plain = boxes._plain()
    moved = quads_to_boxes(corners(boxes_to_quads(plain.double()))).to(plain.dtype)
    return boxes.wrap(moved, boxes, canvas_size=canvas_size or boxes.canvas_size)


def _probe() -> Tensor:
    return torch.zeros(1, 4)


@_kernel(F.get_size)
def _get_size(boxes: RotatedBoxes) -> list[int]:
    return list(boxes.canvas_size)


@_kernel(F.horizontal_flip)
def _horizontal_flip(boxes: RotatedBoxes) -> RotatedBoxes:
    width = boxes.canvas_size[1]
    return _move(boxes, lambda p: p * p.new_tensor([-1, 1]) + p.new_tensor([width, 0]))


@_kernel(F.vertical_flip)
def _vertical_flip(boxes: RotatedBoxes) -> RotatedBoxes:
    height = boxes.canvas_size[0]
    return _move(boxes, lambda p: p * p.new_tensor([1, -1]) + p.new_tensor([0, height]))


@_kernel(F.resize)
def _resize(
    boxes: RotatedBoxes, size: list[int] | None, max_size: int | None = None, **_: Any
) -> RotatedBoxes:
    _, canvas = F.resize_bounding_boxes(
        _probe(), canvas_size=boxes.canvas_size, size=size, max_size=max_size
    )
    ratio = [canvas[1] / boxes.canvas_size[1], canvas[0] / boxes.canvas_size[0]]
    return _move(boxes, lambda p: p * p.new_tensor(ratio), canvas)


@_kernel(F.crop)
def _crop(boxes: RotatedBoxes, top: int, left: int, height: int, width: int) -> RotatedBoxes:
    return _move(boxes, lambda p: p - p.new_tensor([left, top]), (height, width))


@_kernel(F.center_crop)
def _center_crop(boxes: RotatedBoxes, output_size: list[int]) -> RotatedBoxes:
    probe, canvas = F.center_crop_bounding_boxes(
        _probe(),
        format=tv_tensors.BoundingBoxFormat.XYXY,
        canvas_size=boxes.canvas_size,
        output_size=output_size,
        clamping_mode=None,
    )
    return _move(boxes, lambda p: p + probe[0, :2].to(p), canvas)


@_kernel(F.resized_crop)
def _resized_crop(
    boxes: RotatedBoxes, top: int, left: int, height: int, width: int, size: list[int], **_: Any
) -> RotatedBoxes:
    return _resize(_crop(boxes, top, left, height, width), size)


@_kernel(F.pad)
def _pad(
    boxes: RotatedBoxes, padding: int | list[int], padding_mode: str = "constant", **_: Any
) -> RotatedBoxes:
    if padding_mode != "constant":
        raise ValueError(
            f"padding mode '{padding_mode}' repeats objects without their boxes; use 'constant'"
        )
    sides = [padding] if isinstance(padding, int) else list(padding)
    left, top, right, bottom = (sides * (4 // len(sides)))[:4]
    height, width = boxes.canvas_size
    return _move(
        boxes,
        lambda p: p + p.new_tensor([left, top]),
        (height + top + bottom, width + left + right),
    )


@_kernel(F.affine)
def _affine(
    boxes: RotatedBoxes,
    angle: float,
    translate: Sequence[float],
    scale: float,
    shear: float | Sequence[float],
    center: Sequence[float] | None = None,
    **_: Any,
) -> RotatedBoxes:
    shears = [shear, 0.0] if isinstance(shear, int | float) else list(shear)
    x_shear, y_shear = (math.tan(math.radians(s)) for s in (shears * 2)[:2])
    height, width = boxes.canvas_size
    middle = [width / 2, height / 2] if center is None else list(center)

    def corners(points: Tensor) -> Tensor:
        # torchvision: rotation (clockwise on screen) times y shear times x shear
        matrix = (
            _turn(points, math.radians(angle))
            @ points.new_tensor([[1, 0], [-y_shear, 1]])
            @ points.new_tensor([[1, -x_shear], [0, 1]])
        ) * scale
        pivot = points.new_tensor(middle)
        return (points - pivot) @ matrix.T + pivot + points.new_tensor(list(translate))

    return _move(boxes, corners)


@_kernel(F.rotate)
def _rotate(
    boxes: RotatedBoxes,
    angle: float,
    interpolation: Any = None,
    expand: bool = False,
    center: Sequence[float] | None = None,
    **_: Any,
) -> RotatedBoxes:
    height, width = boxes.canvas_size
    new_height, new_width = boxes.canvas_size
    if expand:
        _, (new_height, new_width) = F.rotate_bounding_boxes(
            _probe(),
            format=tv_tensors.BoundingBoxFormat.XYXY,
            canvas_size=boxes.canvas_size,
            angle=angle,
            expand=True,
            center=center,
        )
    middle = [width / 2, height / 2] if center is None else list(center)
    # an expanded canvas is centred on the old one's centre, like the image's
    shift = [(new_width - width) / 2, (new_height - height) / 2]

    def corners(points: Tensor) -> Tensor:
        matrix = _turn(points, -math.radians(angle))  # torchvision rotates counter-clockwise
        pivot = points.new_tensor(middle)
        return (points - pivot) @ matrix.T + pivot + points.new_tensor(shift)

    return _move(boxes, corners, (new_height, new_width))


def _turn(like: Tensor, angle_rad: float) -> Tensor:
    """Matrix that turns (x right, y down) clockwise on screen."""
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    return like.new_tensor([[cos, -sin], [sin, cos]])


@_kernel(F.perspective)
def _perspective(
    boxes: RotatedBoxes,
    startpoints: Sequence[Sequence[float]] | None,
    endpoints: Sequence[Sequence[float]] | None,
    coefficients: Sequence[float] | None = None,
    **_: Any,
) -> RotatedBoxes:
    if coefficients is None:
        if startpoints is None or endpoints is None:
            raise ValueError("perspective needs either startpoints and endpoints or coefficients")
        coefficients = _homography(endpoints, startpoints)

    def corners(points: Tensor) -> Tensor:
        # the coefficients say from where in the old image each new pixel comes
        backward = points.new_tensor([*coefficients, 1.0]).reshape(3, 3)
        forward = torch.linalg.inv(backward)
        moved = points @ forward[:, :2].T + forward[:, 2]
        # a box that reaches over the horizon has no image: it shrinks to a point
        beyond = (moved[..., 2:] <= 1e-6).any(-2, keepdim=True)
        seen = moved[..., :2] / torch.where(beyond, 1.0, moved[..., 2:])
        return torch.where(beyond, points.mean(-2, keepdim=True), seen)

    return _move(boxes, corners)


def _homography(
    source: Sequence[Sequence[float]], target: Sequence[Sequence[float]]
) -> list[float]:
    """The eight coefficients of the perspective map that takes four points to four others."""
    rows = []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
    values = torch.tensor([float(c) for point in target for c in point], dtype=torch.float64)
    solution: list[float] = torch.linalg.solve(
        torch.tensor(rows, dtype=torch.float64), values
    ).tolist()
    return solution


@_kernel(F.elastic)
def _elastic(boxes: RotatedBoxes, displacement: Tensor, **_: Any) -> RotatedBoxes:
    height, width = boxes.canvas_size

    def corners(points: Tensor) -> Tensor:
        # new pixel p shows what was at p + d(p); to first order what was at q is shown at q - d(q)
        column = points[..., 0].floor().long().clamp(0, width - 1)
        row = points[..., 1].floor().long().clamp(0, height - 1)
        half_size = points.new_tensor([width / 2, height / 2])
        return points - displacement[0].to(points)[row, column] * half_size

    return _move(boxes, corners)


@_kernel(F.five_crop)
@_kernel(F.ten_crop)
def _undefined(boxes: RotatedBoxes, *_: Any, **__: Any) -> None:
    raise TypeError("five_crop and ten_crop aren't defined for boxes; crop once for each")
