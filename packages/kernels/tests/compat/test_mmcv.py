"""The functions of mmcv's compiled module, called as its Python wrappers call them."""

import importlib.machinery
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from swath.kernels import ms_deform_attn, roi_align_rotated
from swath.kernels.compat import mmcv as operators

SQUARE = [10.0, 10.0, 4.0, 4.0, 0.0]
SHIFTED = [12.0, 10.0, 4.0, 4.0, 0.0]  # half of it on the square: IoU 1/3
CONV = {"kW": 3, "kH": 3, "dW": 1, "dH": 2, "padW": 1, "padH": 0, "dilationW": 1, "dilationH": 2}
GROUPS = {"group": 1, "deformable_group": 1, "im2col_step": 2}
MODULATED = {
    "kernel_h": 3, "kernel_w": 3, "stride_h": 2, "stride_w": 1, "pad_h": 0, "pad_w": 1,
    "dilation_h": 2, "dilation_w": 1, "group": 1, "deformable_group": 1,
}  # fmt: skip


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("mode", "expected"), [(0, 1 / 3), (1, 1 / 2)])
def test_overlaps_are_written_into_a_flat_tensor(mode, expected) -> None:
    first, second = torch.tensor([SQUARE]), torch.tensor([SQUARE, SHIFTED, [99.0, 9, 4, 4, 0]])
    ious = first.new_zeros(3)
    operators.box_iou_rotated(first, second, ious, mode_flag=mode, aligned=False)
    torch.testing.assert_close(ious, torch.tensor([1.0, expected, 0.0]))


def test_aligned_overlaps_carry_no_graph() -> None:
    boxes = torch.tensor([SQUARE, SHIFTED], requires_grad=True)
    ious = torch.zeros(2)
    operators.box_iou_rotated(boxes, boxes.flip(0), ious, mode_flag=0, aligned=True)
    torch.testing.assert_close(ious, torch.full((2,), 1 / 3))
    assert not ious.requires_grad


def test_overlaps_take_boxes_with_a_score_behind_them() -> None:
    scored = torch.tensor([[*SQUARE, 0.9], [*SHIFTED, 0.8]])  # as mmrotate's metrics pass them
    ious = torch.zeros(2)
    operators.box_iou_rotated(scored, torch.tensor([SQUARE]), ious, mode_flag=0, aligned=False)
    torch.testing.assert_close(ious, torch.tensor([1.0, 1 / 3]))


def nms_rotated(dets: Tensor, scores: Tensor, threshold: float, multi_label: bool) -> list[int]:
    order = scores.sort(0, descending=True)[1]
    none = scores.new_empty(0, dtype=torch.int)
    keep = operators.nms_rotated(dets, scores, order, dets[order], none, threshold, multi_label)
    return keep.tolist()


@pytest.mark.parametrize(("threshold", "kept"), [(1 / 2, [1]), (0.51, [1, 0]), (0.0, [1])])
def test_an_overlap_that_equals_the_threshold_suppresses_on_the_cpu(threshold, kept) -> None:
    dets = torch.tensor([[8.0, 8, 8, 4, 0], [8.0, 8, 8, 8, 0]])  # the half of the other, exactly
    assert nms_rotated(dets, torch.tensor([0.5, 0.9]), threshold, False) == kept


def test_labels_behind_the_boxes_are_ignored() -> None:
    dets = torch.tensor([[*SQUARE, 0], [*SQUARE, 1], [50.0, 10, 4, 4, 0, 1]])
    assert nms_rotated(dets, torch.tensor([0.5, 0.9, 0.7]), 0.1, True) == [1, 2]


@pytest.mark.parametrize("clockwise", [False, True])
def test_rotated_pooling_and_its_gradient(clockwise) -> None:
    x = random(2, 3, 12, 10)
    rois = torch.tensor([[0, 5, 6, 6, 3, 0.5], [1, 4, 4, 8, 5, -1.0]], dtype=torch.float64)
    grid = {"pooled_height": 3, "pooled_width": 2, "spatial_scale": 0.9, "sampling_ratio": 2}
    sense = {"aligned": True, "clockwise": clockwise}
    output = x.new_zeros(2, 3, 3, 2)
    operators.roi_align_rotated_forward(x, rois, output, **grid, **sense)
    expected = roi_align_rotated(x, rois, (3, 2), 0.9, 2, clockwise=clockwise)
    torch.testing.assert_close(output, expected)

    grad = random(2, 3, 3, 2, seed=1)
    grad_x = torch.zeros_like(x)
    operators.roi_align_rotated_backward(grad, rois, grad_x, **grid, **sense)
    # pooling is linear: <grad, pool(x)> = <grad_x, x>
    torch.testing.assert_close((grad_x * x).sum(), (grad * output).sum())


def test_nms_counts_the_last_pixel_if_it_is_told_to() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [5.0, 0, 14, 9]])  # IoU 4/14; with a pixel more 5/15
    scores = torch.tensor([0.9, 0.5])
    assert operators.nms(boxes, scores, iou_threshold=0.3, offset=0).tolist() == [0, 1]
    assert operators.nms(boxes, scores, iou_threshold=0.3, offset=1).tolist() == [0]


def test_nms_match_lists_what_each_box_removes() -> None:
    far = [90.0, 90, 99, 99, 0.8]
    dets = torch.tensor([[0.0, 0, 9, 9, 0.6], far, [0.0, 1, 9, 9, 0.9], [0.0, 0, 9, 8, 0.7]])
    assert operators.nms_match(dets, iou_threshold=0.5) == [[2, 3, 0], [1]]
    alone = [[2], [1], [3], [0]]
    assert operators.nms_match(dets, iou_threshold=0.95) == alone


def test_upright_pooling_and_its_gradient() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4).double()
    rois = torch.tensor([[0.0, 0, 0, 4, 4]]).double()
    none = x.new_zeros(0)
    grid = {"aligned_height": 2, "aligned_width": 2, "spatial_scale": 1.0, "sampling_ratio": 2}
    output = x.new_zeros(1, 1, 2, 2)
    operators.roi_align_forward(x, rois, output, none, none, **grid, pool_mode=1, aligned=True)
    torch.testing.assert_close(output[0, 0], torch.tensor([[2.5, 4.5], [10.5, 12.5]]).double())
    grad_x = torch.zeros_like(x)
    ones = torch.ones_like(output)
    operators.roi_align_backward(ones, rois, none, none, grad_x, **grid, pool_mode=1, aligned=True)
    torch.testing.assert_close(grad_x, torch.full_like(x, 0.25))
    with pytest.raises(NotImplementedError, match="pool_mode='max'"):
        operators.roi_align_forward(x, rois, output, none, none, **grid, pool_mode=0, aligned=True)


def test_points_in_polygons() -> None:
    diamond = [5.0, 0, 10, 5, 5, 10, 0, 5]
    points = torch.tensor([[5.0, 5], [1, 1], [9, 9], [5, 11]])
    output = torch.full((4, 2), 7.0)
    operators.points_in_polygons_forward(
        points, torch.tensor([diamond, [x + 6 for x in diamond]]), output
    )
    assert output.tolist() == [[1, 0], [0, 0], [0, 1], [0, 0]]


def test_deformable_convolution_follows_its_offsets() -> None:
    x, weight = random(2, 4, 11, 9), random(6, 4, 3, 3, seed=1)
    plain = F.conv2d(x, weight, stride=(2, 1), padding=(0, 1), dilation=(2, 1))
    none = x.new_empty(0)
    for shift in (0, 1):
        offset = x.new_zeros(2, 18, *plain.shape[-2:])
        offset[:, 1::2] = shift  # to the right
        output = torch.empty_like(plain)
        operators.deform_conv_forward(x, weight, offset, output, none, none, **CONV, **GROUPS)
        moved = F.pad(x, (0, 1))[..., shift : shift + 9]
        expected = F.conv2d(moved, weight, stride=(2, 1), padding=(0, 1), dilation=(2, 1))
        inside = slice(1, -1)  # where a shift doesn't meet the padding
        torch.testing.assert_close(output[..., inside], expected[..., inside])


def test_gradients_of_the_deformable_convolution() -> None:
    x, weight = random(2, 4, 11, 9), random(6, 4, 3, 3, seed=1)
    offset = 0.3 * random(2, 18, 4, 9, seed=2) + 0.41
    grad = random(2, 6, 4, 9, seed=3)
    none, moved = x.new_empty(0), 1e-6

    def loss(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
        output = grad.new_empty(grad.shape)
        operators.deform_conv_forward(x, weight, offset, output, none, none, **CONV, **GROUPS)
        return (grad * output).sum()

    grads = [torch.zeros_like(t) for t in (x, offset, weight)]
    operators.deform_conv_backward_input(
        x, offset, grad, grads[0], grads[1], weight, none, **CONV, **GROUPS
    )
    operators.deform_conv_backward_parameters(
        x, offset, grad, grads[2], none, none, **CONV, scale=1, **GROUPS
    )
    for i, by in enumerate(grads):
        step = [torch.zeros_like(t) for t in (x, offset, weight)]
        step[i] = moved * random(*by.shape, seed=4)
        ends = [loss(x + s * step[0], offset + s * step[1], weight + s * step[2]) for s in (1, -1)]
        torch.testing.assert_close(ends[0] - ends[1], 2 * (by * step[i]).sum(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("with_bias", [False, True])
def test_a_mask_weighs_the_samples_of_a_deformable_convolution(with_bias) -> None:
    x, weight = random(2, 4, 11, 9), random(6, 4, 3, 3, seed=1)
    bias = random(6) if with_bias else x.new_empty(0)
    offset, mask = x.new_zeros(2, 18, 4, 9), x.new_full((2, 9, 4, 9), 0.25)
    none, output = x.new_empty(0), x.new_empty(2, 6, 4, 9)
    operators.modulated_deform_conv_forward(
        x, weight, bias, none, offset, mask, output, none, **MODULATED, with_bias=with_bias
    )
    steps = {"stride": (2, 1), "padding": (0, 1), "dilation": (2, 1)}
    expected = F.conv2d(x, 0.25 * weight, bias if with_bias else None, **steps)
    torch.testing.assert_close(output, expected)

    grad = random(2, 6, 4, 9, seed=3)
    grads = [torch.zeros_like(t) for t in (x, weight, bias, offset, mask)]
    operators.modulated_deform_conv_backward(
        x, weight, bias, none, offset, mask, none, *grads, grad, **MODULATED, with_bias=with_bias
    )
    grad_x, grad_weight, grad_bias, _, grad_mask = grads
    linear = (grad * output).sum() - (grad_bias * bias).sum()  # in x, in weight, and in mask
    for by, t in ((grad_x, x), (grad_weight, weight), (grad_mask, mask)):
        torch.testing.assert_close((by * t).sum(), linear)
    if with_bias:
        torch.testing.assert_close(grad_bias, grad.sum((0, 2, 3)))


def test_deformable_attention_and_its_gradients() -> None:
    shapes, starts = torch.tensor([[4, 5], [2, 3]]), torch.tensor([0, 20])
    value = random(2, 26, 2, 4)
    at = random(2, 3, 2, 2, 2, 2, seed=1).sigmoid()
    weights = random(2, 3, 2, 2, 2, seed=2).softmax(-1)
    output = operators.ms_deform_attn_forward(value, shapes, starts, at, weights, im2col_step=64)
    inputs = [t.requires_grad_() for t in (value, at, weights)]
    expected = ms_deform_attn(value, shapes, starts, at, weights)
    torch.testing.assert_close(output, expected)
    grad = random(*expected.shape, seed=3)
    expected.backward(grad)
    grads = [torch.zeros_like(t) for t in inputs]
    arguments = (value.detach(), shapes, starts, at.detach(), weights.detach(), grad)
    operators.ms_deform_attn_backward(*arguments, *grads, im2col_step=64)
    for own, t in zip(grads, inputs, strict=True):
        torch.testing.assert_close(own, t.grad)


@pytest.mark.parametrize("weighted", [False, True])
def test_focal_loss(weighted) -> None:
    logits = torch.tensor([[0.0, 2.0], [-1.0, 0.5]], dtype=torch.float64)
    target = torch.tensor([1, 0])
    weight = torch.tensor([3.0, 0.5]).double() if weighted else logits.new_empty(0)
    output, grad = torch.zeros_like(logits), torch.zeros_like(logits)
    operators.sigmoid_focal_loss_forward(logits, target, weight, output, gamma=2.0, alpha=0.25)
    operators.sigmoid_focal_loss_backward(logits, target, weight, grad, gamma=2.0, alpha=0.25)

    def loss(x: float, hit: bool) -> float:
        p = 1 / (1 + math.exp(-x))
        return -0.25 * (1 - p) ** 2 * math.log(p) if hit else -0.75 * p**2 * math.log(1 - p)

    for i in range(2):
        factor = weight[target[i]].item() if weighted else 1
        for c in range(2):
            x, hit = logits[i, c].item(), c == target[i].item()
            assert output[i, c].item() == pytest.approx(factor * loss(x, hit))
            slope = (loss(x + 1e-6, hit) - loss(x - 1e-6, hit)) / 2e-6
            assert grad[i, c].item() == pytest.approx(factor * slope, rel=1e-6)


def test_background_is_no_class_of_the_focal_loss() -> None:
    logits, output = torch.zeros(1, 2), torch.zeros(1, 2)
    operators.sigmoid_focal_loss_forward(
        logits, torch.tensor([2]), logits.new_empty(0), output, gamma=0.0, alpha=0.25
    )
    torch.testing.assert_close(output, torch.full((1, 2), 0.75 * math.log(2)))


def test_what_is_missing_is_there_until_it_is_called() -> None:
    polygons = operators.min_area_polygons
    with pytest.raises(NotImplementedError, match=r"mmcv\._ext\.min_area_polygons isn't among"):
        polygons(torch.zeros(1, 18), torch.zeros(1, 8))
    assert not hasattr(operators, "__wrapped__")  # inspect looks for such names


@pytest.fixture
def mmcv(tmp_path, monkeypatch) -> Path:
    """A package named mmcv, without its compiled module."""
    folder = tmp_path / "mmcv"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return folder


def test_once_installed_every_process_imports_it(mmcv) -> None:
    assert operators.install() == mmcv / "_ext.py"
    code = (
        "import importlib; ext = importlib.import_module('mmcv._ext')\n"
        "assert ext.nms_rotated.__module__ == 'swath.kernels.compat.mmcv'\n"
        "assert hasattr(ext, 'anything'), 'the wrappers look for every name'\n"
        "import collections; collections.Sequence"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_compiled_module_stays(mmcv) -> None:
    compiled = mmcv / f"_ext{importlib.machinery.EXTENSION_SUFFIXES[0]}"
    compiled.write_bytes(b"")
    assert operators.install() == compiled
    assert not (mmcv / "_ext.py").exists()


def test_without_mmcv_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr(operators.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"swath-moe\[mmrotate\]"):
        operators.install()
