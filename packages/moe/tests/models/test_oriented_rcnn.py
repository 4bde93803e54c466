from pathlib import Path

import pytest
import torch
from torchvision.models import resnet50

from swath.core import load_model, zoo
from swath.core.data.catalogue import dataset_spec
from swath.core.detection import AnchorGenerator
from swath.core.errors import CheckpointError
from swath.kernels import boxes_to_hbb, rotated_iou
from swath.moe.models.oriented_rcnn import (
    PRESETS,
    OrientedRCNN,
    OrientedRPN,
    ProposalSettings,
    RotatedRoIHead,
    oriented_rcnn_r50,
    remap_mmrotate_keys,
    remap_official_keys,
)


def mmrotate_state() -> dict[str, torch.Tensor]:
    """A checkpoint as mmrotate writes it: torchvision's ResNet, and heads under its names."""
    torch.manual_seed(0)
    state = {f"backbone.{k}": v for k, v in resnet50().state_dict().items() if "fc." not in k}
    for i, channels in enumerate((256, 512, 1024, 2048)):
        state[f"neck.lateral_convs.{i}.conv.weight"] = torch.randn(256, channels, 1, 1) * 0.02
        state[f"neck.fpn_convs.{i}.conv.weight"] = torch.randn(256, 256, 3, 3) * 0.02
        for part in ("lateral", "fpn"):
            state[f"neck.{part}_convs.{i}.conv.bias"] = torch.zeros(256)
    shapes = {
        "rpn_head.rpn_conv": (256, 256, 3, 3),
        "rpn_head.rpn_cls": (3, 256, 1, 1),
        "rpn_head.rpn_reg": (18, 256, 1, 1),
        "roi_head.bbox_head.shared_fcs.0": (1024, 12544),
        "roi_head.bbox_head.shared_fcs.1": (1024, 1024),
        "roi_head.bbox_head.fc_cls": (16, 1024),
        "roi_head.bbox_head.fc_reg": (5, 1024),
    }
    for name, shape in shapes.items():
        state[f"{name}.weight"] = torch.randn(shape) * 0.01
        state[f"{name}.bias"] = torch.zeros(shape[0])
    return state


def test_a_checkpoint_of_mmrotate_loads_by_name_and_computes_its_backbone(tmp_path: Path) -> None:
    state = mmrotate_state()
    path = tmp_path / "oriented_rcnn_r50.pth"
    torch.save({"meta": {"epoch": 12}, "state_dict": state}, path)
    predictor = load_model("oriented-rcnn-r50-dota", weights=path, device="cpu")
    model = predictor.model
    assert isinstance(model, OrientedRCNN)
    count = sum(p.numel() for p in model.parameters())
    assert count == zoo.card("oriented-rcnn-r50-dota").params
    twin = resnet50().eval()
    twin.load_state_dict({k[9:]: v for k, v in state.items() if "backbone." in k}, strict=False)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        x = twin.maxpool(twin.relu(twin.bn1(twin.conv1(image))))
        for got, stage in zip(model.backbone(image), (1, 2, 3, 4), strict=True):
            x = getattr(twin, f"layer{stage}")(x)
            torch.testing.assert_close(got, x, rtol=1e-4, atol=1e-4)
    assert sorted(predictor.classes) == sorted(dataset_spec("dota").protocol("v1.0").classes)
    (found,) = model(image, [(64, 64)])
    assert found.boxes.shape[1] == 5


def test_keys_that_fit_none_are_reported(tmp_path: Path) -> None:
    state = mmrotate_state()
    state["roi_head.bbox_head.fc_angle.weight"] = torch.zeros(1)
    path = tmp_path / "other.pth"
    torch.save({"state_dict": state}, path)
    with pytest.raises(CheckpointError, match=r"1 unexpected: head\.roi_head\.fc_angle"):
        load_model("oriented-rcnn-r50-dota", weights=path, device="cpu")


def test_presets_differ_in_the_sense_of_angles_and_in_what_regions_read() -> None:
    with torch.device("meta"):
        ours = oriented_rcnn_r50()
        theirs = OrientedRCNN(ours.backbone, 15, preset="s5")
    assert set(remap_mmrotate_keys(mmrotate_state())) == set(ours.state_dict())
    assert "backbone.conv1.weight" in remap_official_keys(mmrotate_state())
    assert (ours.head.roi_head.coder.sense, theirs.head.roi_head.coder.sense) == (1, -1)
    assert (ours.head.rpn_head.coder.version, theirs.head.rpn_head.coder.version) == ("le90", "s5")
    assert ours.head.roi_head.pool.enlarge == (1.0, 1.0)
    assert theirs.head.roi_head.pool.enlarge == (1.2, 1.4)


def test_anchors_across_the_border_are_learnt_from_where_asked() -> None:
    generator = AnchorGenerator((16,), scale=4)
    maps = [(torch.zeros(1, 3, 3, 3), torch.zeros(1, 18, 3, 3))]
    corner = torch.tensor([[4.0, 4.0, 60.0, 60.0, 0.0]])
    for inside_only in (True, False):
        rpn = OrientedRPN(8, generator, "le90", ProposalSettings(), inside_only=inside_only)
        losses = rpn.losses(maps, [(48, 48)], [corner])
        assert all(bool(loss.sum() == 0) is inside_only for loss in losses.values())


def test_a_turn_through_the_upright_costs_nothing_where_offsets_are_periodic() -> None:
    generator = AnchorGenerator((16,), scale=2)
    upright, beyond = (torch.tensor([[32.0, 32.0, 32.0, 32.0, turn]]) for turn in (0.0, 0.01))
    costs = []
    for periodic in (False, True):
        rpn = OrientedRPN(8, generator, "le90", ProposalSettings(), periodic=periodic)
        offsets = rpn.coder.encode(boxes_to_hbb(upright), upright)  # of every anchor
        maps = [(torch.zeros(1, 3, 4, 4), offsets.view(1, 6, 1, 1).repeat(1, 3, 4, 4))]
        costs.append(float(rpn.losses(maps, [(64, 64)], [beyond])["rpn_box"].sum()))
    print(f"cost {costs[0]:.2f}, periodic {costs[1]:.2f}")
    assert costs[1] < 0.5 * costs[0]


def test_a_lower_threshold_gives_an_object_more_anchors() -> None:
    generator = AnchorGenerator((8,), scale=4)
    shifted = torch.tensor([[36.0, 36.0, 32.0, 32.0, 0.0]])
    maps = [(torch.zeros(1, 3, 9, 9), torch.ones(1, 18, 9, 9))]
    costs = []
    for threshold in (0.7, 0.5):
        rpn = OrientedRPN(8, generator, "le90", ProposalSettings(), positive_iou=threshold)
        costs.append(float(rpn.losses(maps, [(72, 72)], [shifted])["rpn_box"].sum()))
    assert costs[1] > 1.5 * costs[0]  # summed over anchors, of which as many are drawn


def test_jittered_objects_teach_refinement_without_a_proposal() -> None:
    torch.manual_seed(0)
    boxes, labels = torch.tensor([[32.0, 32.0, 30.0, 14.0, 0.4]]), torch.tensor([1])
    nothing = torch.zeros(0, 5)
    for jittered in (0, 20):
        head = RotatedRoIHead(4, 3, (8,), PRESETS["s5"], samples=400, jittered=jittered)
        regions, label, target = head._sampled(nothing, boxes, labels)
        positive = regions[label == 1]
        assert len(regions) == 1 + jittered
        assert rotated_iou(positive, boxes).min() >= 0.5
        torch.testing.assert_close(
            rotated_iou(head.coder.decode(positive, target), boxes), torch.ones(len(positive), 1)
        )
        assert bool((target.abs().amax(1) > 0.5).any()) is (jittered > 0)


def test_rounds_refine_what_the_round_before_found_and_average_its_scores() -> None:
    torch.manual_seed(0)
    features, start = [torch.randn(1, 4, 8, 8)], torch.tensor([[32.0, 32.0, 30.0, 14.0, 0.4]])
    twice = RotatedRoIHead(4, 3, (8,), PRESETS["s5"], rounds=2).requires_grad_(False)
    torch.nn.init.normal_(twice.fc_cls.weight, std=0.1)
    torch.nn.init.normal_(twice.fc_reg.weight, std=0.1)
    regions, scores = start, torch.zeros(1, 3)
    for _ in range(2):
        logits, deltas = twice(twice.pool(features, [regions]))
        regions, scores = twice.coder.decode(regions, deltas), scores + logits.softmax(1)[:, :3] / 2
    (found,) = twice.detect(features, [start], 0.0, 0.5, 10)
    assert sorted(found.labels.tolist()) == [0, 1, 2]
    torch.testing.assert_close(found.boxes, regions.expand(3, 5))
    torch.testing.assert_close(found.scores, scores[0, found.labels])
