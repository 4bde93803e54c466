"""The contact sheet shows pictures, labels and a legend."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from swath.core.data.preview import contact_sheet
from swath.core.errors import DataError
from swath.core.sample import Sample
from swath.core.structures import RotatedBoxes

PALETTE = ((250, 10, 10), (10, 250, 10))


class Dataset:
    """Grey pictures, all with the same targets."""

    classes, palette, ignore_index = ("ground", "roof"), PALETTE, 255

    def __init__(self, count: int, targets: dict[str, Any], *, bands: int = 3) -> None:
        self.ids = [f"tile{i}" for i in range(count)]
        self._sample = Sample(torch.full((bands, 40, 60), 128, dtype=torch.uint8), targets)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        return self._sample


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def holds(image: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((image == colour).all(axis=-1).any())


@pytest.fixture
def masks() -> Dataset:
    return Dataset(5, {"mask": tv_tensors.Mask(torch.ones(40, 60, dtype=torch.uint8))})


def test_the_sheet_holds_as_many_cells_as_asked(tmp_path: Path, masks: Dataset) -> None:
    heights, widths = {}, {}
    for count, columns in ((1, 2), (2, 2), (4, 2), (50, 2)):
        path = contact_sheet(
            masks, tmp_path / f"{count}.png", count=count, columns=columns, cell_px=120
        )
        heights[count], widths[count] = pixels(path).shape[:2]
    assert widths[1] >= 2 * 120  # the picture and, beside it, its mask
    assert widths[2] >= 2 * widths[1] - 30
    row = heights[4] - heights[2]
    assert row >= 80  # 40 x 60 pixels at 120 wide, and a title
    assert heights[50] == heights[2] + 2 * row  # five samples there are


def test_a_mask_is_laid_over_in_its_colour_and_explained(tmp_path: Path, masks: Dataset) -> None:
    image = pixels(contact_sheet(masks, tmp_path / "a.png", count=1, cell_px=120))
    bottom = image[-28:]
    for colour in PALETTE:
        assert holds(bottom, colour)
    tinted = image[:80].astype(int)
    green = (tinted[..., 1] - tinted[..., 0] > 60).mean()
    assert 0.3 < green < 0.6  # half of the cell: the other half is the plain picture


@pytest.mark.parametrize(
    "boxes",
    [
        RotatedBoxes([[30.0, 20.0, 30.0, 10.0, 0.5]], canvas_size=(40, 60)),
        tv_tensors.BoundingBoxes([[15.0, 10.0, 45.0, 30.0]], format="XYXY", canvas_size=(40, 60)),
    ],
)
def test_objects_are_outlined_in_their_colour(tmp_path: Path, boxes: torch.Tensor) -> None:
    dataset = Dataset(1, {"boxes": boxes, "labels": torch.tensor([1])})
    image = pixels(contact_sheet(dataset, tmp_path / "a.png", cell_px=120))
    assert holds(image[:90], PALETTE[1])
    assert not holds(image[:90], PALETTE[0])


def test_classes_of_whole_pictures_and_of_many_bands_are_shown(tmp_path: Path) -> None:
    sheet = contact_sheet(Dataset(3, {"label": 1}, bands=10), tmp_path / "a.jpg", cell_px=64)
    assert pixels(sheet).shape[1] > 64


def test_nothing_to_show_and_odd_formats_are_refused(tmp_path: Path, masks: Dataset) -> None:
    with pytest.raises(DataError, match="nothing to preview"):
        contact_sheet(Dataset(0, {}), tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.pdf: a contact sheet is"):
        contact_sheet(masks, tmp_path / "a.pdf")
    assert not list(tmp_path.iterdir())
