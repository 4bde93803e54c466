"""The shortcuts give what the written-out operations give."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from swath.ovseg import layers
from swath.ovseg.layers import (
    AggregatorLayer,
    ClassAggregation,
    GuidedUpsample,
    average_pool,
    decode,
    guided_qkv,
    in_groups,
)

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def randomised(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3)
    return module.eval()


def test_guidance_projected_once_equals_concatenation() -> None:
    torch.manual_seed(0)
    query, key, value = nn.Linear(12, 8), nn.Linear(12, 8), nn.Linear(8, 8)
    x, guidance = torch.randn(2, 5, 3, 8), torch.randn(2, 1, 3, 4)
    both = torch.cat([x, guidance.expand(-1, 5, -1, -1)], -1)
    want = torch.cat([query(both), key(both), value(x)], -1)
    torch.testing.assert_close(guided_qkv(x, guidance, query, key, value), want, **TOLERANCE)


def padded_out(layer: ClassAggregation, x: torch.Tensor, guidance: torch.Tensor) -> torch.Tensor:
    """The class aggregation with every padded class as a token of its own, one pool per cell."""
    batch, classes, height, width, channels = x.shape
    missing = max(0, layer.pad_len - classes)
    tokens = x.permute(0, 2, 3, 1, 4).reshape(-1, classes, channels)
    guiding = guidance[:, None, None].expand(batch, height, width, -1, -1).flatten(0, 2)
    if missing:
        padding = layer.padding_tokens.expand(len(tokens), missing, -1)
        tokens = torch.cat([tokens, padding], 1)
        padding = layer.padding_guidance.expand(len(tokens), missing, -1)
        guiding = torch.cat([guiding, padding], 1)
    normed = layer.norm1(tokens)
    both = torch.cat([normed, guiding], -1)
    q, k, v = layer.attention.q(both), layer.attention.k(both), layer.attention.v(normed)
    q, k, v = (p.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for p in (q, k, v))
    if layer.attention_type == "linear":
        q, k = F.elu(q) + 1, F.elu(k) + 1
        mixed = q @ (k.transpose(-1, -2) @ v) / (q @ k.sum(-2)[..., None] + 1e-6)
    else:
        mixed = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v
    tokens = tokens + mixed.transpose(1, 2).flatten(2)
    tokens = tokens + layer.MLP(layer.norm2(tokens))
    tokens = tokens[:, :classes].unflatten(0, (batch, height, width)).permute(0, 3, 1, 2, 4)
    return x + tokens


@pytest.mark.parametrize("pad_len", [0, 5, 9, 40])
@pytest.mark.parametrize("attention", ["linear", "full"])
def test_padded_classes_as_one_key_equal_padded_classes(attention: str, pad_len: int) -> None:
    layer = ClassAggregation(16, 8, 2, (1, 1), attention_type=attention, pad_len=pad_len)
    layer = randomised(layer).double()
    x, guidance = torch.randn(2, 9, 3, 4, 16).double(), torch.randn(2, 9, 8).double()
    got, want = layer(x, guidance), padded_out(layer, x, guidance)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_pooling_differs_between_training_and_evaluation() -> None:
    layer = randomised(ClassAggregation(16, 8, 2, (2, 2), (1, 1), pad_len=0))
    x, guidance = torch.randn(1, 3, 5, 6, 16), torch.randn(1, 3, 8)
    fine = layer(x, guidance)
    coarse = layer.train()(x, guidance)
    assert fine.shape == coarse.shape == x.shape
    assert not torch.allclose(fine, coarse)


def test_a_pool_is_the_mean_and_leaves_a_remainder_out() -> None:
    x = torch.randn(2, 3, 5, 7, 4)
    maps = x.flatten(0, 1).permute(0, 3, 1, 2)
    want = F.avg_pool2d(maps, (2, 3)).permute(0, 2, 3, 1).unflatten(0, (2, 3))
    torch.testing.assert_close(average_pool(x, (2, 3)), want, **TOLERANCE)


@pytest.mark.parametrize("size", [(4, 4), (4, 8), (8, 12), (6, 9), (3, 11)])
def test_windows_of_any_grid_reach_every_cell_and_nothing_beyond(size: tuple[int, int]) -> None:
    layer = randomised(AggregatorLayer(16, 8, 8, heads=2, window=4, pad_len=0))
    x = torch.randn(1, 2, *size, 16)
    out = layer.swin_block(x, torch.randn(1, *size, 8))
    assert out.shape == x.shape
    assert torch.isfinite(out).all()


def test_padding_of_a_grid_changes_nothing_inside_its_windows() -> None:
    layer = randomised(AggregatorLayer(16, 8, 8, heads=2, window=4, pad_len=0))
    x, guidance = torch.randn(1, 2, 8, 12, 16), torch.randn(1, 8, 12, 8)
    whole = layer.swin_block.block_1(x, guidance)
    part = layer.swin_block.block_1(x[:, :, :, :9], guidance[:, :, :9])
    torch.testing.assert_close(part[:, :, :, :8], whole[:, :, :, :8], **TOLERANCE)


def test_guidance_of_a_convolution_added_once_equals_concatenation() -> None:
    stage = randomised(GuidedUpsample(8, 6, 5, 16))
    x, guidance = torch.randn(6, 8, 3, 4), [torch.randn(2, 3, 6, 8), torch.randn(2, 2, 6, 8)]
    joined = torch.cat([stage.up(x), torch.cat(guidance, 1).repeat_interleave(3, 0)], 1)
    torch.testing.assert_close(stage(x, guidance), stage.conv(joined), **TOLERANCE)


def test_classes_in_groups_give_what_they_give_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = randomised(AggregatorLayer(16, 8, 8, heads=2, window=4, pad_len=20))
    stages = [randomised(GuidedUpsample(16, 12, 4, 16)), randomised(GuidedUpsample(16, 12, 4, 16))]
    head = randomised(nn.Conv2d(16, 1, 3, padding=1))
    x, appearance, text = torch.randn(2, 7, 4, 6, 16), torch.randn(2, 4, 6, 8), torch.randn(1, 7, 8)
    guidance = [[torch.randn(2, 4, 8, 12)], [torch.randn(2, 4, 16, 24)]]

    def run() -> torch.Tensor:
        mixed = layer(x, appearance, text)
        return decode(mixed, list(zip(stages, guidance, strict=True)), head)

    with torch.no_grad():
        whole = run()
        monkeypatch.setattr(layers, "CELLS_AT_ONCE", 24)
        torch.testing.assert_close(run(), whole, **TOLERANCE)


def test_groups_are_made_only_where_no_gradient_flows() -> None:
    sizes = []

    def note(part: torch.Tensor) -> torch.Tensor:
        sizes.append(len(part))
        return part

    in_groups(note, torch.zeros(5), 0, 2)
    assert sizes == [5]
    with torch.no_grad():
        in_groups(note, torch.zeros(5), 0, 2)
    assert sizes == [5, 2, 2, 1]
