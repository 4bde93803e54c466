import pytest
import torch
from torchvision import tv_tensors

from swath.core.data.random_window import RandomWindow
from swath.core.errors import DataError
from swath.core.sample import Sample


def gradient_sample(height: int, width: int) -> Sample:
    """Band 0 holds the row, band 1 the column; the mask holds row + column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([rows, columns]).float()
    return Sample(
        tv_tensors.Image(image),
        {"mask": tv_tensors.Mask(rows + columns)},
        tv_tensors.Mask(torch.ones(height, width, dtype=torch.bool)),
    )


def test_without_scaling_a_right_angle_window_copies_pixels() -> None:
    sample = gradient_sample(50, 60)
    torch.manual_seed(0)
    window = RandomWindow(50, scale=(1, 1), rotate=False)
    for _ in range(8):
        out = sample.map(window)
        # 50 of 60 columns, and the whole height: a copy of the pixels, up to orientation
        assert out.image.shape == (2, 50, 50)
        spread = out.image.amax((1, 2)) - out.image.amin((1, 2))
        assert spread[0] == pytest.approx(49, abs=1e-3)
        assert spread[1] == pytest.approx(49, abs=1.0)


@pytest.mark.parametrize("side", [96, 400])
def test_image_and_mask_stay_together(side: int) -> None:
    sample = gradient_sample(side, side)
    torch.manual_seed(1)
    for _ in range(6):
        out = sample.map(RandomWindow(64, scale=(0.5, 2)))
        error = (out.image.sum(0) - out.targets["mask"]).abs()
        # nearest against bilinear: at most half a source pixel each way, more where mirrored
        assert error.quantile(0.9) <= 1.01
        assert out.valid is not None
        assert out.valid.dtype == torch.bool
        assert out.valid.all()


def test_a_small_scene_is_magnified_to_fill_the_window() -> None:
    out = gradient_sample(20, 20).map(RandomWindow(64, scale=(0.5, 0.5), rotate=False))
    assert out.image[0].max() - out.image[0].min() > 18


def test_all_orientations_and_both_hands_occur() -> None:
    sample, window = gradient_sample(64, 64), RandomWindow(16, scale=(1, 1), rotate=False)
    torch.manual_seed(2)
    seen = set()
    for _ in range(80):
        image = sample.map(window).image
        down, right = image[:, -1, 0] - image[:, 0, 0], image[:, 0, -1] - image[:, 0, 0]
        seen.add(tuple((torch.cat([down, right]) / 15).round().int().tolist()))
    assert len(seen) == 8


def test_integers_stay_integers() -> None:
    sample = gradient_sample(40, 40)
    sample.image = tv_tensors.Image(sample.image.to(torch.uint16))
    out = sample.map(RandomWindow(16))
    assert out.image.dtype == torch.uint16
    assert out.targets["mask"].dtype == torch.int64


def test_the_same_seed_gives_the_same_window() -> None:
    sample, images = gradient_sample(64, 80), []
    for _ in range(2):
        torch.manual_seed(5)
        images.append(sample.map(RandomWindow(24)).image)
    torch.testing.assert_close(*images, rtol=0, atol=0)


@pytest.mark.parametrize("scale", [(2.0, 1.0), (0.0, 1.0)])
def test_refuses_an_empty_range_of_scales(scale: tuple[float, float]) -> None:
    with pytest.raises(DataError, match="scale="):
        RandomWindow(8, scale=scale)


def test_refuses_boxes() -> None:
    sample = gradient_sample(16, 16)
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    sample.targets["boxes"] = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(16, 16))
    with pytest.raises(DataError, match="masks only"):
        sample.map(RandomWindow(8))
