import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from swath.core.backbones.vit import ViT
from swath.core.checkpoint.store import save_model
from swath.core.cli import main
from swath.core.config import TrainConfig
from swath.core.data.detection import DotaText, YoloObb
from swath.core.data.radiometry import Radiometry
from swath.core.data.readers import find_images
from swath.core.detection import DetectionTask
from swath.core.errors import ConfigError, DataError
from swath.core.inference.predictor import Predictor, load_model
from swath.core.segmentation import SegmentationTask
from swath.core.spec import Spec
from swath.core.structures import Detections
from swath.kernels import boxes_to_quads
from swath.moe import dota
from swath.moe.cli import app
from swath.moe.models.oriented_rcnn import OrientedRCNN, ProposalSettings

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
    (found,) = dota.search(predictor, find_images(folder / "images"))
    dota.submission(found, CLASSES, folder / "out.zip")
    with zipfile.ZipFile(folder / "out.zip") as archive:
        assert archive.namelist() == ["Task1_plane.txt", "Task1_ship.txt"]
        lines = archive.read("Task1_plane.txt").decode().splitlines()
        assert archive.read("Task1_ship.txt") == b""
    corners = "20.00 15.00 40.00 15.00 40.00 25.00 20.00 25.00"
    assert lines == [f"P1 0.7500 {corners}", f"P2 0.7500 {corners}"]


class Recorder(nn.Module):
    """Two planes in every tile, one whole and a surer one at the right border; keeps the tiles."""

    def __init__(self) -> None:
        super().__init__()
        self.tiles: list[Tensor] = []

    def forward(self, image: Tensor, sizes: object) -> list[Detections]:
        self.tiles.extend(image)
        boxes = torch.tensor([[190.0, 500, 60, 20, 0], [1004, 500, 40, 20, 0]])
        return [Detections(boxes, torch.tensor([0.5, 0.9]), torch.tensor([0, 0]))]


def test_tiles_and_merging_are_those_of_the_published_protocol(tmp_path: Path) -> None:
    scene = np.random.default_rng(0).integers(0, 256, (800, 2300, 3), dtype=np.uint8)
    Image.fromarray(scene).save(tmp_path / "P1.png")
    model = Recorder()
    raw = Radiometry(("red", "green", "blue"), "uint8", 1.0, (0.0,) * 3, (1.0,) * 3)
    merged = dota.search(
        Predictor(model, DetectionTask(CLASSES, raw)), {"P1": tmp_path / "P1.png"}, (0.5, 0.7)
    )
    # 1,024 px every 824, the last one at the border, small ones padded; searched once for both
    padded = np.full((1024, 2300, 3), (124, 116, 104), np.uint8)
    padded[:800] = scene
    assert len(model.tiles) == 3
    for tile, x in zip(model.tiles, (0, 824, 1276), strict=True):
        assert np.array_equal(tile.permute(1, 2, 0), padded[:, x : x + 1024])
    # the surer one stays although a border cuts it: it shares two thirds with the one at 1014
    at = [sorted(one["P1"].boxes[:, 0].tolist()) for one in merged]
    assert at == [[190, 1004, 1466, 1828, 2280], [190, 1004, 1014, 1466, 1828, 2280]]


def test_figures_leave_difficult_objects_out(folder: Path) -> None:
    predictor = Predictor(Constant(), DetectionTask(CLASSES))
    (found,) = dota.search(predictor, find_images(folder / "images"), [dota.OWN_IOU])
    figures = dota.judge(found, DotaText(folder / "images", folder / "labelTxt", CLASSES))
    assert figures["mAP"] == 1
    assert figures["per_class"]["plane"]["objects"] == 1
    assert figures["per_class"]["ship"]["AP"] is None


def test_a_map_of_classes_is_no_submission(folder: Path) -> None:
    predictor = Predictor(nn.Conv2d(3, 2, 1), SegmentationTask(CLASSES))
    with pytest.raises(ConfigError, match="does segmentation; DOTA needs"):
        dota.search(predictor, find_images(folder / "images"))


def test_the_command_names_what_is_wrong(folder: Path) -> None:
    images = str(folder / "images")
    for out, message in (("a.txt", "takes a .zip"), ("old.zip", "exists")):
        (folder / "old.zip").touch()
        result = CliRunner().invoke(app, ["dota", "m", images, "-o", str(folder / out)])
        assert isinstance(result.exception, ConfigError)
        assert message in str(result.exception)


@pytest.fixture
def checkpoint(folder: Path) -> Path:
    """A detector of one data set, untrained."""
    torch.manual_seed(0)
    backbone = Spec(
        ViT, img_size=64, embed_dims=16, num_layers=4, num_heads=1, out_indices=[0, 1, 2, 3]
    )
    proposals = Spec(ProposalSettings, before_nms=50, count=50)
    model = Spec(
        OrientedRCNN, backbone=backbone, num_classes=2, channels=8, fc_channels=16,
        proposals=proposals,
    )  # fmt: skip
    path = folder / "single.safetensors"
    save_model(path, model.build(), model, Spec(DetectionTask, classes=CLASSES))
    return path


def test_the_command_ends_with_an_archive_and_figures_of_a_detector_of_one_data_set(
    folder: Path, checkpoint: Path
) -> None:
    out = folder / "out.zip"
    arguments = ["dota", str(checkpoint), str(folder / "images"), "-o", str(out)]
    arguments += ["--labels", str(folder / "labelTxt"), "--device", "cpu"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    with zipfile.ZipFile(out) as archive:
        lines = [line for name in archive.namelist() for line in archive.read(name).splitlines()]
    assert f"{len(lines)} objects in 2 scenes" in done.output
    assert "(1 objects)" in done.output
    assert "mean AP50" in done.output

    refused = CliRunner().invoke(app, [*arguments, "--overwrite", "--task", "dota"])
    assert isinstance(refused.exception, ConfigError)
    assert "leave task out" in str(refused.exception)


def test_a_mistake_in_the_labels_is_found_before_the_search(folder: Path, checkpoint: Path) -> None:
    (folder / "labelTxt/P2.txt").write_text("20 15 40 15 40 25 20 25 bus 0\n")
    out = folder / "out.zip"
    arguments = ["dota", str(checkpoint), str(folder / "images"), "-o", str(out)]
    done = CliRunner().invoke(app, [*arguments, "--labels", str(folder / "labelTxt")])
    assert isinstance(done.exception, DataError)
    assert "P2.txt, line 1: 'bus' isn't a class" in str(done.exception)
    assert "searching" not in done.output
    assert not out.exists()


def test_of_several_data_sets_the_command_takes_dota(folder: Path, detection: TrainConfig) -> None:
    checkpoint = folder / "several.safetensors"
    save_model(checkpoint, detection.model.build(), detection.model, detection.task)
    arguments = [str(checkpoint), str(folder / "images"), "-o", str(folder / "out.zip")]
    refused = CliRunner().invoke(app, ["dota", *arguments])
    assert isinstance(refused.exception, ConfigError)
    assert "'dota'" in str(refused.exception)
    assert "ships, planes" in str(refused.exception)


def test_objects_are_written_as_yolo_reads_them(
    folder: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = folder / "labels"
    monkeypatch.setattr("sys.argv", ["swath", "predict", str(checkpoint)])
    sys.argv += [*map(str, sorted((folder / "images").iterdir())), "-o", str(labels), "--yolo"]
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert sorted(p.name for p in labels.iterdir()) == ["P1.txt", "P2.txt"]
    found = YoloObb(folder / "images", labels, CLASSES)[0].targets
    expected = load_model(checkpoint, device="cpu").predict(folder / "images/P1.png")
    assert len(expected)
    assert found["labels"].tolist() == expected.labels.tolist()
    corners = boxes_to_quads(found["boxes"].as_subclass(Tensor)).numpy()
    for mine, theirs in zip(corners, expected.corners(), strict=True):  # begin at any corner
        np.testing.assert_allclose(np.sort(mine, 0), np.sort(theirs, 0), atol=1e-2)
