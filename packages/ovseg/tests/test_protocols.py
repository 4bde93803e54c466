"""The published ways of evaluation."""

import pytest
import torch
from torch import Tensor

from swath.ovseg.protocols import PublishedProtocol


def nothing(image: Tensor, grid: tuple[int, int]) -> Tensor:
    return image.new_zeros(len(image), 2, 4 * grid[0], 4 * grid[1])


@pytest.mark.parametrize("slide", [False, True])
@pytest.mark.parametrize("size", [(1, 10_000), (1, 1), (70, 40)])
def test_images_of_any_shape_are_mapped(slide: bool, size: tuple[int, int]) -> None:
    got = PublishedProtocol(slide)(nothing, torch.rand(3, *size))
    assert got.shape == (2, *size)
    torch.testing.assert_close(got, torch.full_like(got, 0.5))
