import pytest
import torch
from torchvision import tv_tensors

from swath.core.sample import Sample
from swath.mtl.augment import NoiseErasing, VariedCrop, box_augment, mask_augment, scene_augment


def image(height: int = 90, width: int = 120) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


def test_scenes_come_out_at_one_size_in_8_bits() -> None:
    torch.manual_seed(0)
    sample = Sample(image(), {"label": 3}).map(scene_augment(64))
    assert sample.image.shape == (3, 64, 64)
    assert sample.image.dtype == torch.uint8
    assert sample.targets["label"] == 3


def test_boxes_move_with_their_image() -> None:
    boxes = tv_tensors.BoundingBoxes(
        torch.tensor([[10.0, 20.0, 40.0, 50.0]]), format="XYXY", canvas_size=(90, 120)
    )
    sample = Sample(image(), {"boxes": boxes, "labels": torch.tensor([1])})
    resized = sample.map(box_augment(180, 1333))
    assert resized.image.shape == (3, 180, 240)
    x1, y1, x2, y2 = resized.targets["boxes"][0].tolist()
    assert (y1, y2) == (40, 100)
    assert (x1, x2) in [(20, 80), (160, 220)]  # as it was, or flipped


def test_masks_are_padded_by_the_label_that_is_asked_for() -> None:
    torch.manual_seed(1)
    mask = tv_tensors.Mask(torch.zeros(40, 40, dtype=torch.uint8))
    seen = set()
    for _ in range(8):
        sample = Sample(image(40, 40), {"mask": mask}).map(mask_augment(64, padding_label=5))
        assert sample.targets["mask"].shape == (64, 64)
        seen |= set(sample.targets["mask"].unique().tolist())
    assert seen == {0, 5}


def test_a_crop_of_one_class_is_drawn_anew() -> None:
    torch.manual_seed(2)
    mask = tv_tensors.Mask(torch.zeros(200, 200, dtype=torch.uint8))
    mask[:, 100:] = 1
    sample = Sample(image(200, 200), {"mask": mask})
    shares = [
        float((sample.map(VariedCrop(32)).targets["mask"] == 1).float().mean()) for _ in range(20)
    ]
    # a single draw shows both classes about one time in eight
    assert sum(0.25 <= share <= 0.75 for share in shares) >= 10


@pytest.mark.parametrize("seed", range(3))
def test_erasing_fills_a_rectangle_of_the_image_with_noise(seed: int) -> None:
    torch.manual_seed(seed)
    erase = NoiseErasing()
    erase.p = 1.0
    blank = tv_tensors.Image(torch.zeros(3, 60, 60, dtype=torch.uint8))
    erased, mask = erase(blank, tv_tensors.Mask(torch.ones(60, 60, dtype=torch.uint8)))
    touched = (erased != 0).any(0)
    rows, columns = touched.any(1).nonzero()[:, 0], touched.any(0).nonzero()[:, 0]
    area = len(rows) * len(columns)
    assert 0.01 * 3600 <= area <= 0.34 * 3600
    assert float(touched.sum()) > 0.95 * area
    assert bool((mask == 1).all())
    assert not bool(blank.any())
