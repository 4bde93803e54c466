"""RSCoTr: one encoder for classification, detection and segmentation, trained together.

Paper: Li et al. 2024, IEEE TGRS, 10.1109/TGRS.2024.3354783.
Official code: https://github.com/Li-Qingyun/RSCoTr, `models/multi/multitask_learner.py`.
Departs: heads are a dictionary of any number; one pass of the backbone serves all that are asked.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from swath.core.backbones.swin import Swin, load_swin
from swath.core.checkpoint.fetch import locate
from swath.core.checkpoint.official import load_strict, strip_prefixes
from swath.core.checkpoint.safe import load_file
from swath.core.errors import CheckpointError, ConfigError, suggest
from swath.mtl.models.dino import DINOHead
from swath.mtl.models.encoder import ChannelMapper, DeformableEncoder, Features
from swath.mtl.models.heads import Head, MultiLevelSceneClassifier, SceneClassifier
from swath.mtl.models.layers import Shape
from swath.mtl.models.mask_decoder import MaskDecoder

V = TypeVar("V")


class RSCoTr(nn.Module):
    """Backbone, channel mapper, deformable encoder, and any number of heads.

    Args:
        backbone: ``forward(image) -> list of maps``, finest first, with ``channels``; the last
            three of at least three stages make the pyramid.
        heads: By name of the task; see `swath.mtl.models.heads`.
        dim: Channels of pyramid and encoder.
        encoder_depth: Layers of the encoder.
        encoder_heads: Its attention heads.
        encoder_hidden: Width of its feed-forward networks.
        points: Points its attention reads of each level.
        norm_groups: Of the channel mapper's group norms.
        uncertainty: Learn a variance for each head's losses; see `swath.mtl.multi_task.MultiTask`.

    Source:
        RSCoTr dossier 1.
    """

    def __init__(
        self,
        backbone: Swin,
        heads: Mapping[str, Head],
        dim: int = 256,
        encoder_depth: int = 6,
        encoder_heads: int = 8,
        encoder_hidden: int = 2048,
        points: int = 4,
        norm_groups: int = 32,
        uncertainty: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = ChannelMapper(backbone.channels[-3:], dim, norm_groups)
        self.encoder = DeformableEncoder(
            dim, encoder_depth, encoder_heads, points=points, hidden=encoder_hidden
        )
        self.heads = nn.ModuleDict(heads)
        self.log_variances = None
        if uncertainty:
            self.log_variances = nn.ParameterDict({name: torch.zeros(()) for name in heads})

    def features(self, image: Tensor, sizes: Sequence[Shape] | None = None) -> Features:
        """What heads work with.

        Args:
            image: float ``(B, 3, H, W)``, any H and W.
            sizes: Height and width of each image within the batch, padded right and below; None:
                all of it.
        """
        height, width = image.shape[-2:]
        sizes = [(height, width)] * len(image) if sizes is None else sizes
        return Features(self.backbone(image), sizes, (height, width), self.neck, self.encoder)

    def head(self, name: str) -> Head:
        """A head by name.

        Raises:
            ConfigError: If there is none of that name; lists those that there are.
        """
        if name not in self.heads:
            raise ConfigError(
                f"the model has no head '{name}'{suggest(name, list(self.heads))}; it has "
                f"{', '.join(self.heads)}"
            )
        return self.heads[name]  # type: ignore[return-value]

    def forward(
        self,
        image: Tensor,
        heads: Iterable[str] | None = None,
        sizes: Sequence[Shape] | None = None,
    ) -> dict[str, Any]:
        """What some heads say about a batch, from one pass of the backbone.

        Args:
            image: See `features`.
            heads: Names; None: all.
            sizes: See `features`.
        """
        features = self.features(image, sizes)
        names = self.heads if heads is None else heads
        return {name: self.head(name)(features) for name in names}


def rscotr(
    classes: Mapping[str, int] | None = None,
    multi_level: bool = False,
    num_queries: int = 600,
    mask_queries: int = 100,
    drop_path_rate: float = 0.2,
    checkpointing: bool = False,
    weights: str | Path | None = None,
    init_tasks: str | Path | None = None,
    uncertainty: bool = False,
) -> RSCoTr:
    """The published model on Swin-T, or a specialist that has some of its heads.

    Args:
        classes: Number of classes of the heads ``"cls"``, ``"det"`` and ``"seg"``; those that are
            left out aren't built. Default: the published 45, 20 and 5; 62,552,719 parameters.
        multi_level: Classify from the encoder's tokens (scheme 2) instead of the last stage.
        num_queries: Of detection.
        mask_queries: Of segmentation. Published: 100 (single-level). The official multi-level
            config has 5, which can't train with Potsdam's clutter as a sixth class.
        drop_path_rate: Of the backbone.
        checkpointing: Recompute the backbone's activations in the backward pass.
        weights: File to start from, or where to fetch it: the whole model, official or ours, loaded
            strictly; or Swin-T trained on ImageNet, in Microsoft's layout.
        init_tasks: A detector to start from; see `load_task_pretrain`.
        uncertainty: See `RSCoTr`. Weights that have learnt no variances load all the same.

    Raises:
        ConfigError: If ``classes`` names an unknown head.
        CheckpointError: If a file doesn't fit.

    Source:
        RSCoTr dossier 1; official `configs/multi`.
    """
    classes = {"cls": 45, "det": 20, "seg": 5} if classes is None else classes
    heads: dict[str, Head] = {}
    for name, count in classes.items():
        if name == "cls":
            heads[name] = (MultiLevelSceneClassifier if multi_level else SceneClassifier)(count)
        elif name == "det":
            heads[name] = DINOHead(count, num_queries)
        elif name == "seg":
            heads[name] = MaskDecoder(count, mask_queries)
        else:
            raise ConfigError(f"classes: no head '{name}'{suggest(name, ['cls', 'det', 'seg'])}")
    backbone = Swin(drop_path_rate=drop_path_rate, checkpointing=checkpointing)
    model = RSCoTr(backbone, heads, uncertainty=uncertainty)
    if weights is not None:
        state = remap_official_keys(load_file(locate(weights)))
        if any(key.startswith("encoder.") for key in state):
            load_strict(model, state, where=str(weights), may_miss=("log_variances.",))
        else:
            load_swin(backbone, state, where=str(weights))
    if init_tasks is not None:
        load_task_pretrain(model, load_file(locate(init_tasks)), where=str(init_tasks))
    return model


def load_task_pretrain(
    model: RSCoTr, state: Mapping[str, Tensor], *, where: str = "checkpoint"
) -> list[str]:
    """Start from weights of some of the model's tasks: the official ``--load-task-pretrain``.

    Args:
        model: Takes what the state has; everything else stays as it is.
        state: Of a model in RSCoTr's official layout or ours; or of mmdet's DINO detector on
            Swin-T, whose encoder becomes the shared one and whose neck's biases are dropped.
        where: What to call the checkpoint in an error.

    Returns:
        Names of the weights that were loaded.

    Raises:
        CheckpointError: If a weight has no place in the model, or another shape there.

    Source:
        RSCoTr dossier 2, rule ``dino_mmdet``.
    """
    state = {
        key.replace("bbox_head.transformer.encoder.", "shared_encoder."): value
        for key, value in strip_prefixes(state).items()
        if not re.fullmatch(r"neck\..*conv\.bias", key)
    }
    ours, own = remap_official_keys(state), model.state_dict()
    for key, value in ours.items():
        if key not in own:
            raise CheckpointError(
                f"{where}: '{key}' has no place in the model{suggest(key, [*own])}"
            )
        if value.shape != own[key].shape:
            raise CheckpointError(
                f"{where}: {key} is {tuple(value.shape)} instead of {tuple(own[key].shape)}; give "
                "the model as many classes and queries as the checkpoint has"
            )
    model.load_state_dict(ours, strict=False)
    return list(ours)


# --- from and to official checkpoints -------------------------------------------------------------

_RENAMES = (
    # mmdet's Swin and Microsoft's
    ("backbone.patch_embed.projection.", "backbone.patch_embed.proj."),
    ("backbone.stages.#.blocks.#.attn.w_msa.", "backbone.layers.#.blocks.#.attn."),
    ("backbone.stages.#.blocks.#.ffn.layers.0.0.", "backbone.layers.#.blocks.#.mlp.fc1."),
    ("backbone.stages.#.blocks.#.ffn.layers.1.", "backbone.layers.#.blocks.#.mlp.fc2."),
    ("backbone.stages.#.", "backbone.layers.#."),
    ("neck.convs.#.conv.", "neck.maps.#.0."),
    ("neck.convs.#.gn.", "neck.maps.#.1."),
    ("neck.extra_convs.0.conv.", "neck.extra.0."),
    ("neck.extra_convs.0.gn.", "neck.extra.1."),
    ("shared_encoder.layers.#.attentions.0.", "encoder.layers.#.self_attn."),
    ("shared_encoder.layers.#.ffns.0.layers.0.0.", "encoder.layers.#.ffn.0."),
    ("shared_encoder.layers.#.ffns.0.layers.1.", "encoder.layers.#.ffn.2."),
    ("shared_encoder.layers.#.norms.0.", "encoder.layers.#.norm1."),
    ("shared_encoder.layers.#.norms.1.", "encoder.layers.#.norm2."),
    ("cls_head.pixel_decoder.level_encoding.", "heads.cls.level_encoding."),
    ("cls_head.", "heads.cls."),
    ("bbox_head.transformer.level_embeds", "heads.det.level_embed"),
    ("bbox_head.transformer.decoder.layers.#.attentions.0.attn.", "heads.det.layers.#.self_attn."),
    ("bbox_head.transformer.decoder.layers.#.attentions.1.", "heads.det.layers.#.cross_attn."),
    ("bbox_head.transformer.decoder.layers.#.ffns.0.layers.0.0.", "heads.det.layers.#.ffn.0."),
    ("bbox_head.transformer.decoder.layers.#.ffns.0.layers.1.", "heads.det.layers.#.ffn.2."),
    ("bbox_head.transformer.decoder.layers.#.norms.0.", "heads.det.layers.#.norm1."),
    ("bbox_head.transformer.decoder.layers.#.norms.1.", "heads.det.layers.#.norm2."),
    ("bbox_head.transformer.decoder.layers.#.norms.2.", "heads.det.layers.#.norm3."),
    ("bbox_head.transformer.decoder.norm.", "heads.det.norm."),
    ("bbox_head.transformer.decoder.ref_point_head.", "heads.det.ref_point_head."),
    ("bbox_head.transformer.enc_output.", "heads.det.enc_output."),
    ("bbox_head.transformer.enc_output_norm.", "heads.det.enc_output_norm."),
    ("bbox_head.transformer.query_embed.", "heads.det.query_embed."),
    ("bbox_head.", "heads.det."),
    ("seg_head.pixel_decoder.level_encoding.", "heads.seg.level_encoding."),
    ("seg_head.pixel_decoder.mask_feature.", "heads.seg.mask_feature."),
    ("seg_head.transformer_decoder.layers.#.attentions.0.attn.", "heads.seg.layers.#.cross_attn."),
    ("seg_head.transformer_decoder.layers.#.attentions.1.attn.", "heads.seg.layers.#.self_attn."),
    ("seg_head.transformer_decoder.layers.#.ffns.0.layers.0.0.", "heads.seg.layers.#.ffn.0."),
    ("seg_head.transformer_decoder.layers.#.ffns.0.layers.1.", "heads.seg.layers.#.ffn.2."),
    ("seg_head.transformer_decoder.layers.#.norms.0.", "heads.seg.layers.#.norm1."),
    ("seg_head.transformer_decoder.layers.#.norms.1.", "heads.seg.layers.#.norm2."),
    ("seg_head.transformer_decoder.layers.#.norms.2.", "heads.seg.layers.#.norm3."),
    ("seg_head.transformer_decoder.post_norm.", "heads.seg.post_norm."),
    ("seg_head.", "heads.seg."),
)
"""How keys begin officially and here; ``#`` is a number. The first that fits is used."""

_MERGING = re.compile(r"backbone\.layers\.\d+\.downsample\.(norm|reduction)\.")


def remap_official_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring an official checkpoint to the names of ours, and its merging layers to our order.

    Args:
        state: With wrappers' prefixes or without. Keys of ours pass; those that fit nothing are
            left for strict loading to report.
    """
    renamed = {}
    for key, value in strip_prefixes(state).items():
        ours = _renamed(key, _OURS)
        reordered = ours != key and _MERGING.match(ours)
        renamed[ours] = _column_by_column(value) if reordered else value
    return renamed


def official_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `remap_official_keys`: our weights in the official layout, for export."""
    return {
        _renamed(key, _OFFICIAL): _channel_by_channel(value) if _MERGING.match(key) else value
        for key, value in state.items()
    }


def _column_by_column(value: Tensor) -> Tensor:
    """Input channels of a merging layer: each channel's 2 x 2 square to the squares' channels.

    mmdet unfolds (channel, row, column), Microsoft concatenates (column, row, channel).
    """
    columns: Tensor = value.unflatten(-1, (-1, 2, 2)).transpose(-1, -3)
    return columns.flatten(-3).contiguous()


def _channel_by_channel(value: Tensor) -> Tensor:
    """The inverse of `_column_by_column`."""
    channels: Tensor = value.unflatten(-1, (2, 2, -1)).transpose(-1, -3)
    return channels.flatten(-3).contiguous()


def _table(pairs: Iterable[tuple[str, str]]) -> list[tuple[re.Pattern[str], str]]:
    """Patterns with groups for the numbers, and what replaces them."""
    table = []
    for old, new in pairs:
        pattern = re.compile(re.escape(old).replace(r"\#", r"(\d+)"))
        for number in range(1, pattern.groups + 1):
            new = new.replace("#", rf"\g<{number}>", 1)
        table.append((pattern, new))
    return table


_OURS = _table(_RENAMES)
_OFFICIAL = _table((ours, official) for official, ours in _RENAMES)


def _renamed(key: str, table: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, replacement in table:
        if pattern.match(key):
            return pattern.sub(replacement, key, count=1)
    return key
