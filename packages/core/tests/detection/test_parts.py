"""Pyramid, anchors, assignment, sampling, coders, pooling and suppression."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou

from swath.core.detection import (
    FPN,
    AnchorGenerator,
    DeltaXYWHCoder,
    MidpointOffsetCoder,
    RotatedDeltaCoder,
    RotatedRoIPool,
    assign_by_iou,
    class_wise_nms,
    pairwise_iou,
    representative,
    sample_boxes,
)
from swath.core.detection.anchors import inside_image
from swath.core.detection.assign import NEGATIVE, NEITHER
from swath.core.detection.nms import nms_by_group
from swath.kernels import boxes_to_hbb, boxes_to_quads, rotated_iou


def boxes_of(seed: int, count: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    r = torch.rand(count, 5, generator=generator, dtype=torch.float64)
    sizes = torch.tensor([100, 100, 40, 40, 6.3], dtype=torch.float64)
    return r * sizes + torch.tensor([50, 50, 4, 4, -3.15], dtype=torch.float64)


def test_a_pyramid_adds_coarse_maps_to_fine_ones() -> None:
    fpn = FPN([2, 2], channels=1, num_outs=3)
    for conv in fpn.lateral_convs:
        torch.nn.init.ones_(conv.weight)
    for conv in fpn.fpn_convs:
        torch.nn.init.zeros_(conv.weight)
        conv.weight.data[:, :, 1, 1] = 1
    fine, coarse = torch.ones(1, 2, 5, 4), 10 * torch.ones(1, 2, 3, 2)
    outs = fpn([fine, coarse])
    assert [tuple(x.shape[-2:]) for x in outs] == [(5, 4), (3, 2), (2, 1)]
    assert torch.equal(outs[0], torch.full((1, 1, 5, 4), 22.0))
    assert torch.equal(outs[2], torch.full((1, 1, 2, 1), 20.0))


def test_anchors_by_hand() -> None:
    make = AnchorGenerator(strides=[4, 8], ratios=[0.25, 1.0], scale=2)
    first, second = make([(1, 2), (1, 1)])
    assert make.per_cell == 2
    want = [[-8, -2, 8, 2], [-4, -4, 4, 4], [-4, -2, 12, 2], [0, -4, 8, 4]]  # w 16, h 4; 8, 8
    assert first.tolist() == want
    assert second.tolist() == [[-16, -4, 16, 4], [-8, -8, 8, 8]]
    assert inside_image(
        torch.tensor([[0.0, 0, 4, 4], [0, 0, 5, 4], [-1, 0, 3, 3]]), (5, 5)
    ).tolist() == [
        True,
        False,  # the far border itself is outside, as officially
        False,
    ]


def test_assignment_by_hand() -> None:
    overlaps = torch.tensor([[0.8, 0.1], [0.5, 0.2], [0.1, 0.25], [0.1, 0.45], [0.6, 0.45]])
    assert assign_by_iou(overlaps, 0.7, 0.3).tolist() == [0, NEITHER, NEGATIVE, NEITHER, NEITHER]
    # the second object has no box above 0.7: both of its best ones are its
    assert assign_by_iou(overlaps, 0.7, 0.3, low_quality=0.3).tolist() == [
        0,
        NEITHER,
        NEGATIVE,
        1,
        1,
    ]
    assert assign_by_iou(overlaps, 0.7, 0.3, low_quality=0.5).tolist()[3:] == [NEITHER, NEITHER]
    assert assign_by_iou(torch.zeros(3, 0), 0.5, 0.5).tolist() == [NEGATIVE] * 3
    assert assign_by_iou(torch.zeros(0, 2), 0.5, 0.5, low_quality=0.3).tolist() == []


def test_the_overlaps_of_horizontal_boxes_are_torchvisions() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = 100 * torch.rand(60, 2, 2, generator=generator)
    boxes = torch.cat((corners.amin(1), corners.amax(1)), 1)
    largest = (pairwise_iou(boxes, boxes[:7]) - box_iou(boxes, boxes[:7])).abs().max()
    print(f"largest difference {largest:.1e}")
    assert largest < 1e-6
    assert pairwise_iou(boxes, boxes[:0]).shape == (60, 0)
    assert pairwise_iou(boxes[:0], boxes).shape == (0, 60)


def test_sampling_keeps_the_share_of_positives_and_fills_up_with_background() -> None:
    assigned = torch.tensor([0] * 30 + [NEGATIVE] * 100 + [NEITHER] * 10)
    positive, negative = sample_boxes(assigned, 40, 0.25)
    assert len(positive) == 10
    assert len(negative) == 30
    assert (assigned[positive] >= 0).all()
    assert (assigned[negative] == NEGATIVE).all()
    few = torch.tensor([0, NEGATIVE, NEGATIVE])
    assert [x.tolist() for x in sample_boxes(few, 100, 0.5)] == [[0], [1, 2]]
    torch.manual_seed(1)
    first = sample_boxes(assigned, 40, 0.25)[1]
    torch.manual_seed(1)
    assert torch.equal(sample_boxes(assigned, 40, 0.25)[1], first)
    assert not torch.equal(sample_boxes(assigned, 40, 0.25)[1], first)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_coders_give_back_what_they_encode(seed: int) -> None:
    boxes, anchors = boxes_of(seed), boxes_of(seed + 1)
    corners = boxes_to_hbb(anchors)
    horizontal = DeltaXYWHCoder(stds=(0.1, 0.1, 0.2, 0.2))
    back = horizontal.decode(corners, horizontal.encode(corners, boxes_to_hbb(boxes)))
    torch.testing.assert_close(back, boxes_to_hbb(boxes))
    for coder, from_ in (
        (MidpointOffsetCoder(), corners),
        (RotatedDeltaCoder(), anchors),
        (RotatedDeltaCoder(clockwise=False, version="s5"), anchors),
    ):
        decoded = coder.decode(from_, coder.encode(from_, boxes))  # type: ignore[attr-defined]
        same = rotated_iou(decoded, boxes, aligned=True)
        # a vertex within a tenth of a pixel of a side counts as on it
        assert float(same.min()) > (0.95 if isinstance(coder, MidpointOffsetCoder) else 1 - 1e-6)


def test_a_nearly_horizontal_box_is_no_line_but_for_the_official_choice_of_vertices() -> None:
    box = torch.tensor([[63.0, 84.0, 4.4, 7.27, -1.5557]])
    anchor = boxes_to_hbb(box)
    for official, overlap in ((False, 0.95), (True, 0.05)):
        coder = MidpointOffsetCoder(official_ties=official)
        decoded = coder.decode(anchor, coder.encode(anchor, box))
        assert (rotated_iou(decoded, box).item() > overlap) is not official


def test_periodic_offsets_go_on_where_those_of_an_upright_box_jump() -> None:
    coder = MidpointOffsetCoder(periodic=True)
    boxes = torch.tensor([[50.0, 50, 30, 30, -0.04], [50.0, 50, 30, 30, 0.04]])
    anchor = boxes_to_hbb(boxes[:1]).expand(2, 4)
    before, after = coder.encode(anchor, boxes)
    assert (before - after)[4:].abs().min() > 1.8  # in deviations, of which a side has two
    beyond = coder.nearest(after[None], before[None])
    assert (beyond[0] - before)[4:].abs().max() < 0.2
    torch.testing.assert_close(coder.nearest(after[None], after[None]), after[None])
    back = coder.decode(anchor[:1], beyond)
    torch.testing.assert_close(back, coder.decode(anchor[:1], after[None]))
    assert rotated_iou(back, boxes[1:]).item() > 0.95
    official = MidpointOffsetCoder()
    assert torch.equal(official.nearest(after[None], before[None]), after[None])
    mean = official.decode(anchor[:1], (before + after)[None] / 2)
    assert rotated_iou(mean, boxes[:1]).item() < 0.8  # what is learnt without: a diamond


def test_any_midpoint_offsets_make_a_rectangle_inside_no_wild_bounds() -> None:
    torch.manual_seed(0)
    anchors = boxes_to_hbb(boxes_of(0, 200))
    decoded = MidpointOffsetCoder().decode(anchors, 20 * torch.randn(200, 6, dtype=torch.float64))
    assert decoded.isfinite().all()
    quads = boxes_to_quads(decoded)
    diagonals = (quads[:, [0, 1]] - quads[:, [2, 3]]).norm(dim=-1)
    torch.testing.assert_close(diagonals[:, 0], diagonals[:, 1])
    sides = anchors[:, 2:] - anchors[:, :2]
    assert (decoded[:, 2:4].amax(1) <= 2 * sides.amax(1) / 0.016).all()


def test_the_sense_of_the_angle_mirrors_its_delta() -> None:
    anchor = torch.tensor([[50.0, 50, 40, 10, 0.2]])
    turned = torch.tensor([[50.0, 50, 40, 10, 0.25]])
    for clockwise, sign in ((True, 1), (False, -1)):
        delta = RotatedDeltaCoder(clockwise=clockwise).encode(anchor, turned)
        torch.testing.assert_close(delta, torch.tensor([[0.0, 0, 0, 0, sign * 0.5]]))
    swapped = torch.tensor([[50.0, 50, 10, 40, 0.25 + math.pi / 2]])
    torch.testing.assert_close(
        RotatedDeltaCoder().encode(anchor, swapped)[0, :4], torch.zeros(4), atol=1e-6, rtol=0
    )


def test_upright_boxes_lie_the_other_way_round_in_s5() -> None:
    upright = torch.tensor([[0.0, 0, 10, 40, 0]])
    assert float(representative(upright, "le90")[0, 4]) == pytest.approx(-math.pi / 2)
    assert float(representative(upright, "s5")[0, 4]) == pytest.approx(math.pi / 2)


def test_pooling_reads_each_image_and_enlarges_only_what_it_reads() -> None:
    features = [torch.arange(2.0)[:, None, None, None].expand(2, 1, 32, 32)]
    pool = RotatedRoIPool(strides=[4], output_size=2)
    boxes = [torch.tensor([[64.0, 64, 20, 20, 0.3]]), torch.tensor([[64.0, 64, 8, 8, 0]] * 2)]
    assert pool(features, boxes).flatten(1).mean(1).tolist() == [0, 1, 1]
    assert pool(features, [torch.zeros(0, 5)] * 2).shape == (0, 1, 2, 2)
    ramp = [torch.arange(32.0).expand(1, 1, 32, 32)]
    box = [torch.tensor([[64.0, 64, 40, 40, 0]])]
    plain, wide = (RotatedRoIPool([4], 2, 2, f)(ramp, box) for f in ((1.0, 1.0), (1.5, 1.0)))
    step = (plain[..., 1] - plain[..., 0]).mean()
    torch.testing.assert_close((wide[..., 1] - wide[..., 0]).mean(), 1.5 * step)


def test_suppression_is_class_by_class_and_a_box_may_be_several_things() -> None:
    boxes = torch.tensor([[50.0, 50, 20, 10, 0], [51.0, 50, 20, 10, 0], [90.0, 50, 20, 10, 0]])
    scores = torch.tensor([[0.9, 0.3], [0.8, 0.01], [0.04, 0.6]])
    found = class_wise_nms(boxes, scores, score_threshold=0.05, iou_threshold=0.5)
    assert found.labels.tolist() == [0, 1, 1]
    assert found.boxes[:, 0].tolist() == [50, 90, 50]
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.6, 0.3]))
    assert len(class_wise_nms(boxes, scores, max_detections=2)) == 2
    corners = boxes_to_hbb(boxes)
    assert class_wise_nms(corners, scores, 0.05, 0.5).labels.tolist() == [0, 1, 1]
    none = class_wise_nms(boxes[:0], scores[:0])
    assert none.boxes.shape == (0, 5)


def test_groups_stay_apart_where_coordinates_are_negative() -> None:
    boxes = torch.tensor([[0.0, 0, 100, 100], [-101.0, -101, -1, -1], [5.0, 0, 100, 100]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    assert nms_by_group(boxes, scores, torch.tensor([0, 1, 0]), 0.5).tolist() == [0, 1]
    assert nms_by_group(boxes, scores, torch.tensor([0, 1, 1]), 0.5).tolist() == [0, 1, 2]
    assert len(nms_by_group(boxes[:0], scores[:0], torch.zeros(0).long(), 0.5)) == 0
