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
    losses = task.losses(model.train(), task.collate([data[0], data[1]]))
    loss = sum(losses.values())
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.7, abs=0.4)
