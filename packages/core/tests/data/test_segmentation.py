from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from swath.core.data.segmentation import CatalogueSegmentation, FolderSegmentation
from swath.core.data.spec import Protocol
from swath.core.errors import DataError

CLASSES = ("ground", "roof")


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i, name in enumerate(("b/2", "a/1", "a/10")):
        save(tmp_path / f"images/{name}.jpg", np.full((4, 6, 3), 10 * i, np.uint8))
        save(tmp_path / f"masks/{name}.png", np.full((4, 6), i % 2, np.uint8))
    return tmp_path


def test_pairs_by_relative_path(root: Path) -> None:
    data = FolderSegmentation(root / "images", root / "masks", classes=CLASSES, gsd_m=0.3)
    assert data.ids == ["a/1", "a/10", "b/2"]
    sample = data[0]
    assert sample.image.shape == (3, 4, 6)
    assert sample.targets["mask"].unique().tolist() == [1]
    assert sample.valid is None
    assert sample.meta["id"] == "a/1"
    assert sample.meta["gsd_m"] == 0.3
    assert (data.classes, data.ignore_index, len(data.palette)) == (CLASSES, 255, 2)


def test_ids_choose_and_order(root: Path) -> None:
    (root / "list.txt").write_text("b/2\na/1.jpg\n")
    for ids in (["b/2", "a/1"], str(root / "list.txt")):
        assert FolderSegmentation(root / "images", root / "masks", ids, classes=CLASSES).ids == [
            "b/2",
            "a/1",
        ]


def test_two_column_lists_are_relative_to_the_data_root(root: Path) -> None:
    (root / "splits.txt").write_text("images/b/2.jpg masks/b/2.png\n")
    data = FolderSegmentation(root, root, root / "splits.txt", classes=CLASSES)
    assert data[0].targets["mask"].unique().tolist() == [0]


def test_alpha_masks_the_loss_through_valid(root: Path) -> None:
    rgba = np.full((4, 6, 4), 255, np.uint8)
    rgba[0, :, 3] = 0
    save(root / "images/c.png", rgba)
    save(root / "masks/c.png", np.zeros((4, 6), np.uint8))
    data = FolderSegmentation(root / "images", root / "masks", ["c"], classes=CLASSES)
    assert data[0].valid is not None
    assert torch.equal(data[0].valid, torch.arange(4)[:, None].expand(4, 6) > 0)


def test_faults_are_one_line(root: Path) -> None:
    images, masks = root / "images", root / "masks"
    with pytest.raises(DataError, match="either a protocol or class names"):
        FolderSegmentation(images, masks)
    with pytest.raises(DataError, match="no image 'a/2'"):
        FolderSegmentation(images, masks, ["a/2"], classes=CLASSES)
    with pytest.raises(DataError, match="list of ids is empty"):
        FolderSegmentation(images, masks, [], classes=CLASSES)
    save(masks / "a/1.png", np.zeros((4, 5), np.uint8))
    with pytest.raises(DataError, match=r"1.png: 5 x 4 pixels, but its image .*1.jpg has 6 x 4"):
        FolderSegmentation(images, masks, ["a/1"], classes=CLASSES)[0]
    (masks / "b/2.png").unlink()
    with pytest.raises(DataError, match=r"2.jpg: no mask of that name"):
        FolderSegmentation(images, masks, classes=CLASSES)
    (root / "l.txt").write_text("images/a/1.jpg masks/a/1.png\nimages/b/2.jpg\n")
    with pytest.raises(DataError, match="has no mask beside it"):
        FolderSegmentation(root, root, root / "l.txt", classes=CLASSES)


def test_reads_a_known_set_by_name(tmp_path: Path) -> None:
    save(tmp_path / "Train/Rural/images_png/0.png", np.zeros((4, 6, 3), np.uint8))
    save(tmp_path / "Train/Rural/masks_png/0.png", np.array([[0, 1, 2, 3, 6, 7]] * 4, np.uint8))
    data = CatalogueSegmentation("loveda", tmp_path, "train")
    assert data[0].targets["mask"][0].tolist() == [255, 0, 1, 2, 5, 6]
    assert data[0].meta["dataset"] == "loveda"
    scored = CatalogueSegmentation("loveda", tmp_path, "train", "ovrs")
    assert scored[0].targets["mask"][0].tolist() == [0, 1, 2, 3, 6, 7]
    own = Protocol(("land",), mapping={i: 0 for i in range(8)})
    assert CatalogueSegmentation("loveda", tmp_path, "train", own)[0].targets["mask"].max() == 0
    with pytest.raises(DataError, match="'dota' is a detection set"):
        CatalogueSegmentation("dota", tmp_path, "train")


def test_the_kampala_tiles(samples_dir: Path) -> None:
    data = CatalogueSegmentation(
        "oam-kampala", samples_dir / "segmentation/oam_kampala_buildings", "z21"
    )
    assert len(data) == 80
    sample = data[0]
    assert sample.image.shape == (3, 256, 256)
    assert set(sample.targets["mask"].unique().tolist()) <= {0, 1}
