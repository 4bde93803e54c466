"""mmrotate's own code on our operators, and its detector against ours: `uvx nox -s interop`.

The suite doesn't collect this file; it needs `swath-moe[mmrotate]` and the operators in place.
"""

import collections
import json
import math
import zipfile
from pathlib import Path

import mmcv._ext
import mmrotate
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmdet.utils import register_all_modules as register_mmdet
from mmengine.config import Config
from mmengine.runner import Runner
from mmrotate.evaluation import DOTAMetric
from mmrotate.registry import MODELS
from mmrotate.utils import register_all_modules as register_mmrotate
from PIL import Image
from torch import Tensor, nn

from swath.core import load_model, zoo
from swath.core.checkpoint.official import load_strict
from swath.core.checkpoint.safe import load_file
from swath.core.detection.merge import shifted
from swath.core.detection.nms import join, nms
from swath.core.metrics.detection import DetectionMetrics
from swath.core.structures import Detections
from swath.moe.dota import OWN_IOU, submission
from swath.moe.interop.mmrotate import SwathViTMoE
from swath.moe.models.oriented_rcnn import OrientedRCNN, ProposalSettings, remap_official_keys
from swath.moe.models.vit_moe import ViTMoE

torch.set_num_threads(1)
CONFIGS = Path(mmrotate.__file__).parent / ".mim" / "configs"
ORIENTED_RCNN = CONFIGS / "oriented_rcnn/oriented-rcnn-le90_r50_fpn_1x_dota.py"
SIDE, PROPOSALS = 128, 300
TOLERANCE = 1e-4  # of the issue; of positions relative to the image's side
TINY = {
    "num_experts": 2, "part_features": 8, "img_size": 64, "embed_dims": 32, "num_layers": 4,
    "num_heads": 2, "out_indices": [0, 1, 2, 3],
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _registered() -> None:
    register_mmdet(init_default_scope=False)
    register_mmrotate(init_default_scope=True)


def oriented_rcnn() -> Config:
    """Mmrotate's own config, with nothing to download."""
    config = Config.fromfile(ORIENTED_RCNN)
    config.model.backbone.init_cfg = None
    return config


def scene() -> Tensor:
    """An image ``(1, 3, SIDE, SIDE)`` with blocks, normalised."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randn(1, 3, SIDE // 16, SIDE // 16, generator=generator)
    return nn.functional.interpolate(blocks, size=(SIDE, SIDE), mode="nearest")


def draw_weights(model: nn.Module, image: Tensor) -> None:
    """Random weights that find objects of all kinds, inside the image, with distinct scores."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            std = (2 / parameter[0].numel()) ** 0.5
            parameter.data.normal_(0, std, generator=generator)
    for module in model.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            module.train()
    with torch.no_grad():
        model.backbone(image)
        model.eval()
        features = model.extract_feat(image)
        rpn, roi = model.rpn_head, model.roi_head
        hidden = torch.cat([rpn.rpn_conv(x).relu().flatten(2) for x in features], 2)
        regions = torch.rand(64, 6, generator=generator).add(1) * SIDE / 3
        regions[:, 0], regions[:, 5] = 0, 0.3
        logits, deltas = roi.bbox_head(roi.bbox_roi_extractor(features[:4], regions))
        for layer, found, spread in (
            (rpn.rpn_cls, nn.functional.conv1d(hidden, rpn.rpn_cls.weight.flatten(2)), 2.0),
            (rpn.rpn_reg, nn.functional.conv1d(hidden, rpn.rpn_reg.weight.flatten(2)), 0.2),
            (roi.bbox_head.fc_cls, logits, 2.0),
            (roi.bbox_head.fc_reg, deltas, 0.5),
        ):
            layer.weight *= spread / found.std()


def test_the_operators_are_ours() -> None:
    assert mmcv._ext.nms_rotated.__module__ == "swath.kernels.compat.mmcv"
    assert collections.Sequence is collections.abc.Sequence


def test_oriented_rcnn_finds_what_ours_finds(tmp_path) -> None:
    image = scene()
    config = oriented_rcnn()
    config.model.test_cfg.rpn.update(nms_pre=PROPOSALS, max_per_img=PROPOSALS)
    theirs = MODELS.build(config.model)
    draw_weights(theirs, image)
    sample = DetDataSample(
        metainfo={"img_shape": (SIDE, SIDE), "ori_shape": (SIDE, SIDE), "scale_factor": (1.0, 1.0)}
    )
    with torch.no_grad():
        (found,) = theirs(image, [sample], mode="predict")
    found = found.pred_instances

    checkpoint = tmp_path / "oriented_rcnn_r50_fpn_1x_dota_le90.pth"
    state = {"meta": {"epoch": np.int64(12)}, "state_dict": theirs.state_dict()}
    torch.save(state, checkpoint)
    converted = tmp_path / "oriented_rcnn.safetensors"
    counts = zoo.convert(str(checkpoint), "oriented-rcnn-r50-dota", converted, None)
    assert counts["parameters"] == zoo.card("oriented-rcnn-r50-dota").params

    ours = load_model(converted).model.eval()
    assert isinstance(ours, OrientedRCNN)
    ours.head.rpn_head.proposals = ProposalSettings(before_nms=PROPOSALS, count=PROPOSALS)
    with torch.no_grad():
        (own,) = ours(image, [(SIDE, SIDE)])
    boxes = get_box_tensor(found.bboxes)
    print(json.dumps({"theirs": len(boxes), "ours": len(own), "classes": len(own.labels.unique())}))
    assert len(boxes) == len(own) > 30
    apart = torch.cdist(boxes[:, :4], own.boxes[:, :4], p=torch.inf)
    apart[found.labels[:, None] != own.labels] = torch.inf
    nearest = apart.argmin(1)
    assert len(nearest.unique()) == len(own)  # one to one
    turn = boxes[:, 4] - own.boxes[nearest, 4]
    turn = (turn + math.pi / 2) % math.pi - math.pi / 2  # half a turn is the same box
    worst = {
        "boxes": apart.amin(1).max().item() / SIDE,
        "angles": turn.abs().max().item(),
        "scores": (found.scores - own.scores[nearest]).abs().max().item(),
    }
    print(json.dumps(worst))
    assert max(worst.values()) <= TOLERANCE


def write_data(folder: Path) -> None:
    """Two images with bright rectangles, labelled as DOTA is."""
    for kind in ("images", "annfiles"):
        (folder / kind).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(2):
        pixels = rng.integers(0, 60, (128, 128, 3), dtype=np.uint8)
        lines = []
        for x, y in rng.integers(4, 90, (3, 2)).tolist():
            pixels[y : y + 16, x : x + 30] = 220
            corners = (x, y, x + 30, y, x + 30, y + 16, x, y + 16)
            lines.append(" ".join(f"{c:.1f}" for c in corners) + " ship 0")
        Image.fromarray(pixels).save(folder / f"images/P{i}.png")
        (folder / f"annfiles/P{i}.txt").write_text("\n".join(lines) + "\n")


def test_our_backbone_trains_inside_an_mmrotate_config(tmp_path) -> None:
    write_data(tmp_path / "dota")
    config = oriented_rcnn()
    config.custom_imports = {"imports": ["swath.moe.interop.mmrotate"]}
    config.model.backbone = {"type": "SwathViTMoE", "task": 1, **TINY}
    config.model.neck.update(in_channels=[32] * 4, out_channels=32)
    config.model.rpn_head.update(in_channels=32, feat_channels=32)
    config.model.roi_head.bbox_roi_extractor.out_channels = 32
    config.model.roi_head.bbox_head.update(in_channels=32, fc_out_channels=64)
    config.model.train_cfg.rpn_proposal.update(nms_pre=200, max_per_img=100)
    loader = config.train_dataloader
    loader.update(num_workers=0, persistent_workers=False)
    loader.dataset.update(data_root=str(tmp_path / "dota"), ann_file="annfiles/")
    loader.dataset.data_prefix = {"img_path": "images/"}
    for step in loader.dataset.pipeline:
        if step["type"] == "mmdet.Resize":
            step["scale"] = (128, 128)
    for name in ("val", "test"):
        for part in ("cfg", "dataloader", "evaluator"):
            config[f"{name}_{part}"] = None
    config.train_cfg = {"type": "IterBasedTrainLoop", "max_iters": 4}
    config.param_scheduler = None
    config.optim_wrapper.optimizer = {"type": "AdamW", "lr": 1e-3, "weight_decay": 0.0}
    config.default_hooks.logger.interval = 1
    config.default_hooks.checkpoint.update(by_epoch=False, interval=4)
    config.log_processor.by_epoch = False
    config.work_dir, config.launcher, config.visualizer = str(tmp_path / "run"), "none", None

    config.randomness = {"seed": 0}
    runner = Runner.from_cfg(config)
    backbone = runner.model.backbone
    assert isinstance(backbone, SwathViTMoE)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    runner.train()
    losses = runner.message_hub.get_scalar("train/loss").data[0]
    print(json.dumps({"losses": [round(float(x), 4) for x in losses]}))
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    changed = {k for k, v in backbone.state_dict().items() if not torch.equal(v, before[k])}
    experts = {k for k in changed if k.startswith("layers.0.ffn.experts.")}
    assert experts == {f"layers.0.ffn.experts.1.{part}" for part in ("weight", "bias")}

    ours = OrientedRCNN(ViTMoE(**TINY), 15, preset="mmrotate", channels=32, fc_channels=64)
    state = load_file(tmp_path / "run/iter_4.pth")
    load_strict(ours, remap_official_keys(state), where="iter_4.pth")


def test_the_backbone_begins_with_the_weights_of_its_checkpoint(tmp_path) -> None:
    source = ViTMoE(**TINY).eval()
    path = tmp_path / "detector.pth"
    torch.save({"state_dict": {f"backbone.{k}": v for k, v in source.state_dict().items()}}, path)
    built = MODELS.build({"type": "SwathViTMoE", "task": 1, "weights": str(path), **TINY}).eval()
    built.init_weights()
    with torch.no_grad():
        for own, map_ in zip(source(scene(), 1), built(scene()), strict=True):
            assert torch.equal(own, map_)
    with pytest.raises(ValueError, match="task=2 must be an expert, of which there are 2"):
        SwathViTMoE(task=2, **TINY)


CLASSES = ("plane", "ship", "harbor")


def objects(generator: torch.Generator, count: int) -> Detections:
    """Random boxes of all classes in a tile of 200 px, with distinct scores."""
    low, high = torch.tensor([[20, 20, 10, 6, -1.5], [180, 180, 60, 30, 1.5]])
    boxes = low + (high - low) * torch.rand(count, 5, generator=generator)
    scores = (torch.randperm(count, generator=generator) + 1) / (count + 1)
    return Detections(boxes, scores, torch.randint(3, (count,), generator=generator))


def as_mmrotate(name: str, found: Detections, **truth: dict[str, Tensor]) -> dict:
    """What its metric takes."""
    instances = {"bboxes": found.boxes, "scores": found.scores, "labels": found.labels}
    nothing = {"bboxes": torch.zeros(0, 5), "labels": torch.zeros(0, dtype=torch.int64)}
    default = {"gt_instances": nothing, "ignored_instances": nothing}
    return {"img_id": name, "pred_instances": instances, **default, **truth}


@pytest.mark.parametrize(("protocol", "mode"), [("voc07", "11points"), ("voc12", "area")])
def test_average_precision_is_that_of_its_metric(protocol, mode) -> None:
    generator = torch.Generator().manual_seed(3)
    ours = DetectionMetrics(CLASSES, protocol)
    theirs = DOTAMetric(iou_thrs=0.5, eval_mode=mode)
    theirs.dataset_meta = {"classes": CLASSES}
    for number in range(30):
        truth = objects(generator, 12)
        near = truth.boxes + torch.randn(12, 5, generator=generator) * torch.tensor(
            [3, 3, 3, 3, 0.1]
        )
        scores = torch.rand(12, generator=generator)
        found = join([Detections(near, scores, truth.labels), objects(generator, 6)])
        difficult = torch.rand(12, generator=generator) < 0.2
        parts = [
            {"bboxes": truth.boxes[k], "labels": truth.labels[k]} for k in (~difficult, difficult)
        ]
        sample = as_mmrotate(str(number), found, gt_instances=parts[0], ignored_instances=parts[1])
        theirs.process([], [sample])
        targets = {"boxes": [truth.boxes], "labels": [truth.labels], "difficult": [difficult]}
        ours.update([found], targets)
    figures = {
        "theirs": theirs.compute_metrics(theirs.results)["mAP"],
        "ours": ours.compute()["mAP"],
    }
    print(json.dumps(figures))
    assert 0.2 < figures["theirs"] < 0.9
    assert figures["ours"] == pytest.approx(figures["theirs"], abs=1e-6)


def test_tiles_are_put_together_as_its_metric_does(tmp_path) -> None:
    generator = torch.Generator().manual_seed(4)
    theirs = DOTAMetric(
        merge_patches=True, iou_thr=OWN_IOU, outfile_prefix=str(tmp_path / "theirs")
    )
    theirs.dataset_meta = {"classes": CLASSES}
    merged = {}
    for scene_name in ("P0001", "P0002"):
        tiles = {(0, 0): objects(generator, 40), (120, 0): objects(generator, 40)}
        for (x, y), found in tiles.items():
            theirs.process([], [as_mmrotate(f"{scene_name}__200__{x}___{y}", found)])
        everything = join([shifted(found, x, y) for (x, y), found in tiles.items()])
        merged[scene_name] = everything.select(nms(everything, OWN_IOU))
    theirs.compute_metrics(theirs.results)
    submission(merged, CLASSES, tmp_path / "ours.zip")

    lines = {
        "theirs": objects_of(tmp_path / "theirs/theirs.zip"),
        "ours": objects_of(tmp_path / "ours.zip"),
    }
    print(json.dumps({who: {k: len(v) for k, v in found.items()} for who, found in lines.items()}))
    assert lines["theirs"].keys() == lines["ours"].keys()
    for name, found in lines["theirs"].items():
        own = lines["ours"][name]
        assert [where for where, _, _ in found] == [where for where, _, _ in own]
        for where, score, quad in found:
            rivals = [row for row in own if row[0] == where]
            apart = [np.abs(quad[:, None] - row[2]).max(2).min(1).max() for row in rivals]
            assert min(apart) <= 0.02  # whichever corner comes first
            nearest = rivals[int(np.argmin(apart))]
            assert nearest[1] == pytest.approx(score, abs=0.0051)  # theirs has two digits


def objects_of(archive: Path) -> dict[str, list[tuple[str, float, np.ndarray]]]:
    """Scene, score and corners ``(4, 2)`` of every line of every class's file, by scene."""
    found = {}
    with zipfile.ZipFile(archive) as files:
        for name in files.namelist():
            words = [line.split() for line in files.read(name).decode().splitlines()]
            rows = [(w[0], float(w[1]), np.reshape(w[2:], (4, 2)).astype(float)) for w in words]
            found[name] = sorted(rows, key=lambda row: row[0])
    return found
