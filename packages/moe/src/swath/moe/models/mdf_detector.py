"""The detection model of MoE-MDF: one ViT-MoE, and an Oriented R-CNN head for every data set.

Paper: S5: Scalable Semi-Supervised Semantic Segmentation in Remote Sensing, Lv et al. 2025,
arXiv:2508.12409, section on MoE-based multi-dataset fine-tuning.
Official code: https://github.com/MiliLab/S5 (Apache-2.0 by its README),
`RS_Finetune/Object_Detection/mmdet/models/detectors/obb/obb_two_stage_dior_dota.py`.
Departs: officially one forward pass for each of two fixed data sets; here the data sets are an
argument and samples of all of them share a batch.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from swath.core.backbones.vit import Size, vit
from swath.core.checkpoint.fetch import locate
from swath.core.checkpoint.official import (
    backbone_part,
    load_strict,
    load_vit,
    resize_position_embedding,
    square_grid,
    strip_prefixes,
)
from swath.core.checkpoint.safe import load_file
from swath.core.structures import Detections
from swath.moe import detection_sets
from swath.moe.models.many_tasks import ManyTasks, experts_from_ffn, task_experts
from swath.moe.models.oriented_rcnn import (
    Losses,
    OrientedRCNN,
    OrientedRCNNHead,
    Sizes,
    head_key,
    official_head_key,
    padded_to,
)
from swath.moe.models.vit_moe import TokenViTMoE, ViTMoE, vit_moe

V = TypeVar("V")


class MDFDetector(ManyTasks):
    """Shared ViT-MoE; per task an expert in each block and an `OrientedRCNNHead`.

    Args:
        backbone: See `ManyTasks`.
        tasks: Number of classes of each task, by name. The order is that of the experts.
        trained: Names of the tasks that are trained: everything that isn't theirs alone is frozen,
            so that what the model finds for all other tasks stays as it is. None trains all.
        weights: File to start from, or where to fetch it; see `load_mdf_detector`.
        **head: See `OrientedRCNNHead`.

    Attributes:
        stride: Images are padded to its multiples.

    Raises:
        ConfigError: As of `ManyTasks`, or if ``trained`` names an unknown task.
        CheckpointError: If ``weights`` doesn't fit.

    Source:
        S5 dossier a.5, official `OBBTwoStageDetectorMTD`.
    """

    own_parts = ("heads",)
    class_parts = (".fc_cls.",)

    def __init__(
        self,
        backbone: ViTMoE | TokenViTMoE,
        tasks: Mapping[str, int],
        trained: Sequence[str] | None = None,
        weights: str | Path | None = None,
        **head: Any,
    ) -> None:
        super().__init__(backbone, tasks)
        self.stride = backbone.strides[-1]
        self.heads = nn.ModuleDict(
            {
                name: OrientedRCNNHead(backbone.channels, backbone.strides, classes, **head)
                for name, classes in tasks.items()
            }
        )
        if trained is not None:
            self.freeze_but(trained)
        if weights is not None:
            load_mdf_detector(self, load_file(locate(weights)), where=str(weights))

    def forward(
        self,
        image: Tensor,
        task_ids: Tensor | int,
        sizes: Sizes,
        boxes: Sequence[Tensor] | None = None,
        labels: Sequence[Tensor] | None = None,
    ) -> dict[str, Losses] | list[Detections]:
        """Losses by task where boxes and labels are given, objects otherwise.

        In training every head runs, on no samples if its task has none: its gradients are then
        zeros, which DDP and norms that measure all processes' batches need.

        Args:
            image: float ``(B, C, H, W)``, any H and W.
            task_ids: int64 ``(B,)``, the task of each image by its place in ``tasks``; or one int
                for all. Best on the CPU.
            sizes: ``(h, w)`` of each image without padding.
            boxes: Of each image, ``(G, 5)``.
            labels: Of each image, int64 ``(G,)``, classes of its task.

        Returns:
            Losses of each task, as of `OrientedRCNNHead.losses`; or the objects of each image.

        Raises:
            ValueError: If an id is none of a task's.
        """
        own, rows = self.features(padded_to(image, self.stride), task_ids)
        if boxes is not None and labels is not None:
            return {
                name: self._head(name).losses(
                    maps, _pick(sizes, at), _pick(boxes, at), _pick(labels, at)
                )
                for name, maps in own.items()
                for at in [rows[name].tolist()]
            }
        found: dict[int, Detections] = {}
        for name, maps in own.items():
            places = rows[name].tolist()
            if places:
                objects = self._head(name).detect(maps, _pick(sizes, places))
                found |= dict(zip(places, objects, strict=True))
        return [found[i] for i in range(len(found))]

    def _head(self, name: str) -> OrientedRCNNHead:
        head = self.heads[name]
        assert isinstance(head, OrientedRCNNHead)
        return head


def _pick(values: Sequence[V], places: Sequence[int]) -> list[V]:
    return [values[i] for i in places]


def mdf_detector(
    size: Size = "b",
    tasks: Mapping[str, int] | None = None,
    img_size: int = 1024,
    checkpointing: bool = False,
    trained: Sequence[str] | None = None,
    weights: str | Path | None = None,
) -> MDFDetector:
    """The published detector: ViT-MoE with 256 channels an expert, two Oriented R-CNN heads.

    Args:
        size: ``"b"``, ``"l"`` or ``"h"``.
        tasks: See `MDFDetector`; default: those of the published model, DIOR-R and DOTA-v2.0.
        img_size: Side the position embedding is made for: 1024 in the released configs. The
            published parameter counts are those of 512: 138,283,356 for B, where 1024 gives
            140,642,652.
        checkpointing: Recompute activations in the backward pass.
        trained: See `MDFDetector`.
        weights: See `MDFDetector`.

    Raises:
        CheckpointError: If ``weights`` doesn't fit.

    Source:
        S5 dossier a.5 and table of g.
    """
    tasks = detection_sets.num_classes() if tasks is None else tasks
    backbone = vit_moe(size, len(tasks), img_size=img_size, checkpointing=checkpointing)
    return MDFDetector(backbone, tasks, trained=trained, weights=weights)


def single_detector(
    size: Size = "b",
    num_classes: int = 20,
    img_size: int = 1024,
    checkpointing: bool = False,
    weights: str | Path | None = None,
) -> OrientedRCNN:
    """Oriented R-CNN on the same ViT without experts, for one data set: S5's columns "Single".

    Args:
        size: ``"b"``, ``"l"`` or ``"h"``: 111,179,567 parameters for B at 512 px, 20 classes.
        num_classes: Classes K.
        img_size: Side the position embedding is made for.
        checkpointing: Recompute activations in the backward pass.
        weights: File with the backbone's weights; see `swath.core.checkpoint.official.load_vit`.

    Raises:
        CheckpointError: If ``weights`` doesn't fit.

    Source:
        S5 dossier, table of g.
    """
    backbone = vit(size, img_size=img_size, checkpointing=checkpointing)
    if weights is not None:
        load_vit(backbone, load_file(locate(weights)), where=str(weights))
    return OrientedRCNN(backbone, num_classes)


def load_mdf_detector(
    model: MDFDetector, state: Mapping[str, Tensor], *, where: str = "checkpoint"
) -> None:
    """Load whatever an `MDFDetector` can start from.

    Args:
        model: Takes the weights.
        state: Of an MDF detector, official or ours; or anything with a plain ViT of S5's in it, a
            backbone or a whole S4P model, from which experts are made, while the heads stay as they
            are (see `backbone_to_moe`).
        where: What to call the checkpoint in an error.

    Raises:
        CheckpointError: If it doesn't fit to the last key.
    """
    if any(".experts." in key for key in state):
        load_strict(model, remap_official_keys(state), where=where)
        return
    backbone = task_experts(model, where)
    converted = backbone_to_moe(
        backbone_part(state), backbone.grid, backbone.num_experts, backbone.part_features
    )
    load_strict(backbone, converted, where=where)


def backbone_to_moe(
    state: Mapping[str, Tensor], grid: tuple[int, int], num_experts: int, part_features: int
) -> dict[str, Tensor]:
    """Turn the weights of a plain ViT into those of a `ViTMoE` to start from.

    Args:
        state: Of a ViT in S5's layout.
        grid: Rows and columns of patches of the model that will take it; the position embedding is
            resized to it.
        num_experts: Experts E of the model.
        part_features: Output channels r of an expert.

    Raises:
        CheckpointError: If the position embedding isn't that of a square grid.

    Source:
        S5 dossier f.3, official `ViT.init_weights` of the detection tree.
    """
    converted = experts_from_ffn(state, num_experts, part_features)
    if "pos_embed" in converted:
        embedding = converted["pos_embed"]
        converted["pos_embed"] = resize_position_embedding(embedding, square_grid(embedding), grid)
    return converted


# --- from and to official checkpoints -------------------------------------------------------------


def remap_official_keys(state: Mapping[str, V]) -> dict[str, V]:
    """Rename the keys of an official MDF detection checkpoint to those of our model.

    Args:
        state: Keys ``backbone.*``, ``neck_<task>.*``, ``rpn_head_<task>.*``,
            ``roi_head_<task>.bbox_head.*``, with or without a leading ``module.``; keys that fit
            none are left for strict loading to report.
    """
    renamed = {}
    for key, value in strip_prefixes(state).items():
        if match := re.match(r"(neck|rpn_head|roi_head)_([^.]+)\.(.*)", key):
            part, task, rest = match.groups()
            key = head_key(f"heads.{task}.{part}.{rest}")
        renamed[key] = value
    return renamed


def official_keys(state: Mapping[str, V]) -> dict[str, V]:
    """The inverse of `remap_official_keys`: our keys in the official layout, for export."""
    renamed = {}
    for key, value in state.items():
        if match := re.match(r"heads\.([^.]+)\.([^.]+)\.(.*)", official_head_key(key)):
            task, part, rest = match.groups()
            key = f"{part}_{task}.{rest}"
        renamed[key] = value
    return renamed
