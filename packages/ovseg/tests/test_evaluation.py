"""One model on several data sets, and its cost maps, through the API and the command line."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from swath.core.checkpoint.store import save_model
from swath.core.cli import main
from swath.core.errors import ConfigError, DataError
from swath.core.inference.predictor import Predictor
from swath.core.models.unet import UNet
from swath.core.segmentation import SegmentationTask
from swath.core.spec import Spec
from swath.ovseg.costs import cost_maps
from swath.ovseg.evaluation import benchmark, data_sets, rows
from swath.ovseg.protocols import PublishedProtocol
from swath.ovseg.task import OpenVocabularyTask


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


def test_several_sets_in_one_table(tiny: Any, data: Path) -> None:
    predictor = Predictor(tiny.build("catseg"), OpenVocabularyTask(["tree"]))
    table = benchmark(predictor, ["vdd", "floodnet"], data, progress=False)
    assert list(table) == ["ovrsis-vdd", "gsnet-floodnet", "mean"]
    assert set(table["gsnet-floodnet"]["per_class"]) >= {"road-flooded", "pool"}
    assert table["gsnet-floodnet"]["per_class"]["Background"]["IoU"] is None, "it is ignored"
    mean = (table["ovrsis-vdd"]["mIoU"] + table["gsnet-floodnet"]["mIoU"]) / 2
    assert table["mean"]["mIoU"] == pytest.approx(mean)
    assert rows(table)[0][:2] == ("ovrsis-vdd", "2")
    whole = benchmark(
        predictor, ["vdd"], data, protocol=PublishedProtocol(False, 64), progress=False
    )
    assert whole["ovrsis-vdd"]["pACC"] != table["ovrsis-vdd"]["pACC"]


def test_the_commands(
    tiny: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    spec = tiny.specs["rskt_seg"]
    checkpoint = tmp_path / "tiny.safetensors"
    save_model(checkpoint, tiny.build("rskt_seg"), spec, Spec(OpenVocabularyTask, classes=["tree"]))
    arguments = ["--data", "vdd", "--root", data, "--json", "--device", "cpu"]
    assert run(monkeypatch, "ovseg", "test", checkpoint, *arguments) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"ovrsis-vdd", "mean"}
    assert run(monkeypatch, "ovseg", "test", checkpoint, *arguments, "--published", "no") == 2
    assert "use slide or whole" in capsys.readouterr().err

    image = data / "VDD/src/0.JPG"
    out = tmp_path / "costs"
    words = ["--classes", "roof, car", "--out", out, "--device", "cpu"]
    assert run(monkeypatch, "ovseg", "costs", checkpoint, image, *words) == 0
    saved = np.load(out / "cost_maps.npz")
    assert saved["names"].tolist() == ["roof", "car"]
    streams = {"clip 0", "clip 90", "clip 180", "clip 270", "specialist", "aggregated"}
    assert set(saved) == {"names", *streams}
    assert saved["clip 90"].shape == (2, 4, 4)
    assert saved["aggregated"].shape == (2, 16, 16)
    assert Image.open(out / "cost_maps.png").width > 500


def test_other_models_have_no_cost_maps() -> None:
    predictor = Predictor(UNet(3, 2, width=4, depth=1), SegmentationTask(["a", "b"]))
    with pytest.raises(ConfigError, match="a UNet has no cost maps"):
        cost_maps(predictor, np.zeros((64, 64, 3), np.uint8))


def test_large_images_are_shrunk(tiny: Any) -> None:
    predictor = Predictor(tiny.build("catseg"), OpenVocabularyTask(["tree", "ship"]))
    image = np.random.default_rng(0).integers(0, 255, (200, 3000, 3), dtype=np.uint8)
    maps = cost_maps(predictor, image)
    assert maps.maps["clip"].shape == (2, 4, 48)
    assert np.abs(maps.maps["clip"]).max() <= 1.0001
