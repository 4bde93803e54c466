"""Every config builds at full size, is what was published, and comes back from its own data."""

from pathlib import Path

import pytest
import torch

from swath.core.config import TrainConfig, config_names, load_config
from swath.mtl.configs import _scenes
from swath.mtl.models.rscotr import rscotr
from swath.mtl.optim import CoTrainingAdamW

OURS = sorted(n for n, module in config_names().items() if module.startswith("swath.mtl."))

PARAMETERS = {
    "rscotr_swint_resisc_dior_potsdam": 62_552_719,
    "rscotr_mlvl_swint_resisc_dior_potsdam": 62_482_063 + 512,  # a sixth query
}


@pytest.mark.parametrize("name", OURS)
def test_builds_and_comes_back_from_its_data(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(name)
    assert TrainConfig.from_data(config.to_data()).hash == config.hash
    if "weights" in config.model:
        config.model["weights"] = None
    with torch.device("meta"):
        model = config.model.build()
    task = config.task.build()
    assert set(task.heads) == set(model.heads)
    for part in task.parts.values():
        part.check_head(model.head(part.head))
    rates = config.optimizer.build()
    if isinstance(rates, CoTrainingAdamW):
        assert len(rates.groups(model)) <= 3
    count = sum(p.numel() for p in model.parameters())
    print(f"{name}: {count:,} parameters")
    assert count == PARAMETERS.get(name, count)


def test_specialists_are_the_parts_of_the_whole() -> None:
    with torch.device("meta"):
        models = {}
        for name in OURS:
            spec = load_config(name).model
            if "weights" in spec:
                spec["weights"] = None
                models[name] = spec.build()
    whole = models["rscotr_swint_resisc_dior_potsdam"].state_dict()
    for name in ("rscotr_cls_swint_resisc", "rscotr_det_swint_dior", "rscotr_seg_swint_potsdam"):
        own = models[name].state_dict()
        assert {k: v.shape for k, v in own.items()}.items() <= {
            k: v.shape for k, v in whole.items()
        }.items()


def test_published_configs_weigh_by_uncertainty_on_request_and_from_weights_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "published.safetensors").touch()
    spec = load_config("rscotr_swint_resisc_dior_potsdam").model
    spec["weights"], spec["uncertainty"] = str(tmp_path / "published.safetensors"), True
    with torch.device("meta"):
        state = rscotr().state_dict()
        monkeypatch.setattr("swath.mtl.models.rscotr.load_file", lambda _: state)
        model = spec.build()
    assert set(model.log_variances) == {"cls", "det", "seg"}


def test_small_scenes_show_what_is_to_be_found() -> None:
    boxes = _scenes.judged(seed=3, count=8, names=["det/things"]).build()
    seen = [set(boxes[i].targets["labels"].tolist()) for i in range(len(boxes))]
    assert set().union(*seen[::2]) == {0}  # houses
    assert set().union(*seen[1::2]) == {1}  # courts


def test_the_published_recipe() -> None:
    config = load_config("rscotr_swint_resisc_dior_potsdam")
    assert [(n, p["batch_size"]) for n, p in config.train["parts"].items()] == [
        ("cls/resisc", 16),
        ("det/dior", 1),
        ("seg/potsdam", 2),
    ]
    factor = config.optimizer.build()(torch.nn.Linear(1, 1), config.iterations).factor
    at = [factor(step) for step in (239_999, 240_000, 284_999, 285_000)]
    assert at == pytest.approx([1, 0.1, 0.1, 0.01])
