"""Learning, judging and using a detector of two data sets."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from swath.core import load_model
from swath.core.checkpoint.store import save_model
from swath.core.cli.app import app
from swath.core.config import TrainConfig
from swath.core.data.detection import DotaText, read_coco
from swath.core.engine import evaluate, train
from swath.core.errors import ConfigError, DataError
from swath.kernels import rotated_iou
from swath.moe.detection_task import MultiDatasetDetectionTask


def batch_of(config: TrainConfig, indices: list[int]) -> dict[str, Any]:
    dataset, task = config.train.build(), config.task.build()
    return dict(task.collate([dataset[i] for i in indices]))


def test_the_losses_of_a_mixed_batch_are_those_of_each_data_set(detection: TrainConfig) -> None:
    torch.manual_seed(0)
    model = detection.model.build().eval()
    task = detection.task.build()
    batch = batch_of(detection, [1, 7, 2])
    assert batch["tasks"] == ["ships", "planes", "ships"]
    torch.manual_seed(1)
    losses = task.losses(model, batch)
    kinds = ("rpn_cls", "rpn_box", "roi_cls", "roi_box", "roi_accuracy")
    assert list(losses) == [f"{name}_{kind}" for name in ("ships", "planes") for kind in kinds]
    torch.manual_seed(1)
    for name, rows in {"ships": [0, 2], "planes": [1]}.items():
        view = model(
            batch["image"][rows],
            model.task_id(name),
            [batch["sizes"][i] for i in rows],
            [batch["boxes"][i] for i in rows],
            [batch["labels"][i] for i in rows],
        )
        for kind, loss in view[name].items():
            torch.testing.assert_close(losses[f"{name}_{kind}"], loss, rtol=1e-5, atol=1e-6)
    heavier = MultiDatasetDetectionTask(task.tasks, {"ships": 2.0}, {"planes": 0.5})
    torch.manual_seed(1)
    weighted = heavier.losses(model, batch | {"progress": 0.1})
    torch.testing.assert_close(weighted["ships_rpn_cls"], 2 * losses["ships_rpn_cls"])
    assert weighted["planes_rpn_cls"].item() == 0
    assert torch.equal(weighted["ships_roi_accuracy"], losses["ships_roi_accuracy"])


def test_figures_are_each_data_sets_own_and_their_mean(detection: TrainConfig) -> None:
    torch.manual_seed(0)
    model, task = detection.model.build(), detection.task.build()
    dataset = detection.val.build()
    figures = evaluate(model, task, dataset, batch_size=3, progress=False)
    for name, part in dataset.parts.items():
        view, own = task.select(model, name)
        alone = evaluate(view, own, part, progress=False)
        assert figures[f"{name}_mAP"] == alone["mAP"]
        for label in own.classes:
            assert figures["per_class"][f"{name}/{label}"] == alone["per_class"][label]
    assert figures["mAP"] == (figures["ships_mAP"] + figures["planes_mAP"]) / 2


def test_a_data_set_without_objects_is_no_part_of_the_mean(detection: TrainConfig) -> None:
    model, task = detection.model.build(), detection.task.build()
    parts = detection.val.build().parts
    parts["planes"].count = 1  # the first of the bars' scenes is empty
    only = type(detection.val.build())(parts, repeat=False)
    figures = evaluate(model, task, only, progress=False)
    assert list(figures["per_task"]) == ["ships"]
    assert not math.isnan(figures["mAP"])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    detection: TrainConfig, tmp_path: Path, precision: str
) -> None:
    config = replace(detection, precision=precision, val=None, iterations=4)
    train(config, tmp_path / "whole", progress=False)
    train(config, tmp_path / "parts", until=2, progress=False)
    train(config, tmp_path / "parts", resume=True, progress=False)
    whole = load_file(tmp_path / "whole" / "last.safetensors")
    parts = load_file(tmp_path / "parts" / "last.safetensors")
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


@pytest.mark.slow
def test_learns_to_find_bars(detection: TrainConfig, tmp_path: Path) -> None:
    train_set = detection.train
    for part in train_set["parts"].values():
        part["count"] = 60
    optimizer = detection.optimizer
    optimizer["lr"] = 3e-3
    config = replace(
        detection, train=train_set, optimizer=optimizer, iterations=150, batch_size=4,
        val_every=150, checkpoint_every=150,
    )  # fmt: skip
    summary = train(config, tmp_path, progress=False)
    assert summary.best is not None
    assert config.val is not None
    before = evaluate(detection.model.build(), detection.task.build(), config.val.build())
    print(f"mAP {before['mAP']:.3f}, after 150 steps {summary.best:.3f}")
    assert summary.best > max(0.15, 3 * before["mAP"])


@pytest.fixture
def checkpoint(detection: TrainConfig, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "detector.safetensors"
    model = detection.model.build()
    for head in model.heads.values():
        nn.init.normal_(head.roi_head.fc_cls.weight, std=0.5)  # so that it finds something
    save_model(path, model, detection.model, detection.task)
    return path


def scene(path: Path) -> Path:
    array = np.random.default_rng(0).integers(1, 255, (3, 150, 200)).astype(np.uint8)
    place = rasterio.Affine(0.3, 0, 412345.7, 0, -0.3, 5212345.1)
    options = {"driver": "GTiff", "count": 3, "height": 150, "width": 200, "dtype": "uint8"}
    with rasterio.open(path, "w", crs="EPSG:32633", transform=place, **options) as target:
        target.write(array)
    return path


def test_predict_writes_georeferenced_objects_in_every_format(
    checkpoint: Path, tmp_path: Path
) -> None:
    image = scene(tmp_path / "scene.tif")
    predictor = load_model(checkpoint, device="cpu", task="ships")
    found = predictor.predict(image, tile=128, overlap=32)
    assert len(found) > 0
    assert found.classes == ("ferry", "barge")
    for suffix in (".geojson", ".gpkg", ".json", ".txt"):
        out = tmp_path / f"objects{suffix}"
        command = ["predict", str(checkpoint), str(image), "--task", "ships", "-o", str(out)]
        command += ["--tile", "128", "--overlap", "32", "--device", "cpu"]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        assert "ferry" in result.output
    with rasterio.open(image) as source:
        bounds = gpd.GeoSeries.from_wkt(["POINT (412345.7 5212345.1)"], crs=source.crs)
    table = gpd.read_file(tmp_path / "objects.gpkg")
    assert table.crs.to_epsg() == 32633
    assert bounds.distance(table.union_all()).item() < 70  # metres: the scene is 60 by 45
    lonlat = gpd.read_file(tmp_path / "objects.geojson").to_crs(32633)
    assert lonlat.hausdorff_distance(table).max() < 1e-2  # corners go the other way round
    assert set(table.columns) >= {"class", "class_id", "score"}
    coco = read_coco(tmp_path / "objects.json")["scene.tif"]
    assert coco.names == table["class"].tolist()
    (tmp_path / "images").mkdir()
    image.rename(tmp_path / "images/objects.tif")
    (tmp_path / "labels").mkdir()
    (tmp_path / "objects.txt").rename(tmp_path / "labels/objects.txt")
    back = DotaText(tmp_path / "images", tmp_path / "labels", found.classes)[0].targets
    again = rotated_iou(torch.as_tensor(back["boxes"]), torch.from_numpy(found.boxes), aligned=True)
    assert float(again.min()) > 0.97
    assert back["labels"].tolist() == found.labels.tolist()


def test_mistakes_are_named(checkpoint: Path, detection: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown task 'ship'; did you mean 'ships'"):
        load_model(checkpoint, device="cpu", task="ship")
    image = scene(tmp_path / "scene.tif")
    with pytest.raises(ConfigError, match="choose by which to go, one of ships, planes"):
        load_model(checkpoint, device="cpu").predict(image)
    with pytest.raises(ConfigError, match=r"can't be saved as '\.tif'; use one of \.geojson"):
        load_model(checkpoint, device="cpu", task="ships").predict(image, out=tmp_path / "o.tif")
    task = detection.task.build()
    sample = detection.train.build()[1]
    with pytest.raises(DataError, match=r"is from 'plane'.*did you mean 'planes'"):
        task.collate([replace(sample, meta={"task": "plane"})])
    wrong = {**sample.targets, "labels": torch.tensor([1])}
    with pytest.raises(DataError, match="label 1, but there are 1 classes"):
        task.collate([replace(sample, targets=wrong, meta={"task": "planes"})])
    swapped = MultiDatasetDetectionTask({"ships": task.tasks["planes"]})
    with pytest.raises(ConfigError, match="scores 2 classes, the task has 1"):
        swapped.losses(detection.model.build(), batch_of(detection, [1]))
    with pytest.raises(ConfigError, match="trains an MDFDetector, not a Conv2d"):
        task.losses(nn.Conv2d(3, 2, 1), batch_of(detection, [1]))
