from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from swath.core.backbones import build_backbone
from swath.core.backbones.swin import (
    Swin,
    WindowAttention,
    load_swin,
    shifted_window_mask,
    swin,
)
from swath.core.errors import CheckpointError

TINY = {"embed_dim": 8, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 2, 4), "window_size": 2}


def tiny(**options: object) -> Swin:
    torch.manual_seed(0)
    return Swin(**(TINY | options))  # type: ignore[arg-type]


def classifier(**options: object) -> torch.nn.Module:
    """Timm's Swin, whose merging belongs to the stage that follows."""
    torch.manual_seed(1)
    return timm.models.SwinTransformer(
        num_classes=5,
        **(TINY | {"always_partition": True, "strict_img_size": False} | options),
    ).eval()


def official_layout(theirs: torch.nn.Module) -> dict[str, Tensor]:
    """Timm's weights under the official names, index buffers included."""
    state = {}
    for key, value in theirs.state_dict().items():
        if ".downsample." in key:
            stage = int(key.split(".")[1])
            key = key.replace(f"layers.{stage}.", f"layers.{stage - 1}.")
        state[key] = value
    for name, module in theirs.named_modules():
        if hasattr(module, "relative_position_index"):
            stage = f"{name}.relative_position_index"
            state[stage] = module.relative_position_index
    return state


@pytest.mark.parametrize(
    ("size", "classifier"),  # parameters of the official ImageNet-1k classifiers
    [("t", 28_288_354), ("s", 49_606_258), ("b", 87_768_224), ("l", 196_532_476)],
)
def test_full_sizes_have_the_published_parameters(size: str, classifier: int) -> None:
    with torch.device("meta"):
        model = swin(size)  # type: ignore[arg-type]
    count = sum(p.numel() for p in model.parameters())
    norms, last = sum(2 * c for c in model.channels), model.channels[-1]
    assert count - norms + 2 * last + 1000 * (last + 1) == classifier


@pytest.mark.parametrize("window", [2, 4])
def test_maps_agree_with_timms_where_windows_divide_them(window: int) -> None:
    theirs = classifier(window_size=window, img_size=128)
    ours = tiny(window_size=window, out_indices=(0, 1, 2)).eval()
    state = official_layout(theirs)
    for i in range(3):
        state |= {f"norm{i}.weight": torch.ones(8 * 2**i), f"norm{i}.bias": torch.zeros(8 * 2**i)}
    load_swin(ours, state)
    image = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        maps = ours(image)
        expected = theirs.forward_intermediates(image, indices=[0, 1, 2], intermediates_only=True)
    for got, want in zip(maps, expected, strict=True):
        want = F.layer_norm(want.permute(0, 2, 3, 1), want.shape[1:2]).permute(0, 3, 1, 2)
        print(f"window {window}: {float((got - want).abs().max()):.1e}")
        torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)


def attend_slowly(attention: WindowAttention, x: Tensor, shift: int, window: int) -> Tensor:
    """Every token with those of its window and region, one at a time; ``x`` ``(H, W, C)``."""
    height, width, channels = x.shape
    padded = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
    rows, columns = padded.shape[:2]

    def place(i: int, side: int) -> tuple[int, int, bool]:
        """Window, offset in it, and whether it was wrapped around, of position ``i``."""
        moved = (i - shift) % side
        return moved // window, moved % window, moved >= side - shift and shift > 0

    qkv = attention.qkv(padded).unflatten(-1, (3, attention.num_heads, -1))
    table = attention.relative_position_bias_table
    out = torch.zeros(height, width, channels, dtype=x.dtype)
    tokens = [(i, j) for i in range(rows) for j in range(columns)]
    for i, j in tokens:
        if i >= height or j >= width:
            continue
        (wi, oi, ri), (wj, oj, rj) = place(i, rows), place(j, columns)
        scores, values = [], []
        for a, b in tokens:
            (wa, oa, ra), (wb, ob, rb) = place(a, rows), place(b, columns)
            if (wa, wb) != (wi, wj):
                continue
            score = (qkv[i, j, 0] * qkv[a, b, 1]).sum(-1) * (
                channels // attention.num_heads
            ) ** -0.5
            score = score + table[(oi - oa + window - 1) * (2 * window - 1) + oj - ob + window - 1]
            scores.append(score if (ra, rb) == (ri, rj) else score - 100)
            values.append(qkv[a, b, 2])
        weights = torch.stack(scores).softmax(0)[..., None]  # (tokens, heads, 1)
        out[i, j] = attention.proj((weights * torch.stack(values)).sum(0).flatten())
    return out


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("height", "width", "window"), [(7, 5, 3), (2, 9, 4), (6, 6, 3)])
def test_windows_are_padded_shifted_and_kept_apart(
    height: int, width: int, window: int, shifted: bool
) -> None:
    model = tiny(window_size=window).double()
    stage = model.layers[1]
    block = stage.blocks[int(shifted)]
    with torch.no_grad():
        block.attn.relative_position_bias_table.normal_()
        x = torch.randn(1, height, width, 16, dtype=torch.float64)
        got = block.windows(x, shifted_window_mask(height, width, window).double())[0]
        want = attend_slowly(block.attn, x[0], window // 2 if shifted else 0, window)
    torch.testing.assert_close(got, want)


def test_a_mask_keeps_apart_what_wraps_around() -> None:
    mask = shifted_window_mask(8, 8, 4)
    assert mask.shape == (4, 16, 16)
    assert not mask[0].any()
    last = mask[3].view(4, 4, 4, 4)  # its quarters come from the four corners of the map
    assert last[0, 0, 1, 1] == 0
    assert (last[0, 0, 2:, :] == -100).all()
    assert (last[0, 0, :, 2:] == -100).all()
    assert not shifted_window_mask(8, 8, 4, shift=0).any()


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_a_mask_keeps_padding_apart_if_asked(shift: int) -> None:
    together = shifted_window_mask(5, 6, 4, shift=shift)
    apart = shifted_window_mask(5, 6, 4, shift=shift, padding_apart=True)
    there = torch.zeros(8, 8).masked_fill_(torch.arange(8) < 6, 1.0)
    there[5:] = 0
    cells = there.roll((-shift, -shift), (0, 1)).unflatten(1, (2, 4)).unflatten(0, (2, 4))
    cells = cells.transpose(1, 2).reshape(4, 16).bool()
    both = cells[:, :, None] & cells[:, None, :]
    assert torch.equal(apart[both], together[both])
    assert (apart[cells[:, :, None] != cells[:, None, :]] == -100).all()


@pytest.mark.parametrize("shape", [(64, 64), (1, 1), (33, 100), (129, 80)])
def test_any_image_size(shape: tuple[int, int]) -> None:
    model = tiny(window_size=3, in_channels=5).eval()
    with torch.no_grad():
        maps = model(torch.randn(2, 5, *shape))
    sides = [tuple(-(-side // stride) for side in shape) for stride in model.strides]
    assert [tuple(x.shape[-2:]) for x in maps] == sides
    assert [x.shape[1] for x in maps] == list(model.channels)
    assert all(bool(x.isfinite().all()) for x in maps)


def test_a_batch_is_its_images() -> None:
    model = tiny(window_size=3).eval()
    images = torch.randn(3, 3, 40, 56)
    with torch.no_grad():
        together = model(images)
        alone = [model(image[None]) for image in images]
    for i, got in enumerate(together):
        torch.testing.assert_close(got, torch.cat([maps[i] for maps in alone]))


def test_checkpointing_changes_neither_maps_nor_gradients() -> None:
    image = torch.randn(1, 3, 64, 64)
    results = []
    for checkpointing in (False, True):
        model = tiny(checkpointing=checkpointing, drop_path_rate=0.0).train()
        maps = model(image)
        sum(x.square().mean() for x in maps).backward()
        assert all(p.grad is not None for p in model.parameters())
        results.append((maps, model.layers[0].blocks[1].norm1.weight.grad))
    torch.testing.assert_close(results[0], results[1])


def test_stochastic_depth_rises_over_all_blocks() -> None:
    model = tiny(drop_path_rate=0.7)
    rates = [block.drop_path.rate for stage in model.layers for block in stage.blocks]
    assert rates == pytest.approx([0.1 * i for i in range(8)])


def test_a_classifiers_weights_load_and_a_foreign_file_is_refused(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = swin("t").state_dict()
    state = {k: torch.full(v.shape, 0.5) for k, v in shapes.items() if not k.startswith("norm")}
    state |= {"head.weight": torch.ones(2), "norm.weight": torch.ones(768)}
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(1)
    path = tmp_path / "swin_tiny_patch4_window7_224.safetensors"
    save_file(state, path)
    model = build_backbone("swin_t", weights=path)
    assert float(model.layers[3].blocks[1].mlp.fc2.weight[0, 0].detach()) == 0.5
    assert float(model.norm2.weight[0].detach()) == 1
    with pytest.raises(CheckpointError, match="missing"):
        load_swin(tiny(), {"patch_embed.norm.weight": torch.ones(8)})
