"""Agreement with tensors recorded from the official S5 implementation.

Every fixture of a kind that this package claims (``parity_claims.json``) is checked, wherever it
comes from: the shared folder, or the small copies in ``data/parity``. The JSON beside the tensors
gives the kind, the configuration and the tolerances; a tensor that no check reads is a failure.
"""

import functools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from swath.core.backbones.vit import ViT
from swath.core.checkpoint.official import load_strict
from swath.core.detection import MidpointOffsetCoder, RotatedDeltaCoder
from swath.core.detection.nms import SMALLEST_SIDE, nms
from swath.core.heads import UPerNet
from swath.core.models.segmentation import SegmentationModel
from swath.core.models.segmentation import remap_official_keys as remap_s4p_keys
from swath.core.structures import Detections
from swath.kernels import (
    box_areas,
    boxes_to_hbb,
    boxes_to_quads,
    boxes_to_s5,
    convert_boxes,
    hbb_to_boxes,
    quad_areas,
    quads_to_boxes,
    quads_to_hbb,
    roi_align_rotated,
    rotated_iou,
    rotated_nms,
    s5_to_boxes,
)
from swath.moe.models import mdf_detector
from swath.moe.models.mdf import MDFSegmenter, official_keys, remap_official_keys, s4p_to_moe
from swath.moe.models.mdf_detector import MDFDetector, backbone_to_moe
from swath.moe.models.oriented_rcnn import OrientedRCNNHead, ProposalSettings
from swath.moe.models.vit_moe import TaskFeedForward, ViTMoE

pytestmark = pytest.mark.parity

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("SWATH_PARITY_DIR", HERE.parents[3] / "shared" / "parity"))
CLAIMED: list[str] = json.loads((HERE / "parity_claims.json").read_text())["s5"]["kinds"]


class Fixture:
    """One recorded case: its manifest, and tensors that remember whether they were read."""

    def __init__(self, path: Path) -> None:
        self.manifest: dict[str, Any] = json.loads(path.read_text())
        self.config: dict[str, Any] = self.manifest["config"]
        self.tensors = load_file(path.with_suffix(".safetensors"))
        self.unread = set(self.tensors)
        self.largest = 0.0

    def __getitem__(self, name: str) -> Tensor:
        self.unread.discard(name)
        return self.tensors[name]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Tensors under a prefix, by the rest of their names."""
        names = [name for name in self.tensors if name.startswith(prefix)]
        return {name.removeprefix(prefix): self[name] for name in names}

    def check(self, name: str, got: Tensor, kind: str | None = None) -> None:
        """Compare with the recorded tensor, by the manifest's tolerance (of a kind of tensor)."""
        self.compare(name, got.detach(), self[name], kind)

    def compare(self, name: str, got: Tensor, want: Tensor, kind: str | None = None) -> None:
        """The same of two tensors."""
        tolerance = self.manifest["tolerance"]
        tolerance = tolerance if kind is None else tolerance[kind]
        if want.numel():
            self.largest = max(self.largest, float((got - want).abs().max()))
        torch.testing.assert_close(
            got,
            want,
            rtol=tolerance.get("rtol", 0.0),
            atol=tolerance["atol"],
            msg=lambda text: f"{name}: {text}",
        )

    def check_boxes(self, name: str, got: Tensor) -> None:
        """Compare rectangles, given as S5 has them, whatever side comes first."""
        self.compare_boxes(name, got, self[name])

    def compare_boxes(self, name: str, got: Tensor, want: Tensor) -> None:
        """Corners of rectangles, each matched with the nearest of the other's."""
        ours, theirs = (boxes_to_quads(s5_to_boxes(b.double())) for b in (got, want))
        # a rectangle's corners begin at one of four and run on
        turns = torch.stack([ours.roll(k, -2) for k in range(4)])
        far = (turns - theirs).abs().amax((-1, -2))
        nearest = turns[far.argmin(0), torch.arange(len(ours))]
        self.compare(name, nearest, theirs)


def found() -> dict[str, Path]:
    folders = (HERE / "data/parity", SHARED / "s5")  # the shared one wins
    paths = [path for folder in folders for path in sorted(folder.glob("*.json"))]
    return {path.stem: path for path in paths if json.loads(path.read_text())["kind"] in CLAIMED}


def task_names(config: dict[str, Any]) -> list[str]:
    """The names of the experts; officially there may be more experts than names."""
    return list(config["task_names"])


def vit_arguments(config: dict[str, Any]) -> dict[str, Any]:
    """The manifest's arguments of the backbone in our spelling."""
    renamed = {"num_expert": "num_experts"}
    arguments = {renamed.get(k, k): v for k, v in config.items() if k != "task_names"}
    return arguments | {"coarse_neck": config.get("patch_size") == 8}


def check_moe_ffn(case: Fixture) -> None:
    config = case.config
    ffn = TaskFeedForward(
        config["embed_dims"], config["hidden"], config["num_expert"], config["part_features"]
    )
    load_strict(ffn, case.group("state/"))
    x, identity, names = case["in/x"], case["in/identity"], task_names(config)
    for number, name in enumerate(names):
        case.check(f"out/{name}", identity + ffn(x, number))
        case.check(f"out/{name}_no_identity_given", x + ffn(x, number))
    samples = torch.cat([x] * len(names))  # all tasks in one call
    ids = torch.arange(len(names)).repeat_interleave(len(x))
    for name, part in zip(names, (samples + ffn(samples, ids)).split(len(x)), strict=True):
        case.check(f"out/{name}_no_identity_given", part)


def check_vit_moe_backbone(case: Fixture) -> None:
    model = ViTMoE(**vit_arguments(case.config)).eval()
    load_strict(model, case.group("state/"))
    image, names = case["in/image"], task_names(case.config)
    with torch.no_grad():
        single = {name: model(image, number) for number, name in enumerate(names)}
        ids = torch.arange(len(names)).repeat_interleave(len(image))
        mixed = model(torch.cat([image] * len(names)), ids)
    for number, name in enumerate(names):
        rows = slice(number * len(image), (number + 1) * len(image))
        for i, (alone, together) in enumerate(zip(single[name], mixed, strict=True)):
            case.check(f"out/{name}/feat{i}", alone)
            case.check(f"out/{name}/feat{i}", together[rows])


def mdf_of(config: dict[str, Any], classes: dict[str, int]) -> MDFSegmenter:
    backbone = ViTMoE(**vit_arguments(config["vit"]))
    return MDFSegmenter(
        backbone, classes, config["decoder_channels"], dead_classifier=True, crop_padding=False
    ).eval()


def check_seg_mdf_end_to_end(case: Fixture) -> None:
    names = task_names(case.config["vit"])
    classes = case.config["num_classes"]
    model = mdf_of(case.config, {name: classes[name] for name in names})
    state = case.group("state/")
    load_strict(model, remap_official_keys(state))
    assert set(official_keys(model.state_dict())) == set(state)
    image = case["in/image"]
    ids = torch.arange(len(names)).repeat_interleave(len(image))
    with torch.no_grad():
        mixed = model(torch.cat([image] * len(names)), ids)
        for number, name in enumerate(names):
            alone = model(image, number)
            assert list(alone.by_task) == [name]
            case.check(f"out/logits_{name}", alone.by_task[name])
            case.check(f"out/logits_{name}", mixed.by_task[name])


def check_s4p_to_moe_transfer(case: Fixture) -> None:
    names, vit = task_names(case.config["vit"]), case.config["vit"]
    expected = remap_official_keys(case.group("state/"))
    heads = {name: len(expected[f"classifiers.{name}.bias"]) for name in names}
    model = mdf_of(case.config, heads)
    before = remap_official_keys(case.group("before/"))
    assert set(remap_official_keys(dict.fromkeys(case.manifest["unchanged"]))) == set(before)
    s4p = case.group("s4p/")
    converted = s4p_to_moe(s4p, names, vit["num_expert"], vit["part_features"])
    load_strict(model, converted | before)
    for name, value in model.state_dict().items():
        case.check(f"state/{next(iter(official_keys({name: None})))}", value)

    twin = ViT(**{k: v for k, v in vit_arguments(vit).items() if k not in MOE_ONLY})
    decoder = UPerNet(twin.channels, case.config["decoder_channels"], dead_classifier=True)
    theirs = remap_s4p_keys(s4p)
    original = SegmentationModel(twin, decoder, len(theirs["classifier.bias"])).eval()
    load_strict(original, theirs)
    height, width = (vit["img_size"],) * 2 if isinstance(vit["img_size"], int) else vit["img_size"]
    image = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = original.decoder(original.backbone(image))
        for number, name in enumerate(names):
            own = model.decoders[name](model.backbone(image, number))
            torch.testing.assert_close(own, features, rtol=1e-5, atol=1e-5)


def check_det_box_forms(case: Fixture) -> None:
    obb, hbb, quad = case["in/obb"], case["in/hbb"], case["in/quad"]
    boxes = s5_to_boxes(obb)
    case.check_boxes("out/regular_obb", boxes_to_s5(boxes))
    flat = torch.tensor([0.0, 0.0, 2.0, 1.0]).expand(len(obb), 4)
    bars = torch.cat((flat, obb[:, 4:]), 1)
    regular = torch.cat((flat, case["out/regular_theta"][:, None]), 1)
    case.compare_boxes("out/regular_theta", boxes_to_s5(s5_to_boxes(bars)), regular)
    # recorded of three times the angle; over a full turn corners keep their order too
    bars[:, 4] *= 3
    regular[:, 4] = case["out/regular_theta_360"]
    ours, theirs = (boxes_to_quads(s5_to_boxes(b)) for b in (bars, regular))
    case.compare("out/regular_theta_360", ours, theirs)
    case.check_boxes("out/mintheta_obb", boxes_to_s5(boxes))
    # officially the corners run counter-clockwise on screen from the box's right upper one
    ours = boxes_to_quads(boxes)[:, [1, 2, 3, 0]].flatten(1)
    case.check("out/obb2poly", ours)
    case.check("out/obb2hbb", boxes_to_hbb(boxes))
    again = quads_to_boxes(boxes_to_quads(s5_to_boxes(boxes_to_s5(boxes))))
    case.check_boxes("out/rectpoly2obb_of_obb2poly_regular", boxes_to_s5(again))
    case.check_boxes("out/hbb2obb", boxes_to_s5(hbb_to_boxes(hbb)))
    case.check("out/hbb2poly", convert_boxes(hbb, "hbb", "polygons"))
    case.check("out/poly2hbb_quad", quads_to_hbb(quad))
    case.check("out/area_obb", box_areas(boxes))
    case.check("out/area_quad", quad_areas(quad))
    smallest, theirs = quads_to_boxes(quad), s5_to_boxes(case["out/poly2obb_quad"])
    overlap = rotated_iou(smallest.double(), theirs.double(), aligned=True)
    no_larger = box_areas(smallest) <= box_areas(theirs) * 1.0001
    assert ((overlap > 0.999) | no_larger).all()


def check_coder(case: Fixture, coder: Any, anchors: Tensor) -> None:
    boxes = s5_to_boxes(case["in/gt_obb"])
    encoded = coder.encode(anchors, boxes)
    case.check("out/encoded", encoded)
    case.check_boxes("out/decoded_of_encoded", boxes_to_s5(coder.decode(anchors, encoded)))
    decoded = coder.decode(anchors, case["in/random_deltas"])
    case.check_boxes("out/decoded_random", boxes_to_s5(decoded))


def check_det_midpoint_offset_coder(case: Fixture) -> None:
    config = case.config
    coder = MidpointOffsetCoder(
        config["means"],
        config["stds"],
        config["wh_ratio_clip"],
        config["da_db_clamp"],
        "s5",
        official_ties=True,
    )
    check_coder(case, coder, case["in/anchors_xyxy"])


def check_det_obb_delta_coder(case: Fixture) -> None:
    config = case.config
    coder = RotatedDeltaCoder(
        config["means"], config["stds"], config["wh_ratio_clip"], clockwise=False, version="s5"
    )
    check_coder(case, coder, s5_to_boxes(case["in/proposals_obb"]))


def check_det_rotated_ops(case: Fixture) -> None:
    a, b = s5_to_boxes(case["in/a"]), s5_to_boxes(case["in/b"])
    for mode in ("iou", "iof"):
        case.check(f"out/{mode}", rotated_iou(a, b, mode=mode, min_size=SMALLEST_SIDE), "iou")
    boxes, scores = s5_to_boxes(case["in/nms_boxes"]), case["in/nms_scores"]
    labels = case["in/nms_labels"]
    for name in [n for n in case.tensors if n.startswith("out/nms_keep_")]:
        threshold = name.removeprefix("out/nms_keep_")
        keep = rotated_nms(boxes, scores, float(threshold), min_size=SMALLEST_SIDE)
        assert torch.equal(keep, case[name])
        keep = nms(Detections(boxes, scores, labels), float(threshold))
        assert torch.equal(keep, case[f"out/batched_nms_keep_{threshold}"])
        found = torch.cat((case["in/nms_boxes"], scores[:, None]), 1)[keep]
        assert torch.equal(found, case[f"out/batched_nms_dets_{threshold}"])
    rois = case["in/rois"]
    for name in [n for n in case.tensors if n.startswith("out/roi_align_")]:
        height, width, samples, scale = re.findall(r"(\d+)x(\d+)_s(\d+)_(\w+)_scale", name)[0]
        got = roi_align_rotated(
            case["in/roi_feat"],
            rois,
            (int(height), int(width)),
            0.5 ** ("full", "half", "quarter", "eighth", "sixteenth").index(scale),
            int(samples),
            clockwise=False,
        )
        case.check(name, got, "roi_align")


def check_det_oriented_rcnn_mtd(case: Fixture) -> None:
    config, names = case.config, task_names(case.config)
    backbone = ViTMoE(
        num_experts=config["num_expert"],
        part_features=config["part_features"],
        img_size=config["img_size"],
        patch_size=config["patch_size"],
        embed_dims=config["embed_dims"],
        num_layers=config["layers"],
        num_heads=config["heads"],
        mlp_ratio=config["mlp_ratio"],
        out_indices=config["out_indices"],
        coarse_neck=config["patch_size"] == 8,
    )
    rpn = config["rpn_proposal"]
    everything = 100_000  # no random choice among samples
    model = MDFDetector(
        backbone,
        {name: config["num_classes"][name] for name in names},
        channels=config["fpn_channels"],
        fc_channels=config["fc_channels"],
        proposals=ProposalSettings(
            rpn["nms_pre"], rpn["nms_thr"], min(rpn["nms_post"], rpn["max_num"])
        ),
        rpn_samples=everything,
        roi_samples=everything,
        official_ties=True,
    ).eval()
    state = case.group("state/")
    load_strict(model, mdf_detector.remap_official_keys(state))
    assert set(mdf_detector.official_keys(model.state_dict())) == set(state)
    for number, name in enumerate(names):
        with torch.no_grad():
            check_branch(case, model, name, number)


def check_branch(case: Fixture, model: MDFDetector, name: str, number: int) -> None:
    image = case[f"{name}/in/image"]
    head = model.heads[name]
    assert isinstance(head, OrientedRCNNHead)
    boxes, labels = s5_to_boxes(case[f"{name}/in/gt_obb"]), case[f"{name}/in/gt_labels"]
    sizes = [(image.shape[-2], image.shape[-1])]
    compare = functools.partial(case.check, kind="features")
    case.compare(f"{name}/in/gt_hbb", boxes_to_hbb(boxes), case[f"{name}/in/gt_hbb"], "features")

    features = head.neck(model.backbone(image, number))
    maps = head.rpn_head(features)
    for level, (feature, (logits, deltas)) in enumerate(zip(features, maps, strict=True)):
        compare(f"{name}/mid/fpn{level}", feature)
        compare(f"{name}/mid/rpn_cls{level}", logits)
        compare(f"{name}/mid/rpn_reg{level}", deltas)
    anchors = head.rpn_head.anchors([(x.shape[-2], x.shape[-1]) for x, _ in maps])
    compare(f"{name}/mid/anchors", torch.cat(anchors))
    first = head.rpn_head.losses(maps, sizes, [boxes])
    for ours, theirs in (("rpn_cls", "loss_rpn_cls"), ("rpn_box", "loss_rpn_bbox")):
        for level, loss in enumerate(first[ours]):
            case.check(f"{name}/out/{theirs}_{level}", loss, "losses")
    ((found, scores),) = head.rpn_head.propose(maps)
    check_ranked(f"{name} proposals", found, scores, case[f"{name}/out/proposals"], top=20)

    proposals = s5_to_boxes(case[f"{name}/in/second_stage_proposals"])
    roi = head.roi_head
    pooled = roi.pool(features, [proposals])
    cls_score, bbox_pred = roi(pooled)
    compare(f"{name}/mid/roi_feats", pooled)
    compare(f"{name}/mid/cls_score", cls_score)
    compare(f"{name}/mid/bbox_pred", bbox_pred)
    for level in range(len(features) - 1):  # a map read alone gives the features of its own rois
        own = case[f"{name}/mid/roi_level"] == level
        alone = [x * float(i == level) for i, x in enumerate(features)]
        torch.testing.assert_close(roi.pool(alone, [proposals])[own], pooled[own])
    second = roi.losses(features, [proposals], [boxes], [labels])
    case.check(f"{name}/out/roi_loss_cls", second["roi_cls"][None], "losses")
    case.check(f"{name}/out/roi_loss_bbox", second["roi_box"][None], "losses")
    case.check(f"{name}/out/roi_acc", 100 * second["roi_accuracy"][None], "losses")
    (detected,) = roi.detect(features, [proposals], *head.thresholds)
    want = case[f"{name}/out/dets_from_second_stage_proposals"]
    assert abs(len(detected) - len(want)) <= 1
    labels_of = (detected.labels, case[f"{name}/out/det_labels"])
    check_ranked(f"{name} detections", detected.boxes, detected.scores, want, labels=labels_of)


def check_ranked(
    name: str,
    boxes: Tensor,
    scores: Tensor,
    want: Tensor,
    top: int | None = None,
    labels: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Every recorded box is among ours, with its score and its label."""
    want = want[:top]
    ours, theirs = boxes_to_quads(boxes), boxes_to_quads(s5_to_boxes(want[:, :5]))
    turns = torch.stack([ours.roll(k, -2) for k in range(4)])[:, None]  # (4, 1, N, 4, 2)
    far = (turns - theirs[:, None]).abs().amax((-1, -2)).amin(0)  # (M, N)
    far = torch.maximum(far, (scores - want[:, 5:]).abs() * 50)
    if labels is not None:
        far = far + (labels[0] != labels[1][:, None]) * 1e3
    missing = int((far.amin(1) > 0.05).sum())
    assert missing <= (0 if top else 1), f"{name}: {missing} of {len(want)} are not ours"


def check_det_backbone_from_s4p(case: Fixture) -> None:
    model = ViTMoE(**vit_arguments(case.config["target"])).eval()
    source = case.group("s4p_backbone/")
    converted = backbone_to_moe(source, model.grid, model.num_experts, model.part_features)
    load_strict(model, converted)
    for name, value in model.state_dict().items():
        case.check(f"state/{name}", value)


MOE_ONLY = ("num_experts", "part_features")

CHECKS: dict[str, Callable[[Fixture], None]] = {
    "det_backbone_from_s4p": check_det_backbone_from_s4p,
    "det_box_forms": check_det_box_forms,
    "det_midpoint_offset_coder": check_det_midpoint_offset_coder,
    "det_obb_delta_coder": check_det_obb_delta_coder,
    "det_oriented_rcnn_mtd": check_det_oriented_rcnn_mtd,
    "det_rotated_ops": check_det_rotated_ops,
    "moe_ffn": check_moe_ffn,
    "s4p_to_moe_transfer": check_s4p_to_moe_transfer,
    "seg_mdf_end_to_end": check_seg_mdf_end_to_end,
    "vit_moe_backbone": check_vit_moe_backbone,
}


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("name", found())
def test_agrees_with_the_official_implementation(
    name: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWATH_KERNELS", backend)
    case = Fixture(found()[name])
    CHECKS[case.manifest["kind"]](case)
    assert not case.unread, f"nobody reads {sorted(case.unread)}"
    print(f"{name}, {backend}: {case.largest:.1e}")


def test_every_claimed_kind_has_a_check_and_a_small_copy_covers_the_backbone() -> None:
    assert sorted(CHECKS) == sorted(CLAIMED)
    kinds = {json.loads(p.read_text())["kind"] for p in (HERE / "data/parity").glob("*.json")}
    small = {"det_midpoint_offset_coder", "det_obb_delta_coder", "det_rotated_ops"}
    assert kinds == {"moe_ffn", "vit_moe_backbone"} | small  # the others are large
