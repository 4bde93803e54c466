"""Oriented R-CNN: proposals by midpoint offsets, then rotated regions, classified and refined.

Paper: Oriented R-CNN for Object Detection, Xie et al. 2021, arXiv:2108.05699.
Official code: https://github.com/jbwang1997/OBBDetection (Apache-2.0), of which S5's detector
(https://github.com/MiliLab/S5, `RS_Finetune/Object_Detection`, Apache-2.0 by its README) is a fork;
reimplemented by its authors in https://github.com/open-mmlab/mmrotate (Apache-2.0).
The two families of checkpoints differ in four things, which `PRESETS` names.
Departs: S5's heads keep torch's default weights because its initialisation looks for names that
don't exist there; here they begin as the papers' do.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swath.core.backbones.timm import TimmPyramid
from swath.core.checkpoint.official import strip_prefixes
from swath.core.detection import (
    FPN,
    AnchorGenerator,
    MidpointOffsetCoder,
    RotatedDeltaCoder,
    RotatedRoIPool,
    assign_by_iou,
    class_wise_nms,
    pairwise_iou,
    sample_boxes,
)
from swath.core.detection.anchors import inside_image
from swath.core.detection.coders import Version, representative
from swath.core.detection.nms import nms_by_group
from swath.core.errors import ConfigError, suggest
from swath.core.structures import Detections
from swath.kernels import boxes_to_hbb, rotated_iou

V = TypeVar("V")
L = TypeVar("L", nn.Conv2d, nn.Linear)
Sizes = Sequence[tuple[int, int]]
Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Preset:
    """What families of Oriented R-CNN differ in.

    Attributes:
        version: Representatives of the rectangles that regions have: it decides how a region's
            grid of features lies.
        clockwise: Sense of the angles that the second stage predicts.
        enlarge: Factors of w and h of a region before its features are read.
        clamp: Whether the centres of objects that are found are moved into the image.
    """

    version: Version
    clockwise: bool
    enlarge: tuple[float, float]
    clamp: bool = False


PRESETS: Mapping[str, Preset] = {
    "s5": Preset(version="s5", clockwise=False, enlarge=(1.2, 1.4)),
    "mmrotate": Preset(version="le90", clockwise=True, enlarge=(1.0, 1.0), clamp=True),
}
"""S5 and OBBDetection; and mmrotate's ``oriented_rcnn_r50_fpn_1x_dota_le90``."""

PresetName = Literal["s5", "mmrotate"]


@dataclass(frozen=True)
class ProposalSettings:
    """How proposals are chosen; the numbers of both families, alike in training and test.

    Attributes:
        before_nms: Best anchors of each level that are decoded.
        iou_threshold: Of their enclosing boxes, level by level.
        count: Proposals of an image.
    """

    before_nms: int = 2000
    iou_threshold: float = 0.8
    count: int = 2000


class OrientedRPN(nn.Module):
    """Propose rotated boxes: an objectness and six midpoint offsets for each horizontal anchor.

    Args:
        channels: Of every map of the pyramid.
        anchors: The anchors.
        version: See `Preset`.
        proposals: How they are chosen.
        samples: Anchors of an image that are learnt from.
        positive_iou: From this IoU of enclosing boxes on an anchor answers for an object; the best
            ones from 0.3 on do so anyway. Where anchors lie far apart for the size of the objects,
            0.7 leaves an object one anchor.
        inside_only: Whether anchors that cross the image's border aren't learnt from, as
            officially. Small images are all border: large objects then have hardly an anchor.
        official_ties: See `MidpointOffsetCoder`.
        periodic: See `MidpointOffsetCoder`.

    Source:
        Xie et al. 2021, section 3.1; S5 dossier a.5.
    """

    def __init__(
        self,
        channels: int,
        anchors: AnchorGenerator,
        version: Version,
        proposals: ProposalSettings,
        samples: int = 256,
        positive_iou: float = 0.7,
        inside_only: bool = True,
        official_ties: bool = False,
        periodic: bool = False,
    ) -> None:
        super().__init__()
        self.rpn_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.rpn_cls = nn.Conv2d(channels, anchors.per_cell, 1)
        self.rpn_reg = nn.Conv2d(channels, anchors.per_cell * 6, 1)
        self.anchors, self.proposals, self.samples = anchors, proposals, samples
        self.positive_iou, self.inside_only = positive_iou, inside_only
        self.coder = MidpointOffsetCoder(
            version=version, official_ties=official_ties, periodic=periodic
        )
        for conv in (self.rpn_conv, self.rpn_cls, self.rpn_reg):
            _draw(conv, 0.01)

    def forward(self, features: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """For each map objectness logits ``(B, A, h, w)`` and deltas ``(B, A * 6, h, w)``."""
        hidden = [self.rpn_conv(x).relu() for x in features]
        return [(self.rpn_cls(x), self.rpn_reg(x)) for x in hidden]

    def losses(
        self, maps: Sequence[tuple[Tensor, Tensor]], sizes: Sizes, boxes: Sequence[Tensor]
    ) -> Losses:
        """``"rpn_cls"`` and ``"rpn_box"``, each ``(levels,)``, to be summed."""
        anchors = self._anchors(maps)
        level = torch.cat([a.new_full((len(a),), i).long() for i, a in enumerate(anchors)])
        all_anchors = torch.cat(anchors)
        parts = zip(*_by_anchor(maps), strict=True)
        logits, deltas = (torch.cat(levels, 1).float() for levels in parts)
        cls, box = logits.new_zeros(2, len(anchors)).unbind(0)
        count = 0
        for i, (size, objects) in enumerate(zip(sizes, boxes, strict=True)):
            usable = torch.arange(len(all_anchors), device=logits.device)
            if self.inside_only:
                usable = usable[inside_image(all_anchors, size)]
            overlaps = pairwise_iou(all_anchors[usable], boxes_to_hbb(objects))
            assigned = assign_by_iou(overlaps, self.positive_iou, negative=0.3, low_quality=0.3)
            positive, negative = sample_boxes(assigned, self.samples, positive_share=0.5)
            count += max(len(positive), 1) + max(len(negative), 1)  # as officially, never 0
            matched = objects[assigned[positive]]
            positive, negative = usable[positive], usable[negative]
            chosen = torch.cat((positive, negative))
            truth = torch.zeros(len(chosen), device=logits.device)
            truth[: len(positive)] = 1
            loss = F.binary_cross_entropy_with_logits(logits[i, chosen], truth, reduction="none")
            cls = cls.index_add(0, level[chosen], loss)
            target = self.coder.encode(all_anchors[positive], matched)
            target = self.coder.nearest(target, deltas[i, positive].detach())
            loss = F.smooth_l1_loss(deltas[i, positive], target, reduction="none", beta=1 / 9)
            box = box.index_add(0, level[positive], loss.sum(1))
        # an empty batch still reaches every weight, which DDP needs
        nothing = 0.0 * (logits.sum() + deltas.sum())
        return {"rpn_cls": cls / max(count, 1) + nothing, "rpn_box": box / max(count, 1)}

    @torch.no_grad()
    def propose(self, maps: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """For each image rotated boxes ``(P, 5)`` by falling score, and scores ``(P,)``."""
        parts = []
        for level, ((logits, deltas), own) in enumerate(
            zip(_by_anchor(maps), self._anchors(maps), strict=True)
        ):
            number = min(self.proposals.before_nms, len(own))
            scores, best = logits.float().sigmoid().topk(number, dim=1)
            deltas = deltas.gather(1, best[..., None].expand(-1, -1, 6))
            parts.append((own[best], deltas, scores, torch.full_like(best, level)))
        anchors, deltas, scores, levels = (torch.cat(x, 1) for x in zip(*parts, strict=True))
        boxes = self.coder.decode(anchors.flatten(0, 1), deltas.flatten(0, 1))
        images = zip(boxes.view(*scores.shape, 5), scores, levels, strict=True)
        return [self._chosen(*image) for image in images]

    def _chosen(self, boxes: Tensor, scores: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
        threshold = self.proposals.iou_threshold
        keep = nms_by_group(boxes_to_hbb(boxes), scores, levels, threshold)
        keep = keep[: self.proposals.count]
        return boxes[keep], scores[keep]

    def _anchors(self, maps: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        sizes = [(x.shape[-2], x.shape[-1]) for x, _ in maps]
        anchors: list[Tensor] = self.anchors(sizes, maps[0][0].device)
        return anchors


def _by_anchor(maps: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Maps as logits ``(B, h * w * A)`` and deltas ``(B, h * w * A, 6)``, in the anchors' order."""
    return [
        (
            logits.permute(0, 2, 3, 1).flatten(1),
            deltas.permute(0, 2, 3, 1).reshape(len(deltas), logits.shape[1:].numel(), 6),
        )
        for logits, deltas in maps
    ]


class RotatedRoIHead(nn.Module):
    """Say what a region's features show, and where exactly it lies.

    Args:
        channels: Of every map of the pyramid.
        num_classes: Classes K; the background is the (K + 1)th.
        strides: Of the maps that regions are read from.
        preset: See `Preset`.
        fc_channels: Width of the two shared layers.
        samples: Regions of an image that are learnt from.
        jittered: Copies of each object among the regions, moved, stretched and turned at random by
            1.5 times the coder's deviations: the second stage learns to refine before the first one
            finds anything. Officially none.
        rounds: How often regions are read and refined when objects are looked for; a score is the
            mean over the rounds. Officially once.

    Source:
        Xie et al. 2021, section 3.2; S5 dossier a.5. Boxes are refined alike for all classes.
        Rounds are those of Gidaris and Komodakis 2015, arXiv:1505.01749.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        strides: Sequence[int],
        preset: Preset,
        fc_channels: int = 1024,
        samples: int = 512,
        jittered: int = 0,
        rounds: int = 1,
    ) -> None:
        super().__init__()
        self.jittered, self.rounds = jittered, rounds
        self.pool = RotatedRoIPool(strides, enlarge=preset.enlarge)
        self.coder = RotatedDeltaCoder(clockwise=preset.clockwise, version=preset.version)
        self.num_classes, self.samples, self.clamp = num_classes, samples, preset.clamp
        inside = channels * self.pool.output_size**2
        self.shared_fcs = nn.ModuleList(
            _draw(nn.Linear(width, fc_channels), math.sqrt(2 / (width + fc_channels)))
            for width in (inside, fc_channels)
        )
        self.fc_cls = _draw(nn.Linear(fc_channels, num_classes + 1), 0.01)
        self.fc_reg = _draw(nn.Linear(fc_channels, 5), 0.001)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(R, K + 1)`` and deltas ``(R, 5)`` of features ``(R, channels, 7, 7)``."""
        x = pooled.flatten(1)
        for fc in self.shared_fcs:
            x = fc(x).relu()
        return self.fc_cls(x), self.fc_reg(x)

    def losses(
        self,
        features: Sequence[Tensor],
        proposals: Sequence[Tensor],
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
    ) -> Losses:
        """``"roi_cls"``, ``"roi_box"``, and the share of regions told right, ``"roi_accuracy"``."""
        sampled = [self._sampled(*image) for image in zip(proposals, boxes, labels, strict=True)]
        logits, deltas = self(self.pool(features, [regions for regions, _, _ in sampled]))
        # torch can't join nothing, and a batch may be empty
        label = torch.cat([x for _, x, _ in sampled] or [torch.zeros(0).to(logits).long()])
        target = torch.cat([x for _, _, x in sampled] or [torch.zeros(0, 5).to(logits)])
        count = max(len(label), 1)
        positive = label < self.num_classes
        cls = F.cross_entropy(logits.float(), label, reduction="sum") / count
        box = F.smooth_l1_loss(deltas[positive].float(), target, reduction="sum") / count
        right = (logits.detach().argmax(1) == label).sum() / count
        return {"roi_cls": cls, "roi_box": box + 0.0 * deltas.sum(), "roi_accuracy": right}

    @torch.no_grad()
    def _sampled(
        self, proposals: Tensor, boxes: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Regions ``(R, 5)`` to learn from, their labels ``(R,)``, and deltas of the objects'."""
        if self.jittered:
            copies = boxes.repeat(self.jittered, 1)
            noise = 1.5 * torch.randn(len(copies), 5).to(copies)  # the same whatever the device
            proposals = torch.cat((proposals, self.coder.decode(copies, noise)))
        overlaps = rotated_iou(proposals, boxes)
        assigned = assign_by_iou(overlaps, positive=0.5, negative=0.5)
        own = torch.arange(len(boxes), device=boxes.device)
        candidates, assigned = torch.cat((boxes, proposals)), torch.cat((own, assigned))
        positive, negative = sample_boxes(assigned, self.samples, positive_share=0.25)
        matched = assigned[positive]
        background = labels.new_full((len(negative),), self.num_classes)
        return (
            candidates[torch.cat((positive, negative))],
            torch.cat((labels[matched], background)),
            self.coder.encode(candidates[positive], boxes[matched]),
        )

    @torch.no_grad()
    def detect(
        self,
        features: Sequence[Tensor],
        proposals: Sequence[Tensor],
        score_threshold: float,
        iou_threshold: float,
        max_detections: int,
        sizes: Sizes = (),
    ) -> list[Detections]:
        """Objects of each image; for the thresholds see `class_wise_nms`.

        ``sizes``, ``(h, w)`` of each image, are needed where the preset clamps.
        """
        regions, rounds = list(proposals), []
        counts = [len(p) for p in proposals]
        for _ in range(self.rounds):
            logits, deltas = self(self.pool(features, regions))
            rounds.append(logits.float().softmax(1)[:, :-1])
            regions = list(self.coder.decode(torch.cat(regions), deltas).split(counts))
        scores = torch.stack(rounds).mean(0).split(counts)
        if self.clamp:
            regions = [_clamped(b, size) for b, size in zip(regions, sizes, strict=True)]
        return [
            class_wise_nms(b, s, score_threshold, iou_threshold, max_detections)
            for b, s in zip(regions, scores, strict=True)
        ]


def _clamped(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes ``(N, 5)`` with their centres on pixels of an image of ``(h, w)``."""
    last = boxes.new_tensor([size[1] - 1, size[0] - 1])
    centres = torch.minimum(boxes[:, :2].clamp(min=0), last)
    return torch.cat((centres, boxes[:, 2:]), 1)


def _draw(layer: L, std: float) -> L:
    """The layer with normal weights and zero biases."""
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class OrientedRCNNHead(nn.Module):
    """All of Oriented R-CNN but the backbone: pyramid, proposals, regions.

    Args:
        in_channels: Channels of the backbone's maps, finest first.
        strides: Their strides.
        num_classes: Classes K.
        preset: A name of `PRESETS`.
        channels: Of the pyramid.
        fc_channels: Width of the region head.
        anchor_scale: Square root of an anchor's area in strides.
        rpn_samples: Anchors of an image that are learnt from.
        roi_samples: Regions of an image that are learnt from.
        proposals: How proposals are chosen.
        score_threshold: Least score of an object.
        iou_threshold: Of objects of a class.
        max_detections: Most objects in an image.
        jittered: See `RotatedRoIHead`.
        rounds: See `RotatedRoIHead`.
        positive_iou: See `OrientedRPN`.
        inside_only: See `OrientedRPN`.
        official_ties: See `MidpointOffsetCoder`; changes what is learnt, not what is found.
        periodic: See `MidpointOffsetCoder`.

    Raises:
        ConfigError: If there is no such preset.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        preset: PresetName = "s5",
        channels: int = 256,
        fc_channels: int = 1024,
        anchor_scale: float = 8.0,
        rpn_samples: int = 256,
        roi_samples: int = 512,
        proposals: ProposalSettings | None = None,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.1,
        max_detections: int = 2000,
        jittered: int = 0,
        rounds: int = 1,
        positive_iou: float = 0.7,
        inside_only: bool = True,
        official_ties: bool = False,
        periodic: bool = False,
    ) -> None:
        super().__init__()
        if preset not in PRESETS:
            raise ConfigError(f"unknown preset '{preset}'{suggest(preset, list(PRESETS))}")
        chosen = PRESETS[preset]
        self.neck = FPN(in_channels, channels, num_outs=len(strides) + 1)
        anchors = AnchorGenerator((*strides, 2 * strides[-1]), scale=anchor_scale)
        self.rpn_head = OrientedRPN(
            channels,
            anchors,
            chosen.version,
            proposals or ProposalSettings(),
            rpn_samples,
            positive_iou,
            inside_only,
            official_ties,
            periodic,
        )
        self.roi_head = RotatedRoIHead(
            channels, num_classes, strides, chosen, fc_channels, roi_samples, jittered, rounds
        )
        self.version = chosen.version
        self.thresholds = (score_threshold, iou_threshold, max_detections)

    def losses(
        self,
        maps: Sequence[Tensor],
        sizes: Sizes,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
    ) -> Losses:
        """Losses of both stages; each is a scalar.

        Args:
            maps: Of the backbone, ``(B, C_i, h_i, w_i)``.
            sizes: ``(h, w)`` of each image without padding.
            boxes: Of each image, ``(G, 5)``.
            labels: Of each image, int64 ``(G,)``.
        """
        # objects are among the regions that are read: they must lie as those do
        boxes = [representative(objects, self.version) for objects in boxes]
        features = self.neck(maps)
        scored = self.rpn_head(features)
        first = self.rpn_head.losses(scored, sizes, boxes)
        proposals = [found for found, _ in self.rpn_head.propose(scored)]
        second = self.roi_head.losses(features, proposals, boxes, labels)
        return {name: loss.sum() for name, loss in (first | second).items()}

    def detect(self, maps: Sequence[Tensor], sizes: Sizes) -> list[Detections]:
        """Objects of each image, by falling score; for ``sizes`` see `losses`."""
        features = self.neck(maps)
        proposals = [found for found, _ in self.rpn_head.propose(self.rpn_head(features))]
        return self.roi_head.detect(features, proposals, *self.thresholds, sizes)


class OrientedRCNN(nn.Module):
    """Oriented R-CNN on any backbone with four maps, for one data set.

    Args:
        backbone: ``forward(image) -> maps``, with ``channels`` and ``strides``.
        num_classes: Classes K.
        **head: See `OrientedRCNNHead`.

    Attributes:
        num_classes: ``num_classes``.
        stride: Images are padded to its multiples.
    """

    def __init__(self, backbone: nn.Module, num_classes: int, **head: Any) -> None:
        super().__init__()
        channels, strides = _pyramid(backbone)
        self.backbone, self.num_classes, self.stride = backbone, num_classes, strides[-1]
        self.head = OrientedRCNNHead(channels, strides, num_classes, **head)

    def forward(
        self,
        image: Tensor,
        sizes: Sizes,
        boxes: Sequence[Tensor] | None = None,
        labels: Sequence[Tensor] | None = None,
    ) -> Losses | list[Detections]:
        """Losses where boxes and labels are given, objects otherwise.

        Args:
            image: float ``(B, C, H, W)``, any H and W.
            sizes: ``(h, w)`` of each image without padding.
            boxes: Of each image, ``(G, 5)``.
            labels: Of each image, int64 ``(G,)``.
        """
        maps = self.backbone(padded_to(image, self.stride))
        if boxes is None or labels is None:
            return self.head.detect(maps, sizes)
        return self.head.losses(maps, sizes, boxes, labels)


def oriented_rcnn_r50(num_classes: int = 15) -> OrientedRCNN:
    """Oriented R-CNN on a ResNet-50, as mmrotate's ``oriented_rcnn_r50_fpn_1x_dota_le90``.

    Args:
        num_classes: Classes K; 15 in DOTA-v1.0.
    """
    return OrientedRCNN(TimmPyramid("resnet50"), num_classes, preset="mmrotate")


def padded_to(image: Tensor, stride: int) -> Tensor:
    """The image, filled with 0 right and below to sides that are multiples of the stride."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % stride, 0, -height % stride))


def _pyramid(backbone: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels and strides of a backbone's maps."""
    return tuple(backbone.channels), tuple(backbone.strides)  # type: ignore[arg-type]


# --- from official checkpoints --------------------------------------------------------------------


def remap_official_keys(state: Mapping[str, V]) -> dict[str, V]:
    """Rename the keys of a checkpoint of S5's family or mmrotate's to those of `OrientedRCNN`.

    Args:
        state: Keys ``backbone.*``, ``neck.*``, ``rpn_head.*``, ``roi_head.bbox_head.*``, with or
            without a leading ``module.``; keys that fit none are left for strict loading to report.
    """
    renamed = {}
    for key, value in strip_prefixes(state).items():
        if key.startswith(("neck.", "rpn_head.", "roi_head.")):
            key = head_key(f"head.{key}")
        renamed[key] = value
    return renamed


def remap_mmrotate_keys(state: Mapping[str, V]) -> dict[str, V]:
    """Rename the keys of a checkpoint of mmrotate's with a ResNet to those of ours.

    Args:
        state: As of `remap_official_keys`, where ``backbone.*`` is a ResNet.
    """
    renamed = remap_official_keys(state)
    return {re.sub(r"^backbone\.", "backbone.body.", key): v for key, v in renamed.items()}


def head_key(key: str) -> str:
    """The key of a weight of a head, from official to ours."""
    return key.replace(".roi_head.bbox_head.", ".roi_head.").replace(".conv.", ".")


def official_head_key(key: str) -> str:
    """The inverse of `head_key`."""
    key = key.replace(".roi_head.", ".roi_head.bbox_head.")
    return re.sub(r"(\.(?:lateral|fpn)_convs\.\d+)\.", r"\1.conv.", key)
