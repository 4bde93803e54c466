from pathlib import Path

import pytest
import torch

from swath.core.config import TrainConfig, config_header, load_config
from swath.core.engine import evaluate, smoke, train
from swath.core.zoo import card
from swath.pretrain.task import S4PTask

SIZES = ("b", "l", "h")


def published(size: str, *overrides: str) -> TrainConfig:
    return load_config(f"s4p_vit{size}_isaid_rs4p1m", overrides)


@pytest.mark.parametrize("size", SIZES)
def test_the_published_recipe_has_the_published_numbers(size: str) -> None:
    config = published(size)
    numbers = (config.batch_size, config.iterations, config.val_every, config.checkpoint_every)
    assert numbers == (12, 120_000, 2_000, 20_000)
    assert (config.precision, config.sync_batchnorm, config.seed) == ("fp16", True, 2025)
    assert (config.clip_norm, config.ema, config.accumulate) == (None, None, 1)
    assert config.augment is not None
    assert config.augment.kwargs == {"size": 512, "scale": [0.5, 2.0]}
    task = config.task.build()
    assert isinstance(task, S4PTask)
    assert (task.threshold, task.label_precision, task.labels) == (0.95, "fp32", "online")
    assert len(task.classes) == 16
    assert config.train.kwargs["cutmix"] == 0.5
    assert TrainConfig.from_data(config.to_data()).hash == config.hash


@pytest.mark.parametrize("size", SIZES)
def test_full_models_have_the_published_counts_and_every_parameter_decays(size: str) -> None:
    config = published(size, "model.weights=None", "iterations=10")
    with torch.device("meta"):
        model = config.model.build()
        optimisation = config.optimizer.build()(model, config.iterations)
    count = sum(p.numel() for p in model.parameters())
    print(f"ViT-{size.upper()}: {count:,} parameters")
    assert count == card(f"s4p-vit-{size}").params
    (group,) = optimisation.optimizer.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (5e-5, (0.9, 0.999), 0.01)
    assert [optimisation.factor(step) for step in (0, 5)] == [1.0, pytest.approx(0.5)]
    assert optimisation.factor(10) == pytest.approx(0.0)


def test_every_config_says_what_it_is() -> None:
    for name in ("s4p_scenes_tiny", *(f"s4p_vit{size}_isaid_rs4p1m" for size in SIZES)):
        header = config_header(name)
        assert all(f"\n{word}:" in header for word in ("Run", "Source", "Expect")), name


def test_the_tiny_recipe_trains_and_its_checkpoint_is_a_model(tmp_path: Path) -> None:
    from swath.core import load_model

    config = smoke(load_config("s4p_scenes_tiny"))
    summary = train(config, tmp_path, device="cpu", progress=False)
    predictor = load_model(summary.best_checkpoint, device="cpu")
    assert config.test is not None
    figures = evaluate(predictor.model, predictor.task, config.test.build(), progress=False)
    assert 0 <= figures["mIoU"] <= 1
    image = config.test.build()[0].image.permute(1, 2, 0).numpy()
    assert predictor.predict(image).mask.shape == (96, 96)
