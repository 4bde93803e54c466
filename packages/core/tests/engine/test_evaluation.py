import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from swath.core.engine import evaluate
from swath.core.engine.evaluation import as_data, evaluate_on
from swath.core.errors import ConfigError, DataError
from swath.core.models.unet import UNet
from swath.core.segmentation import SegmentationTask

TASK = SegmentationTask(["ground", "square"])


@pytest.fixture
def model() -> UNet:
    torch.manual_seed(0)
    return UNet(in_channels=3, num_classes=2, width=4, depth=2)


def test_figures_do_not_depend_on_batch_size_or_workers(model: UNet, squares: Any) -> None:
    first = evaluate(model, TASK, squares(), batch_size=1, progress=False)
    second = evaluate(model, TASK, squares(), batch_size=5, num_workers=1, progress=False)
    assert as_data(first)["confusion"] == as_data(second)["confusion"]
    assert sum(map(sum, as_data(first)["confusion"])) == 12 * 16 * 16


def test_the_model_is_judged_in_eval_mode_and_put_back(model: UNet, squares: Any) -> None:
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, TASK, squares(), progress=False)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_an_empty_set_and_wrong_labels_are_named(model: UNet, squares: Any) -> None:
    with pytest.raises(DataError, match="is empty"):
        evaluate(model, TASK, squares(count=0), progress=False)
    for workers in (0, 1):
        with pytest.raises(DataError, match=r"^0.tif: the mask holds class 8"):
            evaluate(model, TASK, squares(classes=9), num_workers=workers, progress=False)


def test_progress_is_told_after_each_batch(model: UNet, squares: Any) -> None:
    ticks: list[tuple[int, int]] = []
    evaluate(
        model,
        TASK,
        squares(),
        batch_size=5,
        progress=False,
        tick=lambda done, total: ticks.append((done, total)),
    )
    assert ticks == [(5, 12), (10, 12), (12, 12)]


def test_data_sets_by_name_need_the_classes_of_the_model(model: UNet, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder, shape, high in (("image", (16, 16, 3), 255), ("label", (16, 16), 2)):
        (tmp_path / folder).mkdir()
        values = rng.integers(0, high, shape).astype(np.uint8)
        Image.fromarray(values).save(tmp_path / folder / "0.tif")
    task = SegmentationTask(["background", "building"])
    table = evaluate_on(model, task, ["whu-building"], tmp_path, progress=False)
    assert list(table) == ["whu-building", "mean"]
    assert table["whu-building"]["images"] == 1
    assert table["mean"]["mIoU"] == table["whu-building"]["mIoU"]
    with pytest.raises(ConfigError, match=r"whu-building has other classes .* 2 for \d+ \(0: "):
        evaluate_on(model, TASK, ["whu-building"], tmp_path, progress=False)
    with pytest.raises(DataError, match="no data set is called 'whu'"):
        evaluate_on(model, TASK, ["whu"], tmp_path, progress=False)


def test_figures_become_plain_data() -> None:
    assert as_data({"a": math.nan, "b": torch.tensor([1, 2]), "c": (1.5,)}) == {
        "a": None,
        "b": [1, 2],
        "c": [1.5],
    }
