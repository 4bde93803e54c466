"""`Sample`: one image with everything known about it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch


@dataclass(eq=False)
class Sample:
    """One image, its targets and where it came from.

    Attributes:
        image: ``(C, H, W)``, uint8, uint16, int16 or float32: the sensor's own numbers; they are
            scaled once, by the task's `Radiometry`, after augmentation.
        targets: What is to be learned, by name. Tensors are tv_tensors where geometry applies:
            ``"mask"`` `tv_tensors.Mask` ``(H, W)`` integer classes; ``"boxes"``
            `tv_tensors.BoundingBoxes` ``(N, 4)`` or `RotatedBoxes` ``(N, 5)``, with ``"labels"``
            int64 ``(N,)``; ``"instances"`` `tv_tensors.Mask` ``(N, H, W)``; ``"label"`` int;
            ``"caption"`` and ``"expressions"`` text.
        valid: Boolean `tv_tensors.Mask` ``(H, W)``, False where the sensor saw nothing (nodata), or
            None if every pixel is valid.
        meta: ``"id"``, ``"path"``, ``"gsd_m"``, ... : plain data for people and reports.
    """

    image: torch.Tensor
    targets: dict[str, Any] = field(default_factory=dict)
    valid: torch.Tensor | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def map(self, transform: Callable[..., Any]) -> "Sample":
        """Apply a torchvision v2 transform to image, targets and validity together."""
        # 3 seconds and 160 MB, which prediction doesn't need
        from torchvision import tv_tensors

        image, targets, valid = transform(tv_tensors.Image(self.image), self.targets, self.valid)
        return replace(self, image=image, targets=targets, valid=valid)
