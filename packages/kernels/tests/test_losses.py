import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import MultiPoint, Polygon
from torch import Tensor

from swath.kernels.boxes import boxes_to_quads
from swath.kernels.losses import (
    gwd_loss,
    hull_area,
    kfiou_loss,
    kld_loss,
    rotated_giou_loss,
    rotated_iou_loss,
)

Loss = Callable[..., Tensor]

LOSSES: dict[str, Loss] = {
    "iou linear": partial(rotated_iou_loss, mode="linear"),
    "iou square": partial(rotated_iou_loss, mode="square"),
    "iou log": rotated_iou_loss,
    "giou": rotated_giou_loss,
    "gwd": gwd_loss,
    "gwd log1p": partial(gwd_loss, fun="log1p", tau=1.0),
    "gwd normalised": partial(gwd_loss, fun="log1p", tau=0, normalise=True),
    "kld": kld_loss,
    "kld sqrt": partial(kld_loss, fun="sqrt"),
    "kld reverse": partial(kld_loss, kind="reverse", fun="none", tau=0),
    "kld min": partial(kld_loss, kind="min"),
    "kld max": partial(kld_loss, kind="max"),
    "kfiou": kfiou_loss,
    "kfiou ln": partial(kfiou_loss, fun="ln"),
    "kfiou none": partial(kfiou_loss, fun="none", centre=False),
}
ALL = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
SCALE_FREE = pytest.mark.parametrize(
    "loss", [v for k, v in LOSSES.items() if k not in ("gwd", "gwd log1p")]
)


def random_pairs(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Boxes near each other: most pairs overlap, none has coinciding edges."""
    rng = torch.Generator().manual_seed(seed)
    target = torch.rand(n, 5, generator=rng, dtype=torch.float64)
    target = target * torch.tensor([60, 60, 40, 40, 6]) + torch.tensor([0, 0, 8, 8, -3])
    noise = torch.randn(n, 5, generator=rng, dtype=torch.float64)
    pred = target + noise * torch.tensor([4, 4, 3, 3, 0.5])
    return torch.cat((pred[:, :2], pred[:, 2:4].clamp(min=4), pred[:, 4:]), 1), target


def moved(boxes: Tensor, angle: float, shift: tuple[float, float]) -> Tensor:
    x, y, w, h, theta = boxes.unbind(-1)
    cos, sin = math.cos(angle), math.sin(angle)
    placed = (cos * x - sin * y + shift[0], sin * x + cos * y + shift[1])
    return torch.stack((*placed, w, h, theta + angle), -1)


def covariance(boxes: Tensor) -> Tensor:
    cos, sin = boxes[..., 4].cos(), boxes[..., 4].sin()
    turn = torch.stack((cos, -sin, sin, cos), -1).unflatten(-1, (2, 2))
    return turn @ torch.diag_embed(boxes[..., 2:4] ** 2 / 4) @ turn.mT


def matrix_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag_embed(values.clamp(min=0).sqrt()) @ vectors.mT


def wasserstein(pred: Tensor, target: Tensor) -> Tensor:
    """Squared, by eigenvalues of the matrices."""
    s_p, s_t = covariance(pred), covariance(target)
    both = matrix_root(matrix_root(s_p) @ s_t @ matrix_root(s_p))
    shape = (s_p + s_t - 2 * both).diagonal(dim1=-2, dim2=-1).sum(-1)
    return ((pred - target)[..., :2] ** 2).sum(-1) + shape


def kullback_leibler(pred: Tensor, target: Tensor) -> Tensor:
    def normal(boxes: Tensor) -> torch.distributions.MultivariateNormal:
        return torch.distributions.MultivariateNormal(boxes[..., :2], covariance(boxes))

    return torch.distributions.kl_divergence(normal(pred), normal(target))


def kalman_iou(pred: Tensor, target: Tensor) -> Tensor:
    s_p, s_t = covariance(pred), covariance(target)
    product = s_p - s_p @ torch.linalg.inv(s_p + s_t) @ s_p
    areas = [4 * matrix.det().sqrt() for matrix in (s_p, s_t, product)]
    return areas[2] / (areas[0] + areas[1] - areas[2])


def test_iou_of_shifted_boxes_by_hand() -> None:
    pred, target = torch.tensor([[1.0, 0, 4, 2, 0]]), torch.tensor([[0.0, 0, 4, 2, 0]])
    iou = 6 / 10
    assert rotated_iou_loss(pred, target, mode="linear").item() == pytest.approx(1 - iou)
    assert rotated_iou_loss(pred, target, mode="square").item() == pytest.approx(1 - iou**2)
    assert rotated_iou_loss(pred, target).item() == pytest.approx(-math.log(iou))


def test_giou_of_boxes_apart_by_hand() -> None:
    pred, target = torch.tensor([[6.0, 0, 2, 2, 0]]), torch.tensor([[0.0, 0, 2, 2, 0]])
    assert rotated_giou_loss(pred, target).item() == pytest.approx(1 + (16 - 8) / 16)


def test_giou_agrees_with_shapely_on_overlapping_and_distant_pairs() -> None:
    pred, target = random_pairs(200)
    pred[:, :2] += torch.arange(200)[:, None] / 4
    losses = rotated_giou_loss(pred, target, reduction="none")
    for p, t, loss in zip(pred, target, losses, strict=True):
        shapes = [Polygon(boxes_to_quads(box).numpy()) for box in (p, t)]
        union = shapes[0].union(shapes[1])
        hull = union.convex_hull.area
        iou = shapes[0].intersection(shapes[1]).area / union.area
        assert loss.item() == pytest.approx(1 - iou + (hull - union.area) / hull, abs=1e-12)


def test_gwd_of_axis_aligned_boxes_is_the_distance_of_centres_and_half_sides() -> None:
    pred, target = torch.tensor([[3.0, 4, 8, 6, 0]]), torch.tensor([[0.0, 0, 4, 2, math.pi]])
    squared = 9 + 16 + 4 + 4
    raw = partial(gwd_loss, pred, target, tau=0)
    assert raw(fun="none").item() == pytest.approx(squared)
    assert raw(fun="sqrt").item() == pytest.approx(math.sqrt(squared))
    assert raw(fun="log1p").item() == pytest.approx(math.log1p(squared))
    assert gwd_loss(pred, target).item() == pytest.approx(1 - 1 / (2 + math.sqrt(squared)))
    scale = (48 * 8) ** 0.25
    assert raw(fun="none", normalise=True).item() == pytest.approx(math.sqrt(squared) / scale)


def test_gwd_agrees_with_the_eigen_decomposition() -> None:
    pred, target = random_pairs(500)
    squared = gwd_loss(pred, target, fun="none", tau=0, reduction="none")
    torch.testing.assert_close(squared, wasserstein(pred, target), rtol=1e-10, atol=1e-10)


def test_kld_agrees_with_the_divergence_of_normal_distributions() -> None:
    pred, target = random_pairs(500)
    raw = partial(kld_loss, pred, target, fun="none", tau=0, reduction="none")
    forward, reverse = kullback_leibler(pred, target), kullback_leibler(target, pred)
    torch.testing.assert_close(raw(), forward, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(raw(kind="reverse"), reverse, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(raw(kind="max"), torch.maximum(forward, reverse))
    torch.testing.assert_close(raw(kind="min"), torch.minimum(forward, reverse))
    bounded = kld_loss(pred, target, reduction="none")
    torch.testing.assert_close(bounded, 1 - 1 / (1 + torch.log1p(forward)))


def test_kfiou_agrees_with_the_kalman_gain() -> None:
    pred, target = random_pairs(500)
    expected = kalman_iou(pred, target)
    raw = partial(kfiou_loss, pred, target, centre=False, reduction="none")
    torch.testing.assert_close(1 - raw(fun="none"), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(raw(), torch.exp(1 - expected) - 1, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(raw(fun="ln"), -torch.log(expected + 1e-6))


def test_kfiou_measures_the_centre_in_half_sides_of_the_target() -> None:
    pred = torch.tensor([[0.0, 4, 6, 2, math.pi / 2]])
    target = torch.tensor([[0.0, 0, 6, 2, math.pi / 2]])
    with_centre, without = kfiou_loss(pred, target), kfiou_loss(pred, target, centre=False)
    assert without.item() == pytest.approx(math.exp(2 / 3) - 1, rel=1e-6)
    assert (with_centre - without).item() == pytest.approx(math.log1p((4 / 3) ** 2), rel=1e-5)


@ALL
def test_a_loss_is_least_where_both_boxes_are_the_same_rectangle(loss: Loss) -> None:
    pred, target = random_pairs(50)
    x, y, w, h, theta = target.unbind(-1)
    same = torch.stack((x, y, h, w, theta + math.pi / 2), -1)
    least = loss(target, target, reduction="none")
    torch.testing.assert_close(least, least[:1].expand(50), rtol=0, atol=1e-12)
    # sqrt makes 1e-15 of rounding in the angle 3e-8 of distance
    torch.testing.assert_close(loss(same, target, reduction="none"), least, rtol=0, atol=1e-6)
    assert (loss(pred, target, reduction="none") > least).all()


@ALL
def test_a_joint_motion_and_other_descriptions_change_nothing(loss: Loss) -> None:
    pred, target = random_pairs(100)
    before = loss(pred, target, reduction="none")
    after = loss(moved(pred, 0.7, (300, -50)), moved(target, 0.7, (300, -50)), reduction="none")
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)
    x, y, w, h, theta = pred.unbind(-1)
    for other in (
        torch.stack((x, y, h, w, theta - math.pi / 2), -1),
        torch.stack((x, y, w, h, theta + math.pi), -1),
    ):
        torch.testing.assert_close(loss(other, target, reduction="none"), before)


@SCALE_FREE
def test_scale_free_losses_ignore_a_joint_scaling(loss: Loss) -> None:
    pred, target = random_pairs(100)
    scale = torch.tensor([3.0, 3, 3, 3, 1])
    scaled = loss(pred * scale, target * scale, reduction="none")
    torch.testing.assert_close(scaled, loss(pred, target, reduction="none"))


@ALL
def test_gradients_agree_with_finite_differences(loss: Loss) -> None:
    pred, target = random_pairs(6, seed=3)
    assert (rotated_iou_loss(pred, target, mode="linear", reduction="none") < 0.99).all()
    pred.requires_grad_()
    target.requires_grad_()
    assert torch.autograd.gradcheck(partial(loss, reduction="none"), (pred, target))


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_pairs_give_finite_losses_and_gradients(loss: Loss, dtype: torch.dtype) -> None:
    box = [10.0, 20.0, 8.0, 4.0, 0.3]
    pairs = [
        (box, box),
        (box, [10.0, 20.0, 4.0, 8.0, 0.3 + math.pi / 2]),
        (box, [1e6, -1e6, 8.0, 4.0, 0.3]),
        (box, [10.0, 20.0, 0.0, 4.0, 0.3]),
        ([10.0, 20.0, 0.0, 0.0, 0.3], box),
        ([10.0, 20.0, 0.0, 0.0, 0.3], [10.0, 20.0, 0.0, 0.0, 0.3]),
        ([10.0, 20.0, -3.0, 4.0, 0.3], box),
        ([0.0, 0.0, 5.0, 5.0, 0.0], [0.0, 0.0, 5.0, 5.0, math.pi / 4]),
        ([0.0, 0.0, 1e5, 1e-4, 0.0], [50.0, 0.0, 1e-4, 1e5, 0.1]),
        ([0.0, 0.0, 2.0, 2.0, 0.0], [2.0, 0.0, 2.0, 2.0, 0.0]),
        ([0.0, 0.0, 1e4, 1e4, 0.0], [0.0, 0.0, 1e-3, 1e-3, 0.0]),
    ]
    pred = torch.tensor([p for p, _ in pairs], dtype=dtype, requires_grad=True)
    target = torch.tensor([t for _, t in pairs], dtype=dtype, requires_grad=True)
    values = loss(pred, target, reduction="none")
    assert values.dtype == dtype
    assert values.isfinite().all(), values
    values.sum().backward()
    for boxes in (pred, target):
        assert boxes.grad is not None
        assert boxes.grad.isfinite().all(), boxes.grad


# KFIoU without its centre term doesn't know the places
@pytest.mark.parametrize("name", [k for k in LOSSES if k[:3] != "iou" and k != "kfiou none"])
def test_boxes_apart_are_pulled_together(name: str) -> None:
    pred = torch.tensor([[100.0, 0, 8, 4, 0.3]], requires_grad=True)
    LOSSES[name](pred, torch.tensor([[0.0, 0, 8, 4, 0.3]])).backward()
    assert pred.grad is not None
    assert pred.grad[0, 0] > 0


@pytest.mark.parametrize("name", ["gwd", "gwd normalised", "kld", "kfiou", "giou", "iou linear"])
def test_descent_brings_a_box_onto_its_target(name: str) -> None:
    target = torch.tensor([[50.0, 40, 30, 10, 0.6]], dtype=torch.float64)
    code = torch.tensor([[46.0, 43, math.log(24), math.log(13), 0.3]], dtype=torch.float64)
    code.requires_grad_()
    optimizer = torch.optim.Adam([code])
    for step in range(100):
        optimizer.param_groups[0]["lr"] = 0.3 * (1 - step / 100)
        optimizer.zero_grad()
        pred = torch.cat((code[:, :2], code[:, 2:4].exp(), code[:, 4:]), -1)
        LOSSES[name](pred, target).backward()
        optimizer.step()
    pred = torch.cat((code[:, :2], code[:, 2:4].exp(), code[:, 4:]), -1).detach()
    assert rotated_iou_loss(pred, target, mode="linear").item() < 0.1


coordinate = st.floats(-50, 50)
side = st.floats(0.1, 100)
boxes = st.tuples(coordinate, coordinate, side, side, st.floats(-7, 7))


@settings(max_examples=100, deadline=None)
@given(boxes, boxes)
def test_giou_loss_is_symmetric_and_in_range(first: tuple[float], second: tuple[float]) -> None:
    pred, target = torch.tensor([first]), torch.tensor([second])
    loss = rotated_giou_loss(pred, target).item()
    assert 0 <= loss < 2
    assert loss == pytest.approx(rotated_giou_loss(target, pred).item(), abs=1e-5)
    assert loss >= rotated_iou_loss(pred, target, mode="linear").item() - 1e-5


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_hull_area_agrees_with_shapely_for_points_on_a_grid(n: int) -> None:
    rng = torch.Generator().manual_seed(n)
    points = torch.randint(0, 4, (200, n, 2), generator=rng).double()  # many ties and lines
    expected = [MultiPoint(p.numpy()).convex_hull.area for p in points]
    assert hull_area(points).tolist() == pytest.approx(expected, abs=1e-12)


@ALL
def test_reductions_dtypes_and_no_boxes_at_all(loss: Loss) -> None:
    pred, target = random_pairs(6)
    each = loss(pred.reshape(2, 3, 5), target.reshape(2, 3, 5), reduction="none")
    assert each.shape == (2, 3)
    torch.testing.assert_close(loss(pred, target), each.mean())
    torch.testing.assert_close(loss(pred, target, reduction="sum"), each.sum())
    half = loss(pred.to(torch.bfloat16), target.to(torch.bfloat16))
    assert half.dtype == torch.float32
    nothing = torch.zeros(0, 5, requires_grad=True)
    empty = loss(nothing, torch.zeros(0, 5))
    empty.backward()
    assert empty.item() == 0
    assert nothing.grad is not None
    assert nothing.grad.shape == (0, 5)


@ALL
def test_a_number_that_is_not_one_reaches_the_loss(loss: Loss) -> None:
    target = torch.tensor([[0.0, 0, 8, 4, 0.3]])
    blind = getattr(loss, "keywords", {}).get("centre") is False  # doesn't look at the centre
    for column in range(2 if blind else 0, 5):
        pred = target.clone()
        pred[:, column] = math.nan
        assert loss(pred, target).isnan(), column
        assert loss(target, pred).isnan(), column


@pytest.mark.parametrize("name", ["iou linear", "iou square", "iou log", "giou"])
def test_infinite_boxes_have_no_overlap_to_speak_of(name: str) -> None:
    target = torch.tensor([[0.0, 0, 8, 4, 0.3]])
    for column in range(5):
        pred = target.clone()
        pred[:, column] = math.inf
        assert LOSSES[name](pred, target).isnan(), column


@pytest.mark.parametrize("name", ["iou log", "giou", "gwd", "kld max", "kfiou"])
def test_compiles_without_graph_breaks(name: str) -> None:
    loss = LOSSES[name]
    torch.compiler.reset()
    compiled = torch.compile(
        partial(loss, reduction="none"), fullgraph=True, dynamic=True, backend="aot_eager"
    )
    pred, target = random_pairs(5)
    pred.requires_grad_()
    (expected,) = torch.autograd.grad(loss(pred, target, reduction="none").sum(), pred)
    (grad,) = torch.autograd.grad(compiled(pred, target).sum(), pred)
    torch.testing.assert_close(grad, expected)


def test_bad_arguments_are_named() -> None:
    good = torch.zeros(3, 5)
    with pytest.raises(ValueError, match=r"pred must have shape \(\.\.\., 5\); got \(3, 4\)"):
        kld_loss(torch.zeros(3, 4), good)
    with pytest.raises(ValueError, match=r"one shape; got \(3, 5\) and \(2, 5\)"):
        gwd_loss(good, torch.zeros(2, 5))
    with pytest.raises(TypeError, match="target must be float32"):
        kfiou_loss(good, torch.zeros(3, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match="mode must be one of linear, square, log; got 'cubic'"):
        rotated_iou_loss(good, good, mode="cubic")
    with pytest.raises(ValueError, match="kind must be one of forward"):
        kld_loss(good, good, kind="jeffreys")
    with pytest.raises(ValueError, match="fun must be one of exp, ln, none"):
        kfiou_loss(good, good, fun="sqrt")
    with pytest.raises(ValueError, match=r"tau must be 0 or at least 1; got 0\.5"):
        gwd_loss(good, good, tau=0.5)
    with pytest.raises(ValueError, match="reduction must be one of none, mean, sum"):
        rotated_giou_loss(good, good, reduction="avg")
    with pytest.warns(UserWarning, match="pred has angles beyond 4 pi"):
        rotated_giou_loss(torch.tensor([[0.0, 0, 1, 1, 90]]), torch.ones(1, 5))
