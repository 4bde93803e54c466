"""One model on several data sets, its templates and cost maps, through the command line."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rasterio.windows import Window

from swath.core.checkpoint.store import save_model
from swath.core.cli import main
from swath.core.errors import DataError
from swath.core.geo.raster import RasterInfo, RasterWriter
from swath.core.models.unet import UNet
from swath.core.segmentation import SegmentationTask
from swath.core.spec import Spec
from swath.ovseg.datasets import data_sets
from swath.ovseg.task import OpenVocabularyTask

CONFIG = """
from swath.core.data.scenes import SceneDataset
from swath.core.spec import Spec
from swath.ovseg import OpenVocabularyTask, PublishedProtocol, open_vocabulary_adamw
from swath.ovseg.configs.gsnet_scenes_tiny import model as _with_clip

model = _with_clip["model"]
task = Spec(
    OpenVocabularyTask,
    classes=["tree"],
    evaluation=Spec(PublishedProtocol, shortest_edge=64),
)
train = Spec(SceneDataset, size=64, count=2)
optimizer = open_vocabulary_adamw()
iterations = 1
batch_size = 1
num_workers = 0
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for image, mask, labels in (
        ("VDD/src/{}.JPG", "VDD/gt/{}.png", 7),
        ("FloodNet/val+test/img/{}.jpg", "FloodNet/val+test/lbl/{}.png", 10),
    ):
        for number in range(2):
            for name, shape, high in ((image, (64, 64, 3), 255), (mask, (64, 64), labels)):
                path = tmp_path / name.format(number)
                path.parent.mkdir(parents=True, exist_ok=True)
                values = rng.integers(0, high, shape).astype(np.uint8)
                Image.fromarray(values).save(path, format="PNG")
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["swath", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_names_benchmarks_and_mistakes() -> None:
    assert data_sets(["floodnet", "potsdam"]) == ["gsnet-floodnet", "gsnet-potsdam"]
    assert data_sets(["vdd", "ovrsis-vdd"]) == ["ovrsis-vdd"]
    assert len(data_sets(["ovrsisbench", "gsnet", "fast"])) == 12
    with pytest.raises(DataError, match="no data set is called 'flodnet'; did you mean"):
        data_sets(["flodnet"])


@pytest.fixture
def checkpoint(tiny: Any, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    task = Spec(OpenVocabularyTask, classes=["tree"])
    save_model(path, tiny.build("rskt_seg"), tiny.specs["rskt_seg"], task)
    return path


def test_several_sets_in_one_table(
    checkpoint: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    config = tmp_path / "words.py"
    config.write_text(CONFIG)
    where = ["--data", "vdd", "floodnet", "--root", data, "--device", "cpu"]
    assert run(monkeypatch, "test", config, checkpoint, *where, "--json") == 0
    table = json.loads(capsys.readouterr().out)
    assert list(table) == ["ovrsis-vdd", "gsnet-floodnet", "mean"]
    assert set(table["gsnet-floodnet"]["per_class"]) >= {"road-flooded", "pool"}
    assert table["gsnet-floodnet"]["per_class"]["Background"]["IoU"] is None, "it is ignored"
    mean = (table["ovrsis-vdd"]["mIoU"] + table["gsnet-floodnet"]["mIoU"]) / 2
    assert table["mean"]["mIoU"] == pytest.approx(mean)
    assert table["ovrsis-vdd"]["images"] == 2

    own_scale = ["--set", "task.evaluation=None", "--data", "vdd", "--root", data]
    assert run(monkeypatch, "test", config, checkpoint, *own_scale, "--device", "cpu") == 0
    shown = capsys.readouterr().out
    assert "ovrsis-vdd" in shown
    assert "mACC" in shown
    written = json.loads((tmp_path / "evaluation/data_sets/metrics.json").read_text())
    assert written["data"]["ovrsis-vdd"]["pACC"] != table["ovrsis-vdd"]["pACC"]
    assert run(monkeypatch, "test", config, checkpoint, "--data", "vdd") == 2
    assert "--data needs --root" in capsys.readouterr().err


def test_cost_maps_beside_a_prediction(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    image = tmp_path / "0.tif"
    numbers = np.random.default_rng(0).integers(0, 2550, (4, 64, 64)).astype(np.uint16)
    with RasterWriter(image, RasterInfo(None, 64, 64, 4, "uint16"), count=4, dtype="uint16") as to:
        to.write(Window(0, 0, 64, 64), numbers)
    words = ["--classes", "roof, car", "--templates", "a map of {}; a photo of {}"]
    options = [*words, "--bands", "3,2,1", "--scale", "0:2550", "--device", "cpu"]
    predict = ["predict", checkpoint, image, *options, "--save-cost-maps"]
    assert run(monkeypatch, *predict, "--out", tmp_path / "map.tif") == 0
    saved = np.load(tmp_path / "0_cost_maps/cost_maps.npz")
    assert saved["names"].tolist() == ["roof", "car"]
    streams = {"clip 0", "clip 90", "clip 180", "clip 270", "specialist", "aggregated"}
    assert set(saved) == {"names", *streams}
    assert saved["clip 90"].shape == (2, 4, 4)
    assert saved["aggregated"].shape == (2, 16, 16)
    assert Image.open(tmp_path / "0_cost_maps/cost_maps.png").width > 500
    assert run(monkeypatch, *predict, "--out", tmp_path / "other.tif") == 2
    assert "0_cost_maps exists" in capsys.readouterr().err
    assert not (tmp_path / "other.tif").exists()


def test_models_without_words_say_so(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    path, spec = tmp_path / "unet.safetensors", Spec(UNet, in_channels=3, num_classes=2, width=4)
    save_model(path, spec.build(), spec, Spec(SegmentationTask, classes=["a", "b"]))
    image = data / "VDD/src/0.JPG"
    assert run(monkeypatch, "predict", path, image, "--save-cost-maps", "--device", "cpu") == 2
    assert "has no cost maps; leave --save-cost-maps out" in capsys.readouterr().err
    assert run(monkeypatch, "predict", path, image, "--templates", "name", "--device", "cpu") == 2
    assert "puts no classes into sentences; leave --templates out" in capsys.readouterr().err
