"""Features of regions of interest, read from a pyramid."""

from collections.abc import Sequence

import torch
from torch import Tensor

from swath.kernels import multilevel_roi_align_rotated


class RotatedRoIPool:
    """A grid of features for each rotated box, from the level of the pyramid that suits its size.

    Args:
        strides: Of the maps that are read, finest first. The first one is for boxes of a side below
            28 of its cells.
        output_size: Bins along each side.
        sampling_ratio: Samples in a bin along each side.
        enlarge: Factors of w and h of a box before its features are read; S5: (1.2, 1.4).

    Source:
        Xie et al. 2021, Oriented R-CNN, section 3.2; for levels and samples see
        `swath.kernels.multilevel_roi_align_rotated`.
    """

    def __init__(
        self,
        strides: Sequence[int] = (4, 8, 16, 32),
        output_size: int = 7,
        sampling_ratio: int = 2,
        enlarge: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        self.strides, self.output_size = tuple(strides), output_size
        self.sampling_ratio, self.enlarge = sampling_ratio, enlarge

    def __call__(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Pool.

        Args:
            features: Maps ``(B, C, h_i, w_i)``, finest first; those beyond the strides are left.
            boxes: For each of the B images ``(R_b, 5)``, in pixels.

        Returns:
            ``(sum of R_b, C, output_size, output_size)``, image after image.
        """
        rois = torch.cat(
            [torch.cat((b.new_full((len(b), 1), index), b), 1) for index, b in enumerate(boxes)]
            or [features[0].new_zeros(0, 6)]
        )
        factors = rois.new_tensor([1.0, 1.0, 1.0, *self.enlarge, 1.0])
        read = features[: len(self.strides)]
        pooled: Tensor = multilevel_roi_align_rotated(
            read,
            rois * factors,
            self.output_size,
            self.strides,
            self.sampling_ratio,
            finest_scale=14.0 * self.strides[0],  # 56 px at stride 4
        )
        return pooled
