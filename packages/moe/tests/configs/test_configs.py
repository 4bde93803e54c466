from pathlib import Path

import pytest
import torch

from swath.core.backbones.vit import Size
from swath.core.config import TrainConfig, config_header, load_config
from swath.core.data.loader import EpochSampler
from swath.core.engine import evaluate, smoke, train
from swath.core.zoo import card
from swath.moe.data import MultiDataset

SIZES = ("b", "l", "h")
CLASSES = {"vaihingen": 5, "potsdam": 5, "openearthmap": 9, "loveda": 7}


@pytest.mark.parametrize("size", SIZES)
def test_the_published_recipe_has_the_published_numbers(size: str) -> None:
    config = load_config(f"moe_seg_vit{size}")
    assert (config.batch_size, config.precision, config.sync_batchnorm) == (48, "fp16", True)
    assert config.iterations == 100 * (12_696 // (12 * 2))
    assert config.val_every == 529
    assert config.augment is not None
    assert config.augment.kwargs == {"size": 512, "scale": [0.5, 2.0]}
    assert list(config.train["parts"]) == list(config.model["tasks"])
    assert [part["split"] for part in config.train["parts"].values()] == [
        "train", "train", "train", "all",
    ]  # fmt: skip
    assert config.val is not None
    assert list(config.val["parts"]) == ["vaihingen", "potsdam", "openearthmap"]
    task = config.task.build()
    assert {n: len(t.classes) for n, t in task.tasks.items()} == CLASSES
    modes = {n: t.evaluation for n, t in task.tasks.items()}
    assert modes["vaihingen"] == modes["potsdam"]
    assert (modes["potsdam"].mode, modes["potsdam"].flip) == ("whole", True)
    assert (modes["openearthmap"].mode, modes["openearthmap"].size) == ("resize", 512)
    assert (modes["loveda"].mode, modes["loveda"].size, modes["loveda"].step) == ("slide", 512, 256)
    for epoch, weight in ((0, 0.0), (69, 0.0), (70, 1.0), (99, 1.0)):
        for step in (529 * epoch, 529 * epoch + 528):
            assert task.weight("vaihingen", step / config.iterations) == weight
            assert task.weight("loveda", step / config.iterations) == 1.0
    assert TrainConfig.from_data(config.to_data()).hash == config.hash


@pytest.mark.parametrize("size", SIZES)
def test_full_models_have_the_cards_counts_and_every_parameter_decays(size: str) -> None:
    config = load_config(f"moe_seg_vit{size}", ["model.weights=None", "iterations=10"])
    with torch.device("meta"):
        model = config.model.build()
        optimisation = config.optimizer.build()(model, config.iterations)
    count = sum(p.numel() for p in model.parameters())
    print(f"ViT-MoE-{size.upper()}: {count:,} parameters")
    known = card(f"s5-moe-vit{size}-seg")
    assert count == known.params
    assert known.classes == config.task.build().classes
    (group,) = optimisation.optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (5e-5, 0.05)


@pytest.mark.parametrize(("name", "classes"), CLASSES.items())
def test_the_baselines_learn_one_set_with_the_same_recipe(name: str, classes: int) -> None:
    config, multi = load_config(f"single_seg_{name}"), load_config("moe_seg_vitb")
    assert config.optimizer == multi.optimizer
    assert config.augment == multi.augment
    assert (config.iterations, config.batch_size) == (multi.iterations, multi.batch_size // 4)
    assert config.train == multi.train["parts"][name]
    assert config.task == multi.task["tasks"][name]
    assert (config.val is None) == (name == "loveda")
    assert config.test is not None
    assert (config.test["name"], config.test["split"]) == (name, "val")
    with torch.device("meta"):
        model = config.model.build()
    if classes == 5:
        assert sum(p.numel() for p in model.parameters()) == 103_155_462
    assert model.classifier.out_channels == classes


@pytest.mark.parametrize("size", SIZES)
def test_the_published_detection_recipe_has_the_published_numbers(size: Size) -> None:
    config = load_config(f"moe_det_vit{size}", ["model.weights=None"])
    assert config.batch_size * 4 == 16  # 2 of each of 2 sets on each of 4 GPUs
    assert config.iterations == 12 * (11_725 // 8)
    assert config.clip_norm == 35
    optimizer = config.optimizer
    assert (optimizer["lr"], optimizer["weight_decay"], optimizer["warmup"]) == (1e-4, 0.05, 500)
    assert optimizer["milestones"] == [8 / 12, 11 / 12]
    assert list(config.train["parts"]) == list(config.model["tasks"]) == ["dior", "dota"]
    task = config.task.build()
    assert {n: len(t.classes) for n, t in task.tasks.items()} == {"dior": 20, "dota": 18}
    assert task.tasks["dior"].zoom * 800 == 1024
    assert {t.metrics().protocol for t in task.tasks.values()} == {"voc07"}
    with torch.device("meta"):
        model = config.model.build()
    known = card(f"s5-moe-vit{size}-det")
    assert sum(p.numel() for p in model.parameters()) == known.params
    assert known.classes == task.classes
    assert TrainConfig.from_data(config.to_data()).hash == config.hash


@pytest.mark.parametrize(("name", "classes"), [("dior", 20), ("dota", 18)])
def test_the_detection_baselines_learn_one_set_with_the_same_recipe(
    name: str, classes: int
) -> None:
    config, multi = load_config(f"single_det_{name}"), load_config("moe_det_vitb")
    assert config.optimizer == multi.optimizer
    assert config.augment == multi.augment
    assert (config.iterations, config.batch_size) == (multi.iterations, multi.batch_size // 2)
    assert config.train == multi.train["parts"][name]
    assert config.task == multi.task["tasks"][name]
    assert config.model["num_classes"] == classes


def test_every_config_says_what_it_is() -> None:
    names = [f"moe_seg_vit{s}" for s in SIZES] + [f"single_seg_{n}" for n in CLASSES]
    names += [f"moe_det_vit{s}" for s in SIZES] + ["single_det_dior", "single_det_dota"]
    names += ["moe_det_scenes_tiny", "oriented_rcnn_scenes_tiny"]
    for name in ["moe_seg_scenes_tiny", *names]:
        header = config_header(name)
        assert all(f"\n{word}:" in header for word in ("Run", "Source", "Expect")), name


def test_the_tiny_recipe_trains_and_its_checkpoint_maps_for_each_domain(tmp_path: Path) -> None:
    from swath.core import load_model

    config = smoke(load_config("moe_seg_scenes_tiny", ["batch_size=4"]))
    train_set = config.train.build()
    assert isinstance(train_set, MultiDataset)
    sampler = iter(EpochSampler(len(train_set), order=train_set.epoch_order))
    assert [train_set[next(sampler)[1]].meta["task"] for _ in range(4)] == list(train_set.parts)
    summary = train(config, tmp_path, device="cpu", progress=False)
    predictor = load_model(summary.best_checkpoint, device="cpu")
    assert config.test is not None
    figures = evaluate(predictor.model, predictor.task, config.test.build(), progress=False)
    assert 0 <= figures["mIoU"] <= 1
    image = config.test.build()[0].image.permute(1, 2, 0).numpy()
    mapped = load_model(summary.best_checkpoint, device="cpu", task="urban").predict(image)
    assert mapped.mask.shape == image.shape[:2]
    assert mapped.info.width == 64


def test_the_tiny_detection_recipe_trains_and_its_checkpoint_finds_for_each_domain(
    tmp_path: Path,
) -> None:
    from swath.core import load_model

    config = smoke(load_config("moe_det_scenes_tiny", ["batch_size=4"]))
    summary = train(config, tmp_path, device="cpu", progress=False)
    predictor = load_model(summary.best_checkpoint, device="cpu")
    assert config.test is not None
    test_set = config.test.build()
    figures = evaluate(predictor.model, predictor.task, test_set, progress=False)
    assert set(figures["per_task"]) <= {"urban", "coastal"}
    image = test_set[0].image.permute(1, 2, 0).numpy()
    found = load_model(summary.best_checkpoint, device="cpu", task="coastal").predict(image)
    assert found.classes == ("ship", "vehicle", "building")
    assert found.boxes.shape[1] == 5
