import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from swath.core.backbones.rvsa import RVSA, WindowAttention, relative_bias, rvsa


def tiny(**options: object) -> RVSA:
    torch.manual_seed(0)
    arguments: dict[str, object] = {
        "img_size": 112,
        "embed_dim": 16,
        "depth": 4,
        "num_heads": 2,
        "interval": 2,
        "out_indices": (0, 1, 2, 3),
    }
    return RVSA(**(arguments | options))  # type: ignore[arg-type]


@pytest.mark.parametrize("patch_size", [8, 16])
@pytest.mark.parametrize("shape", [(112, 112), (64, 160), (160, 64), (33, 47)])
def test_any_shape_works_also_wider_than_tall_and_smaller_than_a_window(
    patch_size: int, shape: tuple[int, int]
) -> None:
    model = tiny(patch_size=patch_size).eval()
    maps = model(torch.randn(1, 3, *shape))
    rows, columns = (-(-side // patch_size) * patch_size for side in shape)
    assert [x.shape[-2:] for x in maps] == [(rows // s, columns // s) for s in model.strides]
    assert all(x.isfinite().all() for x in maps)


@pytest.mark.parametrize("patch_size", [8, 16])
def test_a_strip_narrower_than_the_largest_stride_gives_four_maps_too(patch_size: int) -> None:
    maps = tiny(patch_size=patch_size).eval()(torch.randn(1, 3, 1, 40))
    assert [x.shape[-2] for x in maps][2:] == [1, 1]
    assert all(x.numel() and x.isfinite().all() for x in maps)


def test_officially_what_is_beyond_whole_patches_is_dropped() -> None:
    model = tiny(official_quirks=True).eval()
    image = torch.randn(1, 3, 127, 115)
    whole = model(image[..., :112, :112])
    for got, want in zip(model(image), whole, strict=True):
        assert torch.equal(got, want)


def test_officially_windows_always_have_relative_positions() -> None:
    with_tables = set(tiny().state_dict())
    assert set(tiny(use_rel_pos_bias=False, official_quirks=True).state_dict()) == with_tables
    assert set(tiny(use_rel_pos_bias=False).state_dict()) < with_tables


def test_untrained_windows_are_plain_windows() -> None:
    torch.manual_seed(0)
    attention = WindowAttention(8, 2, True, True, official_quirks=False)
    for name in ("offsets", "scales", "angles"):
        head = getattr(attention, f"sampling_{name}")[2]
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
    x = torch.randn(1, 14 * 14, 8)
    q, k, v = (
        t.view(2, 7, 2, 7, 2, 4).permute(0, 2, 4, 1, 3, 5).reshape(4, 2, 49, 4)
        for t in attention.qkv(x)[0].split(8, dim=-1)
    )
    out = F.scaled_dot_product_attention(q, k, v)
    out = out.view(2, 2, 2, 7, 7, 4).permute(0, 3, 1, 4, 2, 5).reshape(1, 196, 8)
    torch.testing.assert_close(attention(x, 14, 14), attention.proj(out))


def test_the_sampling_rectangle_moves_grows_and_turns() -> None:
    attention = WindowAttention(4, 1, True, True, official_quirks=False)
    tokens = torch.zeros(1, 4, 7, 14)

    def grid(offsets: list[float], scales: list[float], angle: float) -> Tensor:
        for name, values in (("offsets", offsets), ("scales", scales), ("angles", [angle])):
            head = getattr(attention, f"sampling_{name}")[2]
            torch.nn.init.zeros_(head.weight)
            head.bias.data = torch.tensor(values, dtype=torch.float32)
        return attention.sampling_grid(tokens, 7, 14)[0].detach()

    plain = grid([0, 0], [0, 0], 0)
    torch.testing.assert_close(plain[0, :, 0], torch.linspace(-1, 1, 14))
    torch.testing.assert_close(plain[:, 0, 1], torch.linspace(-1, 1, 7))
    # offsets are in units of windows along their own axis: 2 windows in x, 1 in y
    moved = grid([0.4, 0.3], [0, 0], 0)
    torch.testing.assert_close(moved - plain, torch.tensor([0.2, 0.3]).expand_as(plain))
    grown = grid([0, 0], [1, 0], 0)
    torch.testing.assert_close(grown[..., 1], plain[..., 1])
    torch.testing.assert_close(
        grown[0, :7, 0].max() - grown[0, :7, 0].min(), 2 * (plain[0, 6, 0] - plain[0, 0, 0])
    )
    turned = grid([0, 0], [0, 0], torch.pi / 2)
    assert float(turned[0, 3, 0]) > float(plain[0, 3, 0])  # clockwise on screen: top goes right


def test_the_relative_bias_is_the_product_of_query_and_distance_vector() -> None:
    torch.manual_seed(0)
    q, rows, columns = torch.randn(1, 1, 6, 4), torch.randn(3, 4), torch.randn(5, 4)
    bias = relative_bias(q, rows, columns)[0, 0]
    for query in range(6):
        for key in range(6):
            dy, dx = query // 3 - key // 3, query % 3 - key % 3
            want = q[0, 0, query] @ (rows[dy + 1] + columns[dx + 2])
            torch.testing.assert_close(bias[query, key], want)


def test_on_a_square_grid_the_official_quirks_change_nothing() -> None:
    torch.manual_seed(0)
    sane, official = tiny().eval(), tiny(official_quirks=True).eval()
    state = {
        k: torch.randn_like(v) * 0.1 if v.is_floating_point() else v
        for k, v in sane.state_dict().items()
    }
    sane.load_state_dict(state)
    official.load_state_dict(state)
    image = torch.randn(1, 3, 112, 112)
    for a, b in zip(sane(image), official(image), strict=True):
        assert a.equal(b)


def test_checkpointing_and_gradients() -> None:
    model = tiny(checkpointing=True).train()
    sum(x.square().mean() for x in model(torch.randn(1, 3, 112, 96))).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(("size", "full"), [("b", [2, 5, 8, 11]), ("l", [5, 11, 17, 23])])
def test_full_sizes_attend_globally_where_published(size: str, full: list[int]) -> None:
    with torch.device("meta"):
        model = rvsa(size)  # type: ignore[arg-type]
    kinds = [i for i, b in enumerate(model.blocks) if not isinstance(b.attn, WindowAttention)]
    assert kinds == full


def test_another_patch_size_is_refused() -> None:
    with pytest.raises(ValueError, match="patch_size=14"):
        tiny(patch_size=14)
