"""The ViT-MoE of S5: a plain ViT whose feed-forward layers keep some output channels per task.

Paper: S5: Scalable Semi-Supervised Semantic Segmentation in Remote Sensing, Lv et al. 2025,
arXiv:2508.12409, section on MoE-based multi-dataset fine-tuning.
Official code: https://github.com/MiliLab/S5 (Apache-2.0 by its README),
`RS_Finetune/Semantic_Segmentation/model/backbone/vit_moe.py`. Parameter names are those of its
checkpoints, so that they load strictly as they are.
Departs: the official model is told one task per call; here every sample has its own.
"""

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from swath.core.backbones.vit import SIZES, Size, ViT
from swath.kernels import task_ffn

PART_FEATURES = 256
"""Output channels of an expert, r, for every size of S5's models."""


class TaskFeedForward(nn.Module):
    """A feed-forward layer that computes its last r output channels by the expert of the task.

    The hidden layer is shared; so are the first C - r output channels. There is no gate and no
    balance loss: the task names its expert.

    Args:
        width: Channels C.
        hidden: Channels in between.
        num_experts: Experts E.
        part_features: Output channels r of an expert, 0 < r < C.

    Attributes:
        experts: One linear layer per expert, so that single ones can be frozen, added and stored
            under their official names.

    Raises:
        ValueError: If there is no expert, or r is out of range.

    Source:
        S5 dossier a.3, official `FFNMOE` (LayerScale, which is off in every recipe, left out).
    """

    def __init__(self, width: int, hidden: int, num_experts: int, part_features: int) -> None:
        super().__init__()
        if not 0 < part_features < width or num_experts < 1:
            raise ValueError(
                f"num_experts={num_experts} must be at least 1 and part_features={part_features} "
                f"between 0 and the width {width}"
            )
        self.layers = nn.Sequential(
            nn.Sequential(nn.Linear(width, hidden), nn.GELU()),
            nn.Linear(hidden, width - part_features),
        )
        self.experts = nn.ModuleList(nn.Linear(hidden, part_features) for _ in range(num_experts))

    def forward(self, x: Tensor, task_ids: Tensor | int) -> Tensor:
        """Transform tokens.

        Args:
            x: float ``(B, N, C)``.
            task_ids: int64 ``(B,)`` in [0, E), the expert of each sample; or one int for all.

        Returns:
            ``(B, N, C)``: shared channels, then those of the sample's expert. An expert that no
            sample chose gets zero gradients, not None, so that DDP needs no search for it.

        Raises:
            ValueError: If an id is out of range (on a GPU see `swath.kernels.task_ffn`).
        """
        hidden = cast(nn.Linear, self.layers.get_submodule("0.0"))
        shared = cast(nn.Linear, self.layers[1])
        experts = [cast(nn.Linear, expert) for expert in self.experts]
        y: Tensor = task_ffn(
            x,
            hidden.weight,
            hidden.bias,
            shared.weight,
            shared.bias,
            torch.stack([expert.weight for expert in experts]),
            torch.stack([expert.bias for expert in experts]),
            task_ids,
        )
        return y


class ViTMoE(ViT):
    """`ViT` with `TaskFeedForward` in every block; its forward takes the task of each sample.

    ``forward(image, task_ids)`` gives four maps ``(B, C, h_i, w_i)``, finest first, of float images
    ``(B, in_channels, H, W)`` of any size; ``task_ids`` as in `TaskFeedForward`. Samples of
    different tasks share the batch.

    Args:
        num_experts: Experts E in every block, one for each task.
        part_features: Output channels r of an expert.
        **vit: See `ViT`.

    Source:
        S5 dossier a.1, a.3, official `ViT` of `vit_moe.py`.
    """

    def __init__(self, num_experts: int, part_features: int = PART_FEATURES, **vit: Any) -> None:
        ffn = partial(TaskFeedForward, num_experts=num_experts, part_features=part_features)
        super().__init__(ffn=ffn, **vit)
        self.num_experts, self.part_features = num_experts, part_features


def vit_moe(size: Size, num_experts: int, **vit: Any) -> ViTMoE:
    """ViT-MoE-B, L or H as S5 configures them: 121,834,752 parameters for B at 512 px, 4 experts.

    Args:
        size: ``"b"``, ``"l"`` or ``"h"``.
        num_experts: See `ViTMoE`.
        **vit: See `ViT`.

    Source:
        S5 dossier, tables of a.1 and g.
    """
    return ViTMoE(num_experts, **SIZES[size], **vit)
