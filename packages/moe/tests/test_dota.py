import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from swath.core.data.detection import DotaText
from swath.core.data.readers import find_images
from swath.core.detection import DetectionTask
from swath.core.errors import ConfigError
from swath.core.inference.predictor import Predictor
from swath.core.segmentation import SegmentationTask
from swath.core.structures import Detections
from swath.moe import dota
from swath.moe.cli import app

CLASSES = ["plane", "ship"]


class Constant(nn.Module):
    """Finds one plane, in the same place of every tile."""

    def forward(self, image: Tensor, sizes: object) -> list[Detections]:
        box = torch.tensor([[30.0, 20.0, 20.0, 10.0, 0.0]])
        one = Detections(box, torch.tensor([0.75]), torch.tensor([0]))
        return [one] * len(image)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "labelTxt").mkdir()
    for name, line in (
        ("P1", "imagesource:x\ngsd:0.1\n20 15 40 15 40 25 20 25 plane 0\n"),
        ("P2", "20 15 40 15 40 25 20 25 plane 1\n"),
    ):
        array = np.full((64, 80, 3), 9, np.uint8)
        Image.fromarray(array).save(tmp_path / f"images/{name}.png")
        (tmp_path / f"labelTxt/{name}.txt").write_text(line)
    return tmp_path


def test_the_archive_has_a_file_a_class_and_a_line_an_object(folder: Path) -> None:
    predictor = Predictor(Constant(), DetectionTask(CLASSES))
    found = dota.search(predictor, find_images(folder / "images"))
    dota.submission(found, CLASSES, folder / "out.zip")
    with zipfile.ZipFile(folder / "out.zip") as archive:
        assert archive.namelist() == ["Task1_plane.txt", "Task1_ship.txt"]
        lines = archive.read("Task1_plane.txt").decode().splitlines()
        assert archive.read("Task1_ship.txt") == b""
    corners = "20.00 15.00 40.00 15.00 40.00 25.00 20.00 25.00"
    assert lines == [f"P1 0.7500 {corners}", f"P2 0.7500 {corners}"]


def test_figures_leave_difficult_objects_out(folder: Path) -> None:
    predictor = Predictor(Constant(), DetectionTask(CLASSES))
    found = dota.search(predictor, find_images(folder / "images"), dota.OWN_IOU)
    figures = dota.judge(found, DotaText(folder / "images", folder / "labelTxt", CLASSES))
    assert figures["mAP"] == 1
    assert figures["per_class"]["plane"]["objects"] == 1
    assert figures["per_class"]["ship"]["AP"] is None


def test_a_map_of_classes_is_no_submission(folder: Path) -> None:
    predictor = Predictor(nn.Conv2d(3, 2, 1), SegmentationTask(CLASSES))
    with pytest.raises(ConfigError, match="detector of rotated boxes, not of segmentation"):
        dota.search(predictor, find_images(folder / "images"))


def test_the_command_names_what_is_wrong(folder: Path) -> None:
    images = str(folder / "images")
    for out, message in (("a.txt", "takes a .zip"), ("old.zip", "exists")):
        (folder / "old.zip").touch()
        result = CliRunner().invoke(app, ["dota", "m", images, "-o", str(folder / out)])
        assert isinstance(result.exception, ConfigError)
        assert message in str(result.exception)
