import math

import pytest
import torch

from swath.core.config import TrainConfig, config_header, load_config
from swath.core.zoo import card
from swath.refseg.data.scenes import VOCABULARY


def test_the_published_recipe_has_the_published_numbers() -> None:
    config = load_config("remotesam_swinb_270k")
    assert (config.batch_size, config.seed, config.sync_batchnorm) == (2, 2401, True)
    assert config.iterations == 40 * (273_676 // 16 + 1)
    assert config.precision == "fp32"
    assert (config.augment, config.clip_norm, config.ema) == (None, None, None)
    assert dict(config.optimizer.kwargs) == {
        "lr": 3e-5, "weight_decay": 0.01, "power": 0.9, "bert_layers": 10,
    }  # fmt: skip
    assert (config.task["dice_weight"], config.task["dice_reduction"]) == (0.1, "sum")
    assert config.task["input_size"] == 896
    assert TrainConfig.from_data(config.to_data()).hash == config.hash
    assert "not run here" in config_header("remotesam_swinb_270k")


def test_the_recipes_model_has_the_cards_parameters() -> None:
    config = load_config("remotesam_swinb_270k", ["model.swin=None", "model.bert=None"])
    with torch.device("meta"):
        model = config.model.build()
    count = sum(p.numel() for p in model.parameters())
    print(f"RemoteSAM: {count:,} parameters")
    assert count == card("remotesam-swin-b").params


def test_the_small_config_builds_and_takes_a_step() -> None:
    config = load_config("remotesam_scenes_tiny", ["batch_size=2"])
    model, task, data = config.model.build(), config.task.build(), config.train.build()
    assert list(task.tokenizer.vocabulary) == list(VOCABULARY)
    batch = task.collate([data[0], data[1]])
    losses = task.losses(model.train(), batch)
    assert set(losses) == {"ce", "dice", "words"}
    assert float((losses["ce"] + losses["dice"]).detach()) == pytest.approx(0.7, abs=0.4)
    guessing = 0.2 * math.log(int(batch["attention_mask"].sum(1).max()))
    assert float(losses["words"].detach()) == pytest.approx(guessing, rel=0.4)
    sum(losses.values()).backward()
    assert set(task.losses(model, {**batch, "progress": 0.1})) == {"words"}


def test_the_config_of_real_images_differs_in_size_and_data_alone() -> None:
    real, scenes = load_config("remotesam_vhr10_tiny"), load_config("remotesam_scenes_tiny")
    assert real.model == scenes.model  # whose weights it begins with
    differing = {k for k in real.task if real.task[k] != scenes.task[k]}
    assert differing == {"input_size"}
    assert real.train["samples"]["split"] == "train"
    assert real.test is not None
    assert real.test["split"] == "test"
