import math

import pytest
import torch
from torch import nn

from swath.core.backbones.vit import ViT
from swath.core.engine.pieces import adamw_cosine, adamw_steps, sgd_poly
from swath.core.errors import ConfigError


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Linear(2, 2)
        self.blocks = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        self.head = nn.Linear(2, 2)


def test_the_rate_rises_linearly_and_falls_as_a_cosine() -> None:
    factor = adamw_cosine(lr=1e-3, warmup=4, final_factor=0.1).build()(nn.Linear(1, 1), 12).factor
    assert [factor(s) for s in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert factor(8) == pytest.approx(0.1 + 0.9 * 0.5)
    assert factor(11) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 7 / 8)))
    assert factor(12) == pytest.approx(0.1)


def test_the_rate_falls_as_a_power() -> None:
    factor = sgd_poly(lr=1e-2).build()(nn.Linear(1, 1), 10).factor
    assert [factor(s) for s in (0, 5, 10)] == pytest.approx([1, 0.5**0.9, 0])


def test_the_rate_falls_in_steps() -> None:
    piece = adamw_steps(lr=1e-4, milestones=[8 / 12, 11 / 12], warmup=4)
    factor = piece.build()(nn.Linear(1, 1), 120).factor
    assert [factor(s) for s in (0, 3, 4, 79, 80, 109, 110, 119)] == pytest.approx(
        [0.25, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]
    )
    with pytest.raises(ConfigError, match=r"milestones=\[8\] must be shares of the run"):
        adamw_steps(lr=1e-4, milestones=[8]).build()


def test_a_warm_up_longer_than_the_run_is_shortened() -> None:
    factor = adamw_cosine(lr=1.0, warmup=1000).build()(nn.Linear(1, 1), 4).factor
    assert [factor(s) for s in range(3)] == pytest.approx([0.5, 1.0, 1.0])


def test_vectors_are_not_decayed() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    optimizer = adamw_cosine(lr=1.0, weight_decay=0.1).build()(model, 1).optimizer
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert [decay[id(p)] for p in model.parameters()] == [0.1, 0.0, 0.0, 0.0]


def test_layer_decay_follows_depth() -> None:
    model = Blocks()
    optimizer = adamw_cosine(lr=1.0, layer_decay=0.5).build()(model, 1).optimizer
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    weights = [model.patch_embed, *model.blocks, model.head]
    assert [rates[id(m.weight)] for m in weights] == [0.125, 0.25, 0.5, 1.0]


class Segmenter(nn.Module):
    """A backbone below a head that has numbered layers too."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(2, 2)])})


def rates(model: nn.Module) -> dict[str, float]:
    optimizer = adamw_cosine(lr=1.0, layer_decay=0.5).build()(model, 1).optimizer
    found = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    return {name: found[id(parameter)] for name, parameter in model.named_parameters()}


def test_layer_decay_follows_the_layers_of_a_vit() -> None:
    vit = ViT(32, embed_dims=8, num_layers=4, num_heads=2, out_indices=(0, 1, 2, 3))
    vit.cls_token.requires_grad_(True)
    found = rates(Segmenter(vit))
    parts = ["patch_embed.", *(f"layers.{i}." for i in range(4)), "fpn1."]
    for place, begins in enumerate(parts):
        rate = {v for k, v in found.items() if k.startswith(f"backbone.{begins}")}
        assert rate == {2.0 ** (place - 5)}, begins
    assert found["head.layers.0.weight"] == 1


def test_layer_decay_counts_a_swins_blocks_over_its_stages() -> None:
    stages = []
    for number in range(2):
        stage = nn.Module()
        stage.blocks = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        stage.downsample = nn.Linear(2, 2) if number == 0 else None
        stages.append(stage)
    backbone = nn.Module()
    backbone.patch_embed, backbone.layers = nn.Linear(2, 2), nn.ModuleList(stages)
    found = rates(Segmenter(backbone))
    expected = {
        "patch_embed": 2**-5,
        "layers.0.blocks.0": 2**-4,
        "layers.0.blocks.1": 2**-3,
        "layers.0.downsample": 2**-3,
        "layers.1.blocks.0": 2**-2,
        "layers.1.blocks.1": 2**-1,
    }
    assert {name: found[f"backbone.{name}.weight"] for name in expected} == expected
    assert found["head.layers.0.weight"] == 1


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    optimizer = sgd_poly(lr=1.0).build()(model, 1).optimizer
    assert isinstance(optimizer, torch.optim.SGD)
    assert [p is model.weight for g in optimizer.param_groups for p in g["params"]] == [True]


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"optimizer.lr=-1 must be above 0"):
        adamw_cosine(lr=-1).build()
    with pytest.raises(ConfigError, match=r"layer_decay=2 must be in \(0, 1\]"):
        adamw_cosine(lr=1, layer_decay=2).build()
    with pytest.raises(ConfigError, match="layer_decay is for models with numbered blocks"):
        adamw_cosine(lr=1, layer_decay=0.5).build()(nn.Linear(1, 1), 1)
    with pytest.raises(ConfigError, match="no trainable parameters"):
        sgd_poly(lr=1).build()(nn.ReLU(), 1)
