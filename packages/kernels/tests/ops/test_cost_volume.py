"""Cost volume: recorded tensors, an independent pipeline, rules for odd input, registration."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from safetensors.torch import load_file
from torch import Tensor

from swath.kernels import cost_volume
from swath.kernels.backend import interpreting
from swath.kernels.ops.cost_volume import _cost_volume
from swath.kernels.ops.cost_volume import triton as kernels

ROTATIONS = (0, 1, 2, 3)


def make_maps(
    rotations: tuple[int, ...] = ROTATIONS,
    *,
    batch: int = 2,
    channels: int = 9,
    size: tuple[int, int] = (3, 5),
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(
            batch, channels, *(size if turns % 2 == 0 else size[::-1]), generator=generator
        ).to(device, dtype)
        for turns in rotations
    ]


def make_text(
    *shape: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device, dtype)


def pipeline(feats: list[Tensor], text: Tensor, rotations: tuple[int, ...] = ROTATIONS) -> Tensor:
    """As the official code has it: normalise, turn back, stack, correlate."""
    turned = [
        torch.rot90(F.normalize(feat, dim=1), -turns, (2, 3))
        for feat, turns in zip(feats, rotations, strict=True)
    ]
    text = F.normalize(text, dim=-1).expand(len(feats[0]), *text.shape[-3:])
    return torch.einsum("nbchw,btpc->bnpthw", torch.stack(turned), text).flatten(1, 2)


def dtypes(backend: str) -> tuple[torch.dtype, ...]:
    return (torch.float32,) if backend == "triton" else (torch.float32, torch.float64)


@pytest.mark.parity
def test_recorded_cases(
    parity: Callable[[str], tuple[Any, dict[str, Tensor]]], backend: str, device: torch.device
) -> None:
    cases, tensors = parity("cost_volume")
    unread = set(tensors)
    worst: dict[str, float] = {}
    for case in cases:
        name, rotations = case["name"], case["image_rotations_quarter_turns"]

        def read(key: str, dtype: torch.dtype, name: str = name) -> Tensor:
            unread.discard(f"{name}.{key}")
            return tensors[f"{name}.{key}"].to(device, dtype)

        for dtype in dtypes(backend):
            feats = [read(f"feat{n}", dtype).requires_grad_() for n in range(len(rotations))]
            text = read("text", dtype).requires_grad_()
            assert (text.ndim == 4) == case["text_batched"]
            out = cost_volume(feats, text, rotations, eps=case["eps"])
            mean = cost_volume(feats, text, rotations, "mean", eps=case["eps"])
            grads = torch.autograd.grad(out, [*feats, text], read("grad_out_stacked", dtype))
            names = [*(f"grad_feat{n}" for n in range(len(rotations))), "grad_text"]
            tolerance = 1e-12 if dtype == torch.float64 else 2e-6
            for key, got in (("out_stacked", out), ("out_mean", mean)):
                error = (got.double() - read(key, torch.float64)).abs().max().item()
                assert error <= tolerance, f"{name} {key} {dtype}: {error}"
                worst[f"{key} {dtype}"] = max(worst.get(f"{key} {dtype}", 0), error)
            for key, got in zip(names, grads, strict=True):
                want = read(key, torch.float64)
                # zero vectors have gradients of 1e12, so entries of one pixel compare by its scale
                scale = want.abs().amax(1, keepdim=True) if key != "grad_text" else want.abs().max()
                error = ((got.double() - want).abs() / scale.clamp_min(1e-30)).max().item()
                assert error <= 1e-4, f"{name} {key} {dtype}: {error}"
                worst[f"grad {dtype}"] = max(worst.get(f"grad {dtype}", 0), error)
    assert not unread, f"tensors that no assertion reads: {sorted(unread)}"
    print(backend, {key: f"{value:.1e}" for key, value in worst.items()})


def test_equals_the_official_order_of_operations(backend: str, device: torch.device) -> None:
    feats, text = make_maps(device=device), make_text(4, 3, 9, device=device)
    torch.testing.assert_close(cost_volume(feats, text), pipeline(feats, text), atol=1e-6, rtol=0)


def test_a_turned_image_gives_the_volume_of_the_upright_one(
    backend: str, device: torch.device
) -> None:
    (feat,), text = make_maps((0,), device=device), make_text(2, 1, 9, device=device)
    turned = [torch.rot90(feat, turns, (2, 3)) for turns in (0, 1, 2, 3, -1, 6)]
    out = cost_volume(turned, text, (0, 1, 2, 3, -1, 6))
    for direction in range(6):
        torch.testing.assert_close(out[:, direction], out[:, 0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("rotations", [(1,), (3, 0), (0, 1, 2, 3, 1, 2)])
def test_gradients_equal_those_of_the_pipeline(
    rotations: tuple[int, ...], backend: str, device: torch.device
) -> None:
    feats = [f.requires_grad_() for f in make_maps(rotations, device=device)]
    text = make_text(2, 4, 2, 9, device=device).requires_grad_()
    out, want = cost_volume(feats, text, rotations), pipeline(feats, text, rotations)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(device)
    got = torch.autograd.grad(out, [*feats, text], grad)
    for mine, theirs in zip(got, torch.autograd.grad(want, [*feats, text], grad), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-4)


def test_images_layout_holds_the_same_numbers(backend: str, device: torch.device) -> None:
    feats, text = make_maps(device=device), make_text(4, 3, 9, device=device)
    volume = cost_volume(feats, text)  # (B, N * P, T, H, W)
    images = cost_volume(feats, text, layout="images")
    assert images.is_contiguous()
    torch.testing.assert_close(images, volume.transpose(1, 2).flatten(0, 1), atol=0, rtol=0)
    mean = cost_volume(feats, text, reduce="mean")
    assert mean.shape == (2, 3, 4, 3, 5)
    torch.testing.assert_close(
        cost_volume(feats, text, reduce="mean", layout="images"),
        mean.transpose(1, 2).flatten(0, 1),
    )


@pytest.mark.parametrize("layout", ["volume", "images"])
def test_gradients_in_both_layouts(layout: str, backend: str, device: torch.device) -> None:
    feats = [f.requires_grad_() for f in make_maps((0, 1), device=device)]
    text = make_text(4, 3, 9, device=device).requires_grad_()
    out = cost_volume(feats, text, (0, 1), layout=layout)
    weight = torch.arange(out.numel(), device=device).view_as(out) / out.numel()
    want = pipeline(feats, text, (0, 1))
    want = want.transpose(1, 2).flatten(0, 1) if layout == "images" else want
    got = torch.autograd.grad((out * weight).sum(), [*feats, text])
    for a, b in zip(got, torch.autograd.grad((want * weight).sum(), [*feats, text]), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_average_of_templates_equals_the_mean_of_their_costs(
    backend: str, device: torch.device
) -> None:
    feats, text = make_maps(device=device), make_text(4, 3, 9, device=device)
    every = cost_volume(feats, text).view(2, 4, 3, 4, 3, 5)
    torch.testing.assert_close(cost_volume(feats, text, average_templates=True), every.mean(2))


def test_cached_unit_text_gives_the_same(backend: str, device: torch.device) -> None:
    feats, text = make_maps(device=device), make_text(4, 3, 9, device=device)
    cached = F.normalize(text, dim=-1)
    torch.testing.assert_close(
        cost_volume(feats, cached, unit_text=True), cost_volume(feats, text), atol=0, rtol=0
    )


def test_frozen_text_costs_no_gradient(backend: str, device: torch.device) -> None:
    feats = [f.requires_grad_() for f in make_maps(device=device)]
    frozen, text = make_text(4, 1, 9, device=device), make_text(4, 1, 9, device=device)
    alone = torch.autograd.grad(cost_volume(feats, frozen).square().sum(), feats)
    both = torch.autograd.grad(
        cost_volume(feats, text.requires_grad_()).square().sum(), [*feats, text]
    )
    for a, b in zip(alone, both, strict=False):
        assert torch.equal(a, b)


@pytest.mark.parametrize("eps", [1e-12, 1.0])
def test_vectors_not_longer_than_eps_are_divided_by_eps(
    eps: float, backend: str, device: torch.device
) -> None:
    feat = make_maps((0,), size=(2, 2), device=device)[0]
    feat[:, :, 0, 0] = 0
    feat[:, :, 0, 1] *= 0.5 / feat[:, :, 0, 1].norm(dim=1, keepdim=True)
    feat.requires_grad_()
    text = make_text(3, 1, 9, device=device)
    out = cost_volume([feat], text, (0,), eps=eps)
    assert not out[..., 0, 0].any()
    unit = F.normalize(feat, dim=1, eps=eps)
    want = torch.einsum("bchw,tc->bthw", unit, F.normalize(text, dim=-1, eps=eps)[:, 0])[:, None]
    torch.testing.assert_close(out, want, atol=1e-6, rtol=0)
    (got,) = torch.autograd.grad(out.sum(), feat)
    (grad,) = torch.autograd.grad(want.sum(), feat)
    torch.testing.assert_close(got, grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_nan_stays_in_its_pixel(bad: float, backend: str, device: torch.device) -> None:
    feats, text = make_maps(device=device), make_text(4, 1, 9, device=device)
    clean = cost_volume(feats, text)
    feats[1][0, 3, 2, 1] = bad
    out = cost_volume(feats, text)
    # the map of direction 1 is (5, 3); its pixel (2, 1) lies at row 1, column 4 - 2 upright
    hit = torch.zeros(clean.shape, dtype=torch.bool, device=device)
    hit[0, 1, :, 1, 2] = True
    assert torch.equal(~out.isfinite(), hit)
    torch.testing.assert_close(out[~hit], clean[~hit], atol=0, rtol=0)


@pytest.mark.parametrize(("batch", "classes"), [(0, 3), (2, 0), (0, 0)])
def test_nothing_gives_nothing(
    batch: int, classes: int, backend: str, device: torch.device
) -> None:
    feats = [f.requires_grad_() for f in make_maps(batch=batch, device=device)]
    text = make_text(classes, 2, 9, device=device).requires_grad_()
    out = cost_volume(feats, text)
    assert out.shape == (batch, 8, classes, 3, 5)
    assert out.requires_grad
    grads = torch.autograd.grad(out.sum(), [*feats, text])
    assert all(not grad.any() for grad in grads)
    assert [g.shape for g in grads] == [t.shape for t in (*feats, text)]


def test_cosines_of_equal_vectors_are_one(backend: str, device: torch.device) -> None:
    feat = make_maps((0,), channels=33, batch=1, size=(1, 2), device=device)[0]
    text = feat.flatten(2).permute(2, 0, 1).contiguous()  # class t is the vector of pixel t
    out = cost_volume([feat], text, (0,))
    diagonal = torch.stack((out[0, 0, 0, 0, 0], out[0, 0, 1, 0, 1]))
    torch.testing.assert_close(diagonal, torch.ones_like(diagonal), atol=4 * 2**-23, rtol=0)


def test_one_tensor_of_stacked_maps(backend: str, device: torch.device) -> None:
    feats = [f.requires_grad_() for f in make_maps(size=(3, 3), device=device)]
    stacked = torch.stack(feats, 1)
    text = make_text(2, 1, 9, device=device)
    out = cost_volume(stacked, text)
    torch.testing.assert_close(out, pipeline(feats, text), atol=1e-6, rtol=0)
    assert all(g.any() for g in torch.autograd.grad(out.square().sum(), feats))


def test_strides_of_features_do_not_matter(backend: str, device: torch.device) -> None:
    feats, text = make_maps(device=device), make_text(4, 1, 9, device=device)
    want = cost_volume(feats, text)
    last = [f.to(memory_format=torch.channels_last) for f in feats]
    wide = [F.pad(f, (0, 2))[..., :-2] for f in feats]
    for other in (last, wide, [last[0], *feats[1:]]):
        torch.testing.assert_close(cost_volume(other, text), want, atol=1e-6, rtol=0)
    transposed = text.mT.contiguous().mT
    torch.testing.assert_close(cost_volume(feats, transposed), want, atol=1e-6, rtol=0)


def test_many_tiles_of_every_axis(backend: str, device: torch.device) -> None:
    feats = make_maps((0, 3), channels=70, size=(9, 11), device=device)
    feats = [f.requires_grad_() for f in feats]
    text = make_text(35, 3, 70, device=device).requires_grad_()
    out, want = cost_volume(feats, text, (0, 3)), pipeline(feats, text, (0, 3))
    torch.testing.assert_close(out, want, atol=2e-6, rtol=0)
    got = torch.autograd.grad(out.square().sum(), [*feats, text])
    for a, b in zip(got, torch.autograd.grad(want.square().sum(), [*feats, text]), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_only_its_input_and_output(
    dtype: torch.dtype, backend: str, device: torch.device
) -> None:
    feats, text = make_maps(device=device, dtype=dtype), make_text(4, 1, 9, device=device)
    out = cost_volume([f.requires_grad_() for f in feats], text.to(dtype))
    assert out.dtype == dtype
    exact = pipeline([f.detach().double() for f in feats], text.to(dtype).double())
    steps = 2 if interpreting() and dtype == torch.bfloat16 else 1  # its casts truncate
    assert (out.double() - exact).abs().max() <= steps * 2**-8
    grads = torch.autograd.grad(out.float().square().sum(), feats)
    leaves = [f.detach().double().requires_grad_() for f in feats]
    want = torch.autograd.grad(pipeline(leaves, text.to(dtype).double()).square().sum(), leaves)
    for a, b in zip(grads, want, strict=True):
        assert a.dtype == dtype
        assert (a.double() - b).abs().max() <= 0.02 * b.abs().max()


def test_autocast_chooses_the_dtype(backend: str, device: torch.device) -> None:
    feats, text = make_maps(device=device), make_text(4, 1, 9, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        out = cost_volume(feats, text)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), cost_volume(feats, text), atol=2**-7, rtol=0)


def test_results_repeat_bit_for_bit(backend: str, device: torch.device) -> None:
    feats = [f.requires_grad_() for f in make_maps(device=device)]
    text = make_text(4, 1, 9, device=device).requires_grad_()
    runs = []
    for _ in range(2):
        out = cost_volume(feats, text)
        runs.append([out, *torch.autograd.grad(out.square().sum(), [*feats, text])])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("backend", ["cpu", "triton"], indirect=True)
def test_nothing_is_written_outside_the_results(
    backend: str, device: torch.device, guarded: Callable[[], None]
) -> None:
    feats = [f.requires_grad_() for f in make_maps(channels=5, device=device)]
    text = make_text(3, 1, 5, device=device).requires_grad_()
    cost_volume(feats, text).square().sum().backward()
    guarded()


@pytest.mark.parametrize("backend", ["reference", "cpu"], indirect=True)
def test_gradcheck(backend: str) -> None:
    feats = make_maps((0, 1), batch=1, channels=3, size=(2, 3), dtype=torch.float64)
    feats = [f.requires_grad_() for f in feats]
    text = make_text(2, 2, 3, dtype=torch.float64).requires_grad_()
    for layout in ("volume", "images"):

        def run(a: Tensor, b: Tensor, t: Tensor, layout: Any = layout) -> Tensor:
            return cost_volume([a, b], t, (0, 1), layout=layout)

        assert torch.autograd.gradcheck(run, (*feats, text))


def test_opcheck(backend: str, device: torch.device) -> None:
    feats = [f.requires_grad_() for f in make_maps((0, 1), channels=3, size=(2, 2), device=device)]
    text = make_text(1, 2, 1, 3, device=device).requires_grad_()
    torch.library.opcheck(_cost_volume, (feats, text, [0, 1], 1e-12, False))


def test_compiles_without_graph_breaks(backend: str, device: torch.device) -> None:
    compiled = torch.compile(cost_volume, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (2, 3):
        feats = [f.requires_grad_() for f in make_maps(batch=batch, channels=4, device=device)]
        text = make_text(3, 1, 4, device=device).requires_grad_()
        results = [f(feats, text) for f in (compiled, cost_volume)]
        grads = [torch.autograd.grad(out.square().sum(), [*feats, text]) for out in results]
        torch.testing.assert_close(*results)
        torch.testing.assert_close(*grads)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"feats": torch.ones(2, 9, 3, 5)}, ValueError, r"feats .* \(2, 9, 3, 5\)"),
        ({"feats": make_maps((0,))}, ValueError, r"feats .* 4 rotations; got 1.*rotations=\(0,\)"),
        ({"feats": make_maps((0, 0, 2, 1))}, ValueError, r"feats\[1\].*\(2, 9, 3, 5\).*swap"),
        ({"feats": [torch.ones(9, 3, 5)] * 4}, ValueError, r"feats\[0\].*\(9, 3, 5\)"),
        ({"feats": [t.long() for t in make_maps()]}, TypeError, r"feats\[0\].*int64"),
        (
            {"feats": [make_maps()[0].double(), *make_maps()[1:]]},
            TypeError,
            r"feats\[1\] torch.float32",
        ),
        ({"text": torch.ones(4, 1, 8)}, ValueError, r"text.*\(T, P, 9\).*\(4, 1, 8\)"),
        ({"text": torch.ones(3, 4, 1, 9)}, ValueError, r"text.*\(3, 4, 1, 9\)"),
        ({"text": torch.ones(4, 1, 9).int()}, TypeError, r"text.*int32.*\(4, 1, 9\)"),
        ({"text": torch.ones(4, 1, 9, device="meta")}, ValueError, r"one device.*text on meta"),
        ({"reduce": "sum"}, ValueError, r"reduce.*'sum'"),
        ({"layout": "nchw"}, ValueError, r"layout.*'nchw'"),
        ({"eps": 0.0}, ValueError, r"eps.*0.0"),
    ],
)
def test_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"feats": make_maps(), "text": make_text(4, 1, 9)} | copy.copy(change)
    with pytest.raises(error, match=message):
        cost_volume(**arguments)


@triton.jit
def _store_row_offset(out, row, templates, stride_t, stride_p):
    tl.store(out, kernels._row_offset(row, templates, stride_t, stride_p))


def test_places_in_a_volume_pass_two_to_the_31() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    place = torch.zeros(1, dtype=torch.int64, device=device)
    _store_row_offset[(1,)](place, 7, 2, 2**31 - 1, 2**30)
    assert place.item() == 3 * (2**31 - 1) + 2**30


def test_bundled_copy_is_readable(parity: Any) -> None:
    del parity
    from pathlib import Path

    assert load_file(Path(__file__).parents[1] / "data" / "cost_volume.safetensors")
