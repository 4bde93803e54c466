from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swath.core.data.classification import ClassFolders
from swath.core.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("river/1.jpg", "forest/1.jpg", "forest/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name)
    return tmp_path


def test_folders_are_classes_in_alphabetical_order(root: Path) -> None:
    data = ClassFolders(root)
    assert data.classes == ("forest", "river")
    assert data.ids == ["forest/1", "forest/2", "river/1"]
    assert [data[i].targets["label"] for i in range(3)] == data.labels == [0, 0, 1]


def test_an_order_can_be_given(root: Path) -> None:
    assert ClassFolders(root, ["river", "forest", "ice"]).labels == [1, 1, 0]


def test_unknown_and_missing_folders_are_named(root: Path) -> None:
    with pytest.raises(DataError, match="'river' isn't a class; did you mean 'rivers'"):
        ClassFolders(root, ["forest", "rivers"])
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / "stray.png")
    with pytest.raises(DataError, match=r"stray.png lies outside of the class folders"):
        ClassFolders(root)
