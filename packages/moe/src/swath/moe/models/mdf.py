"""The segmentation model of MoE-MDF: one ViT-MoE, and a decoder and a head for every data set.

Paper: S5: Scalable Semi-Supervised Semantic Segmentation in Remote Sensing, Lv et al. 2025,
arXiv:2508.12409, section on MoE-based multi-dataset fine-tuning.
Official code: https://github.com/MiliLab/S5 (Apache-2.0 by its README),
`RS_Finetune/Semantic_Segmentation/model/semseg/upernet_mdf.py` and `model/util/utils.py`.
Departs: the official model takes one task per call, with four fixed tasks; here the tasks are an
argument and samples of all of them share a batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from swath.core.backbones.vit import Size
from swath.core.checkpoint.fetch import locate
from swath.core.checkpoint.official import load_strict, resize_position_embedding, square_grid
from swath.core.checkpoint.safe import load_file
from swath.core.heads import UPerNet
from swath.core.heads.upernet import Norm
from swath.core.models.segmentation import remap_official_keys as remap_s4p_keys
from swath.moe import sets
from swath.moe.models.many_tasks import ManyTasks, experts_from_ffn, task_experts
from swath.moe.models.vit_moe import PART_FEATURES, TokenViTMoE, ViTMoE, vit_moe

V = TypeVar("V")


@dataclass(frozen=True)
class TaskLogits:
    """Logits of a batch whose samples belong to different tasks, with different classes.

    Attributes:
        by_task: Of each task that has samples (in training, of every task) the logits
            ``(n, K, H, W)`` of its n samples, in the order in which the batch has them.
        rows: Of the same tasks, int64 ``(n,)``: where in the batch these samples are.
    """

    by_task: dict[str, Tensor]
    rows: dict[str, Tensor]

    def per_sample(self) -> list[Tensor]:
        """Logits ``(K, H, W)`` of each sample, in the order of the batch."""
        placed = {
            row: logits
            for task, rows in self.rows.items()
            for row, logits in zip(rows.tolist(), self.by_task[task], strict=True)
        }
        return [placed[row] for row in range(len(placed))]


class MDFSegmenter(ManyTasks):
    """Shared ViT-MoE; per task an expert in each block, a UPerNet, and a 1 x 1 convolution.

    Args:
        backbone: See `ManyTasks`.
        tasks: Number of classes of each task, by name. The order is that of the experts.
        width: Channels of the decoders.
        norm: ``"bn"`` or ``"gn"`` in the decoders.
        dropout: Probability of dropping a channel before a head, in training.
        dead_classifier: See `UPerNet`.
        trained: Names of the tasks that are trained: everything that isn't theirs alone is frozen,
            so that the outputs of all other tasks stay as they are, bit for bit. None trains all.
        weights: File to start from, or where to fetch it; see `load_mdf`.
        crop_padding: False upsamples the padded map straight to the image's size, as officially:
            the classes of an image that isn't of whole patches are then displaced.

    Attributes:
        tasks: ``tasks``.

    Raises:
        ConfigError: If there are more tasks than experts, a name can't be one, or ``trained`` names
            an unknown task.
        CheckpointError: If ``weights`` doesn't fit.

    Source:
        S5 dossier a.3, a.4, official `UperNet` of `upernet_mdf.py`.
    """

    own_parts = ("decoders", "classifiers")
    class_parts = ("classifiers.",)

    def __init__(
        self,
        backbone: ViTMoE | TokenViTMoE,
        tasks: Mapping[str, int],
        width: int = 256,
        norm: Norm = "bn",
        dropout: float = 0.1,
        dead_classifier: bool = False,
        trained: Sequence[str] | None = None,
        weights: str | Path | None = None,
        crop_padding: bool = True,
    ) -> None:
        super().__init__(backbone, tasks)
        self.crop_padding = crop_padding
        self.decoders = nn.ModuleDict(
            {
                name: UPerNet(backbone.channels, width, norm=norm, dead_classifier=dead_classifier)
                for name in tasks
            }
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifiers = nn.ModuleDict(
            {name: nn.Conv2d(width, classes, 1) for name, classes in tasks.items()}
        )
        if trained is not None:
            self.freeze_but(trained)
        if weights is not None:
            load_mdf(self, load_file(locate(weights)), where=str(weights))

    def forward(self, image: Tensor, task_ids: Tensor | int) -> TaskLogits:
        """Score every pixel by the classes of the image's task.

        In training every decoder runs, on no samples if its task has none: its gradients are then
        zeros, which DDP and norms that measure all processes' batches need.

        Args:
            image: float ``(B, C, H, W)``, any H and W.
            task_ids: int64 ``(B,)``, the task of each image by its place in ``tasks``; or one int
                for all. Best on the CPU, whatever the images' device: there nobody waits for it.

        Returns:
            Logits at the size of the images.

        Raises:
            ValueError: If an id is none of a task's.
        """
        height, width = image.shape[-2:]
        pad_to = self.backbone.pad_to
        image = F.pad(image, (0, -width % pad_to, 0, -height % pad_to))
        size = image.shape[-2:] if self.crop_padding else (height, width)
        own, rows = self.features(image, task_ids)
        by_task = {}
        for name, features in own.items():
            logits = self.classifiers[name](self.dropout(self.decoders[name](features)))
            # align_corners as S5's checkpoints were trained
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=True)
            by_task[name] = logits[..., :height, :width]
        return TaskLogits(by_task, rows)


def mdf_segmenter(
    size: Size = "b",
    tasks: Mapping[str, int] | None = None,
    img_size: int = 512,
    checkpointing: bool = False,
    trained: Sequence[str] | None = None,
    weights: str | Path | None = None,
) -> MDFSegmenter:
    """The published model: ViT-MoE with 256 channels an expert, UPerNets of 256.

    Args:
        size: ``"b"``, ``"l"`` or ``"h"``: 160,402,206, 435,012,126 and 824,451,358 parameters with
            the published tasks, the frozen dead ones (``cls_token``, ``conv_seg``) included.
        tasks: See `MDFSegmenter`; default: those of the
            published model, `swath.moe.sets.num_classes`.
        img_size: Side the position embedding is made for: 512 in every released file.
        checkpointing: Recompute activations in the backward pass.
        trained: See `MDFSegmenter`.
        weights: See `MDFSegmenter`.

    Raises:
        CheckpointError: If ``weights`` doesn't fit.

    Source:
        S5 dossier, table of g.
    """
    tasks = sets.num_classes() if tasks is None else tasks
    backbone = vit_moe(size, len(tasks), img_size=img_size, checkpointing=checkpointing)
    return MDFSegmenter(backbone, tasks, dead_classifier=True, trained=trained, weights=weights)


def load_mdf(
    model: MDFSegmenter, state: Mapping[str, Tensor], *, where: str = "checkpoint"
) -> None:
    """Load whatever an `MDFSegmenter` can start from.

    Args:
        model: Takes the weights.
        state: Of an MDF model, official or ours; or of an S4P model, official or ours, whose
            classes are others, so that the heads stay as they are (see `s4p_to_moe`). Its position
            embedding is resized to the model's. Official decoders have a ``dead_classifier``.
        where: What to call the checkpoint in an error.

    Raises:
        CheckpointError: If it doesn't fit to the last key.
    """
    if any(".experts." in key for key in state):
        load_strict(model, remap_official_keys(state), where=where)
        return
    backbone = task_experts(model, where)
    state = s4p_to_moe(state, list(model.tasks), backbone.num_experts, backbone.part_features)
    if (embedding := state.get(_POSITION)) is not None:
        grid = square_grid(embedding)
        state[_POSITION] = resize_position_embedding(embedding, grid, backbone.grid)
    load_strict(model, state, where=where, may_miss=("classifiers.",))


# --- from official checkpoints, and from S4P to MoE -----------------------------------------------

_POSITION = "backbone.pos_embed"

_OFFICIAL_SUFFIXES = {
    "vaihingen": ("", "_vaihingen"),
    "potsdam": ("_potsdam", "_potsdam"),
    "openearthmap": ("_OpenEarthMap", "_OpenEarthMap"),
    "loveda": ("_loveda", "_loveda"),
}

_OFFICIAL_PREFIXES = {"encoder.": "backbone."} | {
    official: ours
    for task, (decoder, head) in _OFFICIAL_SUFFIXES.items()
    for official, ours in (
        (f"semsegdecoder{decoder}.decode_head.", f"decoders.{task}."),
        (f"semseghead{head}.1.", f"classifiers.{task}."),
    )
}


def remap_official_keys(state: Mapping[str, V]) -> dict[str, V]:
    """Rename the keys of an official MDF segmentation checkpoint to those of our model.

    Args:
        state: Keys ``encoder.*``, ``semsegdecoder[_<task>].decode_head.*``,
            ``semseghead_<task>.1.*``, with or without a leading ``module.``; keys that fit none are
            left for strict loading to report.
    """
    stripped = {key.removeprefix("module."): value for key, value in state.items()}
    return {_renamed(key, _OFFICIAL_PREFIXES): value for key, value in stripped.items()}


def official_keys(state: Mapping[str, V]) -> dict[str, V]:
    """The inverse of `remap_official_keys`: our keys in the official layout, for export."""
    inverse = {ours: official for official, ours in _OFFICIAL_PREFIXES.items()}
    return {_renamed(key, inverse): value for key, value in state.items()}


def _renamed(key: str, prefixes: Mapping[str, str]) -> str:
    for old, new in prefixes.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key


def s4p_to_moe(
    state: Mapping[str, Tensor],
    tasks: Sequence[str],
    num_experts: int,
    part_features: int = PART_FEATURES,
) -> dict[str, Tensor]:
    """Turn the weights of an S4P segmentation model into those of an `MDFSegmenter` to start from.

    Experts come from the feed-forward layers (see `experts_from_ffn`), and every task gets the
    decoder. Features of every task then equal those of the S4P model, bit for bit as weights. The
    heads are left out: classes are others.

    Args:
        state: Keys of the official S4P model or of ours, with or without ``module.``.
        tasks: Names of the tasks.
        num_experts: Experts E of the model.
        part_features: Output channels r of an expert.

    Returns:
        State for ``load_strict(model, ..., may_miss=("classifiers.",))``.

    Source:
        S5 dossier f.3, official `load_network`.
    """
    shared = experts_from_ffn(remap_s4p_keys(state), num_experts, part_features)
    converted: dict[str, Tensor] = {}
    for key, value in shared.items():
        if key.startswith("decoder."):
            for task in tasks:
                converted[f"decoders.{task}.{key.removeprefix('decoder.')}"] = value
        elif not key.startswith("classifier."):
            converted[key] = value
    return converted
