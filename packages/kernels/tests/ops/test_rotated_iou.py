"""Rotated IoU: recorded pairs, shapely, properties, gradients and registration."""

import itertools
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import shapely
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from swath.kernels import boxes_to_quads, rotated_iou
from swath.kernels.ops.rotated_iou import intersection, reference
from swath.kernels.ops.rotated_iou import triton as kernels

TRITON_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PAIR_OP = torch.ops.swath.rotated_iou
AREA_OP = torch.ops.swath.rotated_intersection
TOLERANCE = {"wrap_180": 5e-6, "wrap_2pi": 2e-5}  # float32 can't hold the difference of angles


@pytest.fixture(scope="module")
def categories() -> list[str]:
    shared = Path(__file__).resolve().parents[4] / "shared" / "parity"
    folders = (
        Path(os.environ.get("SWATH_PARITY_DIR", shared)) / "kernels",
        Path(__file__).parents[1] / "data",
    )
    folder = next(folder for folder in folders if folder.is_dir())
    names: list[str] = json.loads((folder / "rotated_iou_categories.json").read_text())[
        "categories"
    ]
    return names


def random_boxes(count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Boxes that overlap often: centres within 60 px, sides 10 to 80."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(count, 5, generator=generator, dtype=torch.float64)
    scale, offset = [60.0, 60, 70, 70, 2 * math.pi], [0.0, 0, 10, 10, -math.pi]
    return (boxes * torch.tensor(scale) + torch.tensor(offset)).to(dtype)


def dtypes(backend: str) -> tuple[torch.dtype, ...]:
    return (torch.float32,) if backend == "triton" else (torch.float32, torch.float64)


def by_shapely(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU of aligned boxes in float64, after subtracting a common centre."""
    centre = torch.nn.functional.pad(boxes1[:, :2], (0, 3)).double()
    first, second = (
        shapely.polygons(boxes_to_quads(boxes.double() - centre).numpy())
        for boxes in (boxes1, boxes2)
    )
    area = shapely.area(shapely.intersection(first, second))
    return torch.from_numpy(area / (shapely.area(first) + shapely.area(second) - area))


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:.*beyond 4 pi")
def test_matches_the_recorded_pairs(backend, device, parity, categories) -> None:
    _, tensors = parity("rotated_iou")
    unread = set(tensors)

    def read(name: str) -> Tensor:
        unread.discard(name)
        return tensors[name]

    kinds = read("category_id")
    assert kinds.max() < len(categories)
    for dtype in dtypes(backend):
        boxes1, boxes2 = (read(name).to(device, dtype) for name in ("boxes1", "boxes2"))
        for mode in ("iou", "iof"):
            result = rotated_iou(boxes1, boxes2, mode, aligned=True).cpu().double()
            assert result.min() >= 0
            assert result.max() <= 1
            assert not result[read("nonfinite")].any()
            error = (result - read(mode)).abs()
            for index, name in enumerate(categories):
                here = kinds == index
                if not here.any():
                    continue
                worst = error[here].max().item()
                bound = TOLERANCE.get(name, 1e-6) if dtype == torch.float32 else 1e-8
                print(f"{backend} {dtype} {mode} {name}: {worst:.1e}")
                assert worst <= bound, name
                if name == "identical" and mode == "iou":
                    assert (result[here] == 1).all()
                if name == "scale_ratio":
                    relative = (error / read(mode).clamp(min=1e-30))[here].max()
                    assert relative <= 1e-5
        pairs = rotated_iou(read("pair_boxes1").to(boxes1), read("pair_boxes2").to(boxes1))
        worst = (pairs.cpu() - read("pair_iou")).abs().max().item()
        print(f"{backend} {dtype} pairwise: {worst:.1e}")
        assert worst <= (1e-6 if dtype == torch.float32 else 1e-12)

        index = read("grad_index").to(device)
        pair = [boxes[index].requires_grad_() for boxes in (boxes1, boxes2)]
        grads = torch.autograd.grad(rotated_iou(*pair, aligned=True).sum(), pair)
        error = (torch.stack(grads, 1).cpu() - read("grad_iou")).abs().amax(-1)
        worst = (error / read("grad_iou").abs().amax(-1)).max().item()
        print(f"{backend} {dtype} gradient: {worst:.1e}")
        assert worst <= (1e-3 if dtype == torch.float32 else 1e-9)
    assert not unread


def test_pairwise_and_aligned_agree(backend, device) -> None:
    boxes1, boxes2 = (random_boxes(n, seed).to(device) for n, seed in ((9, 1), (70, 2)))
    boxes1[0, 2] = math.nan
    boxes1[1, :2] += 1e4
    for mode in ("iou", "iof"):
        pairs = rotated_iou(boxes1, boxes2, mode)
        rows = boxes1[:, None].expand(-1, 70, -1), boxes2.expand(9, -1, -1)
        aligned = rotated_iou(*rows, mode, aligned=True)
        assert pairs.shape == aligned.shape == (9, 70)
        assert (pairs - aligned).abs().max() <= 3e-7


def test_agrees_with_shapely_on_ten_thousand_pairs(monkeypatch) -> None:
    boxes1, boxes2 = (random_boxes(10_000, seed, torch.float64) for seed in (3, 4))
    expected = by_shapely(boxes1, boxes2)
    for backend in ("reference", "cpu"):
        monkeypatch.setenv("SWATH_KERNELS", backend)
        result = rotated_iou(boxes1, boxes2, aligned=True)
        assert (result - expected).abs().max() <= 1e-12
        single = rotated_iou(boxes1.float(), boxes2.float(), aligned=True)
        assert (single - expected).abs().max() <= 2e-6  # boxes rounded to float32


def test_long_range_of_sizes_keeps_the_smaller_area_exact(backend, device) -> None:
    """Slivers and boxes of very different size: error relative to the smaller area."""
    generator = torch.Generator().manual_seed(5)
    boxes = torch.rand(2, 2000, 5, generator=generator) * torch.tensor([60.0, 60, 8, 8, 6])
    boxes[..., 2:4] = 10 ** (boxes[..., 2:4] - 5)
    exact = reference.intersection(*boxes.double())
    smaller = boxes[..., 2:4].prod(-1).amin(0)
    error = (intersection(*boxes.to(device)).cpu() - exact).abs() / smaller
    assert error.quantile(0.99) <= 1e-6
    assert error.max() <= 1e-3


def test_angles_turn_clockwise_and_their_sign_matters(backend, device) -> None:
    boxes = torch.tensor([[0.0, 0, 60, 10, 0.6], [20.0, 14, 60, 10, 0.6]], device=device)
    mirrored = boxes * boxes.new_tensor([1, 1, 1, 1, -1])
    clockwise = rotated_iou(boxes[:1], boxes[1:])
    assert clockwise > 0.4  # the second lies along the first's direction: right and down
    assert clockwise - rotated_iou(mirrored[:1], mirrored[1:]) > 0.2


def test_hand_computed_values(backend, device) -> None:
    square = torch.tensor([[0.0, 0, 2, 2, 0]], device=device)
    others = torch.tensor(
        [[1.0, 0, 2, 2, 0], [0, 0, 1, 1, 0], [2, 0, 2, 2, 0], [0, 0, 2, 2, math.pi / 4]],
        device=device,
    )
    octagon = 8 * (math.sqrt(2) - 1)
    expected = torch.tensor([[1 / 3, 1 / 4, 0, octagon / (8 - octagon)]])
    assert (rotated_iou(square, others).cpu() - expected).abs().max() <= 1e-6
    expected = torch.tensor([[1 / 2, 1 / 4, 0, octagon / 4]])
    assert (rotated_iou(square, others, "iof").cpu() - expected).abs().max() <= 1e-6


coordinates = st.floats(-100, 100, width=32)
sides = st.floats(0.5, 100, width=32)
angles = st.floats(-3, 3, width=32)
boxes_st = st.tuples(coordinates, coordinates, sides, sides, angles)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(boxes_st, boxes_st, coordinates, coordinates, angles, st.floats(0.01, 100))
def test_properties(backend, first, second, shift_x, shift_y, turn, scale) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWATH_KERNELS", backend)
        pair = torch.tensor([first, second], dtype=torch.float64)
        boxes1, boxes2 = pair[:1], pair[1:]
        iou = rotated_iou(boxes1, boxes2)

        def near(one: Tensor, other: Tensor) -> bool:
            return bool((rotated_iou(one, other) - iou).abs() <= 1e-10)

        assert 0 <= iou <= 1
        assert rotated_iou(boxes1, boxes1) == rotated_iou(boxes2, boxes2) == 1
        assert near(boxes2, boxes1)
        # a joint rigid motion with scaling
        cos, sin = math.cos(turn), math.sin(turn)
        x, y = pair[:, 0], pair[:, 1]
        centres = torch.stack((cos * x - sin * y + shift_x, sin * x + cos * y + shift_y), 1)
        moved = torch.cat((centres * scale, pair[:, 2:4] * scale, pair[:, 4:] + turn), 1)
        assert near(moved[:1], moved[1:])
        for turns in (-1, 1, 2):
            assert near(boxes1 + boxes1.new_tensor([0, 0, 0, 0, turns * math.pi]), boxes2)
        swapped = boxes1[:, [0, 1, 3, 2, 4]] + boxes1.new_tensor([0, 0, 0, 0, math.pi / 2])
        assert near(swapped, boxes2)


def test_identical_boxes_have_iou_exactly_1(backend, device) -> None:
    boxes = random_boxes(200, 6).to(device)
    boxes[:100, 2:4] *= 10 ** (torch.rand(100, 2, device=device) * 8 - 4)
    boxes[50:150, :2] += 3e4
    assert (rotated_iou(boxes, boxes, aligned=True) == 1).all()
    assert (rotated_iou(boxes[:20], boxes[:20]).diagonal() == 1).all()


INVALID = {
    "NaN centre": (math.nan, 0, 4, 2, 0),
    "infinite angle": (0, 0, 4, 2, math.inf),
    "infinite side": (0, 0, math.inf, 2, 0),
    "zero side": (0, 0, 0, 2, 0),
    "negative sides": (0, 0, -4, -2, 0),
    "underflowing area": (0, 0, 1e-30, 1e-30, 0),
    "overflowing area": (0, 0, 1e30, 1e30, 0),
}


def test_invalid_boxes_overlap_nothing_and_get_no_gradient(backend, device) -> None:
    bad = torch.tensor(list(INVALID.values()), dtype=torch.float32)
    good = torch.tensor([[0.0, 0, 4, 2, 0.1]]).expand_as(bad)
    first, second = torch.cat((good, bad, bad)).to(device), torch.cat((bad, good, bad)).to(device)
    for mode in ("iou", "iof"):
        assert not rotated_iou(first[:1], first[len(bad) :], mode).any()
        assert not rotated_iou(first[len(bad) :], first[:1], mode).any()
        pair = [boxes.clone().requires_grad_() for boxes in (first, second)]
        aligned = rotated_iou(*pair, mode, aligned=True)
        assert not aligned.any()
        for grad in torch.autograd.grad(aligned.sum(), pair):
            assert (grad == 0).all()


@pytest.mark.parametrize("box", INVALID.values(), ids=INVALID)
def test_validation_refuses_invalid_boxes(box) -> None:
    good, bad = torch.tensor([[0.0, 0, 4, 2, 0.1]]), torch.tensor([box], dtype=torch.float32)
    with pytest.raises(ValueError, match=r"boxes2 of shape \(1, 5\) has 1 invalid boxes"):
        rotated_iou(good, bad, validate=True)
    assert rotated_iou(good, good, validate=True) == 1


def test_boxes_far_apart_in_a_huge_range_give_0(backend, device) -> None:
    boxes = torch.tensor([[3e38, 0, 4, 2, 0], [-3e38, 0, 4, 2, 0], [0, 3e38, 1e18, 4, 1]])
    result = rotated_iou(boxes.to(device), boxes.to(device)).cpu()
    assert torch.equal(result, torch.eye(3))


def test_boxes_below_the_minimal_size_overlap_nothing(backend, device) -> None:
    boxes = torch.tensor([[0.0, 0, 4, 2, 0], [0, 0, 4, 0.5, 0]], device=device)
    expected = torch.tensor([[1.0, 0], [0, 0]])
    assert torch.equal(rotated_iou(boxes, boxes, min_size=1.0).cpu(), expected)
    aligned = rotated_iou(boxes, boxes, aligned=True, min_size=1.0)
    assert aligned.tolist() == [1, 0]
    assert rotated_iou(boxes, boxes, aligned=True, min_size=0.5).tolist() == [1, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(backend, device, dtype) -> None:
    boxes = random_boxes(6, 7, dtype).to(device)
    result = rotated_iou(boxes, boxes)
    assert result.dtype == torch.float32
    assert torch.equal(result, rotated_iou(boxes.float(), boxes.float()))


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (0, 3), (3, 0), (1, 1)])
def test_empty_and_single_boxes(backend, device, rows, columns) -> None:
    boxes1, boxes2 = (random_boxes(n).to(device) for n in (rows, columns))
    assert rotated_iou(boxes1, boxes2).shape == (rows, columns)
    boxes = boxes1.requires_grad_()
    aligned = rotated_iou(boxes, boxes2[:rows].expand(rows, 5) if columns else boxes, aligned=True)
    assert aligned.shape == (rows,)
    aligned.sum().backward()
    assert boxes.grad.shape == (rows, 5)


def test_takes_boxes_that_are_not_contiguous(backend, device) -> None:
    boxes = random_boxes(10, 8).to(device)
    strided = boxes.T.contiguous().T[::2]
    assert torch.equal(rotated_iou(strided, boxes), rotated_iou(boxes[::2].contiguous(), boxes))
    pair = strided.detach().requires_grad_(), boxes[::2].flip(1)[:, [4, 3, 2, 1, 0]]
    rotated_iou(*pair, aligned=True).sum().backward()
    assert pair[0].grad.isfinite().all()


def test_triton_writes_only_its_own_output() -> None:
    rows, columns = 3, 37
    boxes1, boxes2 = (random_boxes(n).to(TRITON_DEVICE) for n in (rows, columns))
    guarded = torch.full((64 + rows * columns + 64,), -7.0, device=TRITON_DEVICE)
    tables = kernels.table(boxes1), kernels.table(boxes2)
    kernels._pair_kernel[(2,)](
        *tables, guarded[64:], rows, columns, IOF=False, ROWS=8, COLUMNS=32, num_warps=2
    )
    assert (guarded[:64] == -7).all()
    assert (guarded[-64:] == -7).all()
    assert (
        torch.equal(guarded[64:-64].view(rows, columns), rotated_iou(boxes1, boxes2))
        or (guarded[64:-64].view(rows, columns) - rotated_iou(boxes1, boxes2)).abs().max() <= 1e-6
    )


@pytest.mark.parametrize(
    ("rows", "columns", "expected"), [(1, 1, (8, 32, 2)), (512, 512, (16, 64, 8))]
)
def test_tile_has_four_pairs_per_thread(rows, columns, expected) -> None:
    tile = kernels.pair_tile(rows, columns)
    assert tile == expected
    assert tile[0] * tile[1] == 4 * 32 * tile[2]


@triton.jit
def _store_offset(out, row, column, columns):
    tl.store(out, kernels.offset(row, column, columns))


def test_more_than_2_to_the_31_outputs_have_a_shape_programs_and_places() -> None:
    with FakeTensorMode():
        boxes = torch.empty(50_000, 5)
        assert PAIR_OP(boxes, boxes, "iou", 0.0).shape == (50_000, 50_000)
    rows, columns, _ = kernels.pair_tile(50_000, 50_000)
    assert math.ceil(50_000 / rows) * math.ceil(50_000 / columns) < 2**31
    place = torch.zeros(1, dtype=torch.int64, device=TRITON_DEVICE)
    _store_offset[(1,)](place, 49_999, 7, 50_000)
    assert place.item() == 49_999 * 50_000 + 7


def test_pairwise_is_computed_in_pieces(monkeypatch) -> None:
    """Ten pairs at a time give what all at once give."""
    boxes1, boxes2 = random_boxes(23, 9), random_boxes(7, 10)
    whole = reference.pairwise(boxes1, boxes2, "iou", 0.0)
    monkeypatch.setattr(reference, "CHUNK", 10)
    assert torch.equal(reference.pairwise(boxes1, boxes2, "iou", 0.0), whole)


def test_threads_share_the_rows(monkeypatch) -> None:
    monkeypatch.setenv("SWATH_KERNELS", "cpu")
    boxes = random_boxes(50, 11)
    single = rotated_iou(boxes, boxes)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(rotated_iou(boxes, boxes), single)


def test_gradients_match_finite_differences(monkeypatch) -> None:
    boxes = [random_boxes(5, seed, torch.float64).requires_grad_() for seed in (12, 13)]
    for backend, mode in itertools.product(("reference", "cpu"), ("iou", "iof")):
        monkeypatch.setenv("SWATH_KERNELS", backend)
        torch.autograd.gradcheck(lambda a, b, m=mode: rotated_iou(a, b, m, aligned=True), boxes)
        torch.autograd.gradcheck(intersection, (boxes[0][:3, None], boxes[1][None, :2]))


def test_triton_gradient_equals_the_cpu_one(monkeypatch) -> None:
    grads = []
    for backend, place in (("cpu", "cpu"), ("triton", TRITON_DEVICE)):
        monkeypatch.setenv("SWATH_KERNELS", backend)
        pair = [random_boxes(150, seed).to(place).requires_grad_() for seed in (14, 15)]
        area = rotated_iou(*pair, aligned=True)
        weight = torch.linspace(-1, 1, 150, device=place)
        grads.append([g.cpu() for g in torch.autograd.grad(area, pair, weight)])
    for one, other in zip(*grads, strict=True):
        assert (one - other).abs().max() <= 1e-5


def test_a_box_equal_to_its_target_has_gradient_0(backend, device) -> None:
    target = random_boxes(20, 16).to(device)
    target[:5, 4] = 0
    boxes = target.clone().requires_grad_()
    rotated_iou(boxes, target, aligned=True).sum().backward()
    assert boxes.grad.abs().max() <= 1e-6


def test_gradients_are_finite_where_edges_coincide_or_are_nearly_parallel(backend, device) -> None:
    base = torch.tensor([0.0, 0, 8, 4, 0.0])
    others = base.repeat(8, 1)
    others[1, 0] = 8  # touching
    others[2, 2] = 4  # nested with shared edges
    others[3, 4] = 1e-30
    others[4, 4] = math.pi / 2
    others[5, :2] = torch.tensor([8.0, 4])  # corner to corner
    others[6, 2:4] = torch.tensor([1e-6, 4])
    others[7, 4] = 1e-8
    pair = [boxes.to(device).requires_grad_() for boxes in (base.repeat(8, 1), others)]
    for mode in ("iou", "iof"):
        for grad in torch.autograd.grad(rotated_iou(*pair, mode, aligned=True).sum(), pair):
            assert grad.isfinite().all()


def test_pairwise_result_is_not_differentiable(backend, device) -> None:
    boxes = random_boxes(3).to(device).requires_grad_()
    assert not rotated_iou(boxes, boxes).requires_grad


@pytest.mark.filterwarnings("ignore")  # opcheck uses deprecated parts of torch
def test_operators_are_registered_correctly(backend, device) -> None:
    boxes1, boxes2 = (random_boxes(4, seed).to(device) for seed in (17, 18))
    torch.library.opcheck(PAIR_OP.default, (boxes1, boxes2, "iou", 0.0))
    pair = boxes1.requires_grad_(), boxes2.requires_grad_()
    torch.library.opcheck(AREA_OP.default, pair)
    grad = torch.ones(4, device=device)
    backward = torch.ops.swath.rotated_intersection_backward.default
    torch.library.opcheck(backward, (grad, boxes1.detach(), boxes2.detach()))


def test_compiles_without_a_graph_break(monkeypatch) -> None:
    monkeypatch.setenv("SWATH_KERNELS", "cpu")

    def both(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
        aligned = rotated_iou(boxes1, boxes2, aligned=True, min_size=0.1)
        return rotated_iou(boxes1, boxes2, "iof"), aligned

    compiled = torch.compile(both, fullgraph=True, dynamic=True, backend="aot_eager")
    for count in (5, 8):
        results = []
        for function in (both, compiled):
            pair = [random_boxes(count, seed).requires_grad_() for seed in (19, 20)]
            pairs, aligned = function(*pair)
            results.append((pairs, aligned, *torch.autograd.grad(aligned.sum(), pair)))
        for one, other in zip(*results, strict=True):
            assert torch.allclose(one, other, atol=1e-6)


def test_repeats_bit_for_bit(backend, device) -> None:
    pair = [random_boxes(60, seed).to(device).requires_grad_() for seed in (21, 22)]
    runs = []
    for _ in range(2):
        aligned = rotated_iou(*pair, aligned=True)
        runs.append((rotated_iou(*pair), aligned, *torch.autograd.grad(aligned.sum(), pair)))
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


BOX = torch.tensor([[0.0, 0, 4, 2, 0]])
MISUSE = {
    "four columns": ((BOX[:, :4], BOX), {}, ValueError, r"boxes1 .*\(1, 4\)"),
    "one box": ((BOX, BOX[0]), {}, ValueError, r"boxes2 \(5,\)"),
    "integers": ((BOX, BOX.long()), {}, TypeError, r"boxes2 .*int64 of shape \(1, 5\)"),
    "mode": ((BOX, BOX, "giou"), {}, ValueError, "iou, iof; got 'giou'"),
    "aligned": (
        (BOX, BOX.repeat(2, 1)),
        {"aligned": True},
        ValueError,
        r"same shape; got boxes1 \(1, 5\) and boxes2 \(2, 5\)",
    ),
    "devices": ((BOX, BOX.to("meta")), {}, ValueError, "boxes2 on meta"),
}


@pytest.mark.parametrize(("args", "options", "error", "message"), MISUSE.values(), ids=MISUSE)
def test_misuse_is_refused_by_name(args, options, error, message) -> None:
    with pytest.raises(error, match=message):
        rotated_iou(*args, **options)


def test_degrees_are_warned_about_at_the_callers_line() -> None:
    degrees = torch.tensor([[0.0, 0, 4, 2, 90]])
    with pytest.warns(UserWarning, match="boxes2 has angles beyond 4 pi") as caught:
        rotated_iou(BOX, degrees, aligned=True)
    assert [warning.filename for warning in caught] == [__file__]
    assert np.isfinite(rotated_iou(BOX, BOX)).all()
