import pytest
import torch
from torch import nn

from swath.core.backbones.vit import ViT
from swath.core.checkpoint.official import (
    load_strict,
    load_vit,
    mae_to_vit,
    resize_position_embedding,
    strip_prefixes,
)
from swath.core.errors import CheckpointError


def test_prefixes_of_wrappers_are_stripped_repeatedly() -> None:
    assert strip_prefixes({"module._orig_mod.a.module.b": 1, "c": 2}) == {"a.module.b": 1, "c": 2}


def test_the_same_grid_returns_the_embedding_itself() -> None:
    embedding = torch.randn(1, 12, 4)
    assert resize_position_embedding(embedding, (3, 4), (3, 4)) is embedding


def test_a_resized_embedding_keeps_rows_and_columns_apart() -> None:
    rows = torch.arange(4.0).view(4, 1, 1).expand(4, 6, 1).reshape(1, 24, 1)
    resized = resize_position_embedding(rows, (4, 6), (4, 12)).view(4, 12)
    torch.testing.assert_close(resized, torch.arange(4.0).view(4, 1).expand(4, 12))


def test_a_position_embedding_that_is_no_square_is_refused() -> None:
    with pytest.raises(CheckpointError, match="11 rows"):
        mae_to_vit({"pos_embed": torch.zeros(1, 12, 8)}, (4, 4))


def test_mae_weights_load_into_a_vit_of_another_size() -> None:
    torch.manual_seed(0)
    width, grid = 16, 2
    shapes = {
        "norm1.weight": (16,),
        "norm1.bias": (16,),
        "norm2.weight": (16,),
        "norm2.bias": (16,),
    }
    shapes |= {"attn.qkv.weight": (48, 16), "attn.qkv.bias": (48,), "attn.proj.weight": (16, 16)}
    shapes |= {"attn.proj.bias": (16,), "mlp.fc1.weight": (64, 16), "mlp.fc1.bias": (64,)}
    shapes |= {"mlp.fc2.weight": (16, 64), "mlp.fc2.bias": (16,)}
    mae = {f"blocks.{i}.{k}": torch.randn(v) for i in range(4) for k, v in shapes.items()}
    mae |= {
        "cls_token": torch.randn(1, 1, width),
        "pos_embed": torch.randn(1, 1 + grid * grid, width),
        "patch_embed.proj.weight": torch.randn(width, 3, 16, 16),
        "patch_embed.proj.bias": torch.randn(width),
        "norm.weight": torch.randn(width),
        "mask_token": torch.randn(1, 1, 8),
        "decoder_blocks.0.norm1.weight": torch.randn(8),
    }
    model = ViT(img_size=64, embed_dims=width, num_layers=4, num_heads=2, out_indices=(0, 1, 2, 3))
    neck = model.fpn2[0].weight.detach().clone()
    load_vit(model, mae)
    state = model.state_dict()
    assert state["fpn2.0.weight"].equal(neck)
    assert state["layers.3.ffn.layers.1.weight"].equal(mae["blocks.3.mlp.fc2.weight"])
    assert state["layers.0.attn.attn.in_proj_bias"].equal(mae["blocks.0.attn.qkv.bias"])
    assert state["pos_embed"].shape == (1, 16, width)


def tiny_vit(img_size: int = 64) -> ViT:
    return ViT(img_size, embed_dims=16, num_layers=4, num_heads=2, out_indices=(0, 1, 2, 3))


@pytest.mark.parametrize("prefix", ["", "module.", "encoder.", "module.encoder.", "backbone."])
def test_a_vit_is_found_in_whatever_file_holds_one(prefix: str) -> None:
    torch.manual_seed(1)
    source, model = tiny_vit(), tiny_vit()
    file = {prefix + key: value for key, value in source.state_dict().items()}
    if prefix not in ("", "module."):  # a whole model has more to it
        file |= {prefix.replace("encoder", "head").replace("backbone", "head") + "x": torch.ones(1)}
    load_vit(model, file)
    assert all(value.equal(model.state_dict()[key]) for key, value in source.state_dict().items())
    larger = tiny_vit(img_size=96)
    load_vit(larger, file)
    want = resize_position_embedding(source.pos_embed, (4, 4), (6, 6))
    assert larger.pos_embed.equal(want)


def test_a_vit_of_another_width_is_refused_by_name() -> None:
    other = ViT(64, embed_dims=32, num_layers=4, num_heads=2, out_indices=(0, 1, 2, 3))
    with pytest.raises(CheckpointError, match=r"b\.pth doesn't fit ViT: .*instead of"):
        load_vit(tiny_vit(), other.state_dict(), where="b.pth")


def test_strict_loading_lists_what_differs_and_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = {"0.weight": torch.zeros(3, 2), "0.bias": torch.zeros(2), "head.bias": torch.zeros(1)}
    with pytest.raises(CheckpointError) as info:
        load_strict(model, state, where="x.pth")
    message = str(info.value)
    assert message.startswith("x.pth doesn't fit Sequential: 2 missing: 1.weight, 1.bias; ")
    assert "1 unexpected: head.bias" in message
    assert "1 of another shape: 0.weight (3, 2) instead of (2, 2)" in message
    assert all(v.equal(before[k]) for k, v in model.state_dict().items())


def test_only_named_prefixes_may_be_missing() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    state = {"0.weight": torch.zeros(2, 2), "0.bias": torch.zeros(2)}
    load_strict(model, state, may_miss=("1.",))
    assert not model[0].weight.any()
    with pytest.raises(CheckpointError, match="2 missing"):
        load_strict(model, state, may_miss=("2.",))
