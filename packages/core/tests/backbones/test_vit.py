import pytest
import torch
from torch import nn

from swath.core.backbones.vit import DropPath, ViT, vit
from swath.core.checkpoint.official import resize_position_embedding


def tiny(**options: object) -> ViT:
    torch.manual_seed(0)
    arguments: dict[str, object] = {
        "img_size": 64,
        "embed_dims": 16,
        "num_layers": 4,
        "num_heads": 2,
        "out_indices": (0, 1, 2, 3),
    }
    return ViT(**(arguments | options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "parameters"), [("b", 93_513_984), ("l", 316_734_464), ("h", 651_641_600)]
)
def test_published_parameter_counts(size: str, parameters: int) -> None:
    with torch.device("meta"):
        model = vit(size)  # type: ignore[arg-type]
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("shape", [(64, 64), (1, 1), (33, 100), (128, 80)])
def test_any_image_size_gives_four_maps_at_the_strides_of_its_padding(
    shape: tuple[int, int],
) -> None:
    model = tiny().eval()
    height, width = (-(-side // 16) for side in shape)
    maps = model(torch.randn(1, 3, *shape))
    assert min(maps[3].shape[-2:]) == max(1, min(height, width) // 2)
    assert [x.shape[-2:] for x in maps[:3]] == [
        (4 * height, 4 * width),
        (2 * height, 2 * width),
        (height, width),
    ]
    assert all(x.shape[1] == c for x, c in zip(maps, model.channels, strict=True))


def test_without_qkv_bias_neither_projection_of_attention_has_one() -> None:
    names = {name for name, _ in tiny(qkv_bias=False).named_parameters() if ".attn." in name}
    assert {name.rpartition(".")[2] for name in names} == {"in_proj_weight", "weight"}


def test_patches_of_8_give_the_strides_of_16_with_the_coarse_neck() -> None:
    model = tiny(patch_size=8, img_size=32, coarse_neck=True).eval()
    assert model.strides == (4, 8, 16, 32)
    image = torch.randn(1, 3, 32, 64)
    first, second, third, last = model.taps(image)
    maps = model(image)
    assert [x.shape[-2:] for x in maps] == [(8, 16), (4, 8), (2, 4), (1, 2)]
    torch.testing.assert_close(maps[0], model.fpn1(first))
    assert {name for name, _ in model.named_parameters() if name.startswith("fpn")} == {
        "fpn1.0.weight",
        "fpn1.0.bias",
    }
    assert torch.equal(maps[1], second)
    assert torch.equal(maps[2], third.unfold(2, 2, 2).unfold(3, 2, 2).amax((-2, -1)))
    assert torch.equal(maps[3], last.unfold(2, 4, 4).unfold(3, 4, 4).amax((-2, -1)))


def test_another_grid_sees_the_resized_position_embedding() -> None:
    model = tiny().eval()
    other = tiny(img_size=(96, 48)).eval()
    state = model.state_dict()
    state["pos_embed"] = resize_position_embedding(model.pos_embed, (4, 4), (6, 3))
    other.load_state_dict(state)
    image = torch.randn(1, 3, 96, 48)
    for got, want in zip(model(image), other(image), strict=True):
        torch.testing.assert_close(got, want)


def test_attention_is_that_of_torchs_module() -> None:
    model = tiny().eval()
    ours = model.layers[0].attn["attn"]
    reference = nn.MultiheadAttention(16, 2, batch_first=True).eval()
    reference.load_state_dict(ours.state_dict())
    x = torch.randn(2, 9, 16)
    torch.testing.assert_close(ours(x), reference(x, x, x, need_weights=False)[0])


def test_checkpointing_changes_neither_maps_nor_gradients() -> None:
    image = torch.randn(1, 3, 64, 64)
    results = []
    for checkpointing in (False, True):
        model = tiny(checkpointing=checkpointing, drop_path_rate=0.0).train()
        maps = model(image)
        sum(x.square().mean() for x in maps).backward()
        results.append((maps, model.layers[0].ln1.weight.grad))
    torch.testing.assert_close(results[0], results[1])


def test_only_the_dead_class_token_gets_no_gradient() -> None:
    model = tiny().train()
    sum(x.square().mean() for x in model(torch.randn(1, 3, 64, 64))).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == ["cls_token"]
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["cls_token"]


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25).train()
    x = drop(torch.ones(4000, 3))
    assert sorted(x.unique().tolist()) == pytest.approx([0, 4 / 3])
    assert (x == x[:, :1]).all()
    assert float(x.mean()) == pytest.approx(1, abs=0.05)
    assert drop.eval()(x) is x


def test_taps_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="num_layers=4"):
        tiny(out_indices=(0, 1, 2, 4))


def test_bands_other_than_three() -> None:
    assert tiny(in_channels=5)(torch.randn(1, 5, 32, 32))[0].shape == (1, 16, 8, 8)
