"""The ViT-MoE of S5: a plain ViT whose feed-forward layers keep some output channels per task.

Paper: S5: Scalable Semi-Supervised Semantic Segmentation in Remote Sensing, Lv et al. 2025,
arXiv:2508.12409, section on MoE-based multi-dataset fine-tuning.
Official code: https://github.com/MiliLab/S5 (Apache-2.0 by its README),
`RS_Finetune/Semantic_Segmentation/model/backbone/vit_moe.py`. Parameter names are those of its
checkpoints, so that they load strictly as they are.
Departs: the official model is told one task per call; here every sample has its own. `TokenViTMoE`
is not S5's: there a router picks the experts, token by token.
"""

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from swath.core.backbones.vit import SIZES, Size, ViT
from swath.kernels import load_balance_loss, moe_mlp, task_ffn

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

    def losses(self) -> dict[str, Tensor]:
        """None: tasks need no balance."""
        return {}


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


# --- experts for tokens ---------------------------------------------------------------------------


class TokenFeedForward(nn.Module):
    """A feed-forward layer of E experts, of which a router picks K for each token.

    Args:
        width: Channels C.
        hidden: Channels F in between, of each expert.
        num_experts: Experts E.
        top_k: K, 1 to E. The gates of several are renormalised; that of one is its probability,
            which is how the router learns then.

    Attributes:
        balance: Of the last forward pass, `swath.kernels.load_balance_loss`: 1 where all experts
            had as much to do, up to E where one did everything.

    Raises:
        ValueError: If K is out of range.

    Source:
        Riquelme et al. 2021, Scaling Vision with Sparse Mixture of Experts, arXiv:2106.05974,
        section 2, without noise and capacity: no token is dropped. For gates and loss see
        `swath.kernels.moe_mlp`.
    """

    balance: Tensor

    def __init__(self, width: int, hidden: int, num_experts: int, top_k: int) -> None:
        super().__init__()
        if not 1 <= top_k <= num_experts:
            raise ValueError(f"top_k={top_k} must be in 1..{num_experts}, the number of experts")
        self.top_k = top_k
        self.router = nn.Linear(width, num_experts, bias=False)
        self.w1 = nn.Parameter(torch.empty(num_experts, hidden, width, device=None))
        self.b1 = nn.Parameter(torch.zeros(num_experts, hidden))
        self.w2 = nn.Parameter(torch.empty(num_experts, width, hidden, device=None))
        self.b2 = nn.Parameter(torch.zeros(num_experts, width))
        for weight in (self.w1, self.w2):
            nn.init.trunc_normal_(weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens ``(B, N, C)``."""
        tokens = x.flatten(0, 1)
        mixed, routing = moe_mlp(
            tokens,
            self.router(tokens),
            self.w1,
            self.b1,
            self.w2,
            self.b2,
            self.top_k,
            renormalise=self.top_k > 1,
        )
        self.balance = load_balance_loss(routing)
        y: Tensor = mixed.view_as(x)
        return y


class TokenViTMoE(ViT):
    """`ViT` with `TokenFeedForward` in every block: experts for kinds of tokens, not for tasks.

    Stands wherever a `ViTMoE` does, with any number of experts for any number of tasks: what
    belongs to a task alone are then its decoder and head, or its detection head.

    Args:
        num_experts: Experts E in every block.
        top_k: Experts of a token.
        balance: Weight of the load-balance loss.
        **vit: See `ViT`; ``mlp_ratio`` is that of each expert.

    Raises:
        ValueError: As of `TokenFeedForward`.
    """

    def __init__(self, num_experts: int, top_k: int = 2, balance: float = 0.01, **vit: Any) -> None:
        super().__init__(ffn=partial(TokenFeedForward, num_experts=num_experts, top_k=top_k), **vit)
        self.num_experts, self.balance = num_experts, balance

    def forward(self, image: Tensor, *routing: Tensor | int) -> list[Tensor]:
        """As of `ViTMoE`; the tasks of the samples change nothing."""
        return super().forward(image)

    def losses(self) -> dict[str, Tensor]:
        """``"load_balance"``, weighted: the mean over the blocks, of the last forward pass."""
        ffns = (cast(TokenFeedForward, layer.get_submodule("ffn")) for layer in self.layers)
        return {"load_balance": self.balance * torch.stack([ffn.balance for ffn in ffns]).mean()}
