"""Every published recipe has the published numbers, and the small one trains, resumes and opens."""

import pkgutil
from pathlib import Path

import pytest
import torch

from swath.core import load_model
from swath.core.config import TrainConfig, config_header, load_config
from swath.core.engine import smoke, train
from swath.core.zoo import card
from swath.ovseg import configs

NAMES = [m.name for m in pkgutil.iter_modules(configs.__path__) if not m.name.startswith("_")]
PUBLISHED = [name for name in NAMES if "scenes" not in name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes_have_the_published_numbers(name: str) -> None:
    config = load_config(name)
    gsnet = name.endswith("landdiscover")
    optimizer = {"lr": 2e-4, "weight_decay": 1e-4, "clip_multiplier": 0.01}
    assert config.optimizer.kwargs == optimizer
    assert (config.iterations, config.clip_norm) == (30_000, 0.01)
    sed = name.startswith("sed")
    assert config.batch_size == (4 if gsnet or sed else 8)
    assert config.task["ignore_index"] == (0 if gsnet else 255)
    assert config.task["evaluation"].build().slide == gsnet
    assert config.augment is not None
    size = {"size": 768, "shortest_edge": [768]} if sed else {"size": 384}
    assert config.augment.kwargs == size | {"ignore_index": config.task["ignore_index"]}
    config.task.build()
    assert TrainConfig.from_data(config.to_data()).hash == config.hash


@pytest.mark.parametrize("name", PUBLISHED)
def test_full_models_have_the_parameters_that_the_header_says(name: str) -> None:
    config = load_config(name)
    with torch.device("meta"):
        model = config.model["model"].build()
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    header = str(config_header(name))
    assert f"{total:,}" in header
    assert f"{trained:,}" in header


def test_released_files_of_rskt_seg_have_their_own_depths() -> None:
    depths = {"b-dlrsd": 5, "b-isaid": 3, "l-dlrsd": 5, "l-isaid": 2}
    for name, layers in depths.items():
        config = load_config(f"rskt_seg_vit{name.replace('-', '_')}")
        assert config.model["model"]["num_layers"] == layers
        assert card(f"rskt-seg-vit{name}").builder_kwargs["num_layers"] == layers


@pytest.mark.parametrize("name", [name for name in NAMES if "scenes" in name])
def test_small_configs_are_data(name: str) -> None:
    config = load_config(name)
    assert TrainConfig.from_data(config.to_data()).hash == config.hash
    assert config.task.build().classes == config.train.build().classes


def test_the_small_one_resumes_where_it_stopped_and_opens(tmp_path: Path) -> None:
    quick = smoke(load_config("gsnet_scenes_tiny", ["model.weights=None"]))
    whole = train(quick, tmp_path / "whole", device="cpu", progress=False)
    train(quick, tmp_path / "parts", device="cpu", progress=False, until=2)
    parts = train(quick, tmp_path / "parts", device="cpu", progress=False, resume=True)
    one, other = (load_model(run.last_checkpoint, device="cpu") for run in (whole, parts))
    state = other.model.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in one.model.state_dict().items())
    image = quick.train.build()[0].image.permute(1, 2, 0).numpy()
    assert one.predict(image, classes=["roof", "lawn"]).classes == ("roof", "lawn")
