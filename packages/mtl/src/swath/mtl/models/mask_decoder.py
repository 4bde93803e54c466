"""The segmentation head: a Mask2Former-like decoder whose queries are classes.

Paper: Cheng et al. 2022, "Masked-attention Mask Transformer for Universal Image Segmentation";
its use here: RSCoTr, Li et al. 2024, 10.1109/TGRS.2024.3354783.
Official code: https://github.com/Li-Qingyun/RSCoTr, `models/multi/seg_head`.
Departs from Mask2Former as RSCoTr does: the stride-4 map isn't used, only the last layer's masks
are trained, by plain cross-entropy; there is no matching.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swath.core.errors import ConfigError
from swath.mtl.models.encoder import COARSE_FIRST_TEMPERATURE, Features
from swath.mtl.models.heads import Head
from swath.mtl.models.layers import feed_forward, mlp, resized, sine_positions

UNLABELLED = -1
"""Label of pixels that aren't trained on, whatever a data set calls them."""


class MaskDecoderLayer(nn.Module):
    """Masked cross-attention, self-attention and a feed-forward network, each with its norm."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.cross_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm1 = nn.LayerNorm(dim)
        self.self_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(dim)
        self.ffn = feed_forward(dim, hidden)
        self.norm3 = nn.LayerNorm(dim)

    def forward(
        self, query: Tensor, query_pos: Tensor, memory: Tensor, memory_pos: Tensor, blocked: Tensor
    ) -> Tensor:
        """One layer.

        Args:
            query: ``(B, Q, C)``.
            query_pos: ``(Q, C)``.
            memory: ``(B, S, C)`` of one level.
            memory_pos: ``(1, S, C)``.
            blocked: bool ``(B * heads, Q, S)``, True where a query may not look.
        """
        attended = self.cross_attn(
            query + query_pos, memory + memory_pos, memory, attn_mask=blocked, need_weights=False
        )[0]
        query = self.norm1(query + attended)
        placed = query + query_pos
        attended = self.self_attn(placed, placed, query, need_weights=False)[0]
        query = self.norm2(query + attended)
        out: Tensor = self.norm3(query + self.ffn(query))
        return out


class MaskPrediction(NamedTuple):
    """What the decoder says after one of its layers.

    Attributes:
        logits: ``(B, K', h, w)`` by channel of the output, at stride 8.
        blocked: bool ``(B, Q, S)``, where the next layer's queries may not look: outside of their
            masks. A query whose mask is empty looks everywhere.
    """

    logits: Tensor
    blocked: Tensor


class MaskDecoder(Head):
    """A class for every pixel.

    Args:
        num_classes: K of the data set. The output may have more channels; see ``scheme``.
        num_queries: Q.
        scheme: 2 (as published): query k is class k, the output has Q channels, of which those from
            K on are for ignored classes that are trained nevertheless (Potsdam's clutter) or for
            nothing. 1: every query gives a mask and weights for K + 1 channels.
        dim: Channels C.
        depth: Layers.
        heads: Attention heads.
        hidden: Width of the feed-forward networks.
        levels: Levels of the pyramid, which the layers look at in turn, coarsest first.

    Attributes:
        out_channels: Channels of the output.

    Raises:
        ConfigError: If there are fewer queries than classes in scheme 2, or no such scheme.

    Source:
        RSCoTr dossier 1.5.
    """

    def __init__(
        self,
        num_classes: int = 5,
        num_queries: int = 100,
        scheme: int = 2,
        dim: int = 256,
        depth: int = 9,
        heads: int = 8,
        hidden: int = 2048,
        levels: int = 4,
    ) -> None:
        super().__init__()
        if scheme not in (1, 2):
            raise ConfigError(f"scheme={scheme} must be 1 or 2")
        if scheme == 2 and num_queries < num_classes:
            raise ConfigError(
                f"num_queries={num_queries} for num_classes={num_classes}; scheme 2 needs a query "
                "for every class"
            )
        self.num_classes, self.scheme, self.heads = num_classes, scheme, heads
        self.out_channels = num_queries if scheme == 2 else num_classes + 1
        self.level_encoding = nn.Embedding(levels, dim)
        self.mask_feature = nn.Conv2d(dim, dim, 1)
        self.query_embed = nn.Embedding(num_queries, dim)
        self.query_feat = nn.Embedding(num_queries, dim)
        self.level_embed = nn.Embedding(levels, dim)
        self.layers = nn.ModuleList(MaskDecoderLayer(dim, heads, hidden) for _ in range(depth))
        self.post_norm = nn.LayerNorm(dim)
        self.mask_embed = mlp(dim, dim)
        if scheme == 1:
            self.cls_embed = nn.Linear(dim, num_classes + 1)
        self._initialise()

    def _initialise(self) -> None:
        for weight in self.layers.parameters():
            if weight.ndim > 1:
                nn.init.xavier_normal_(weight)
        nn.init.kaiming_uniform_(self.mask_feature.weight, a=1)  # Caffe2's Xavier
        nn.init.zeros_(self.mask_feature.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.level_encoding.weight)

    def forward(self, features: Features) -> Tensor:
        """Logits ``(B, out_channels, H/8, W/8)``; see `logits_at` for another size."""
        return self.decode(self.memories(features))[-1].logits

    def memories(self, features: Features) -> list[Tensor]:
        """Maps ``(B, C, h, w)`` of the shared encoder, coarsest first."""
        return features.encoder.coarse_first(features.pyramid, self.level_encoding.weight)

    def decode(self, memories: list[Tensor]) -> list[MaskPrediction]:
        """What is predicted before the first layer and after each."""
        sizes = [m.shape[-2:] for m in memories]
        mask_feature = self.mask_feature(memories[-1])
        tokens, positions = [], []
        for level, memory in enumerate(memories):
            tokens.append(memory.flatten(2).transpose(1, 2) + self.level_embed.weight[level])
            nowhere = torch.zeros(1, *sizes[level], dtype=torch.bool, device=memory.device)
            code = sine_positions(nowhere, memory.shape[1] // 2, COARSE_FIRST_TEMPERATURE)
            positions.append(code.flatten(1, 2).to(memory.dtype))
        query = self.query_feat.weight.expand(len(memories[0]), -1, -1)
        predictions = [self._predict(query, mask_feature, sizes[0])]
        for number, layer in enumerate(self.layers):
            level = number % len(memories)
            blocked = predictions[-1].blocked.repeat_interleave(self.heads, 0)
            query = layer(query, self.query_embed.weight, tokens[level], positions[level], blocked)
            following = sizes[(number + 1) % len(memories)]
            predictions.append(self._predict(query, mask_feature, following))
        return predictions

    def _predict(
        self, query: Tensor, mask_feature: Tensor, following: torch.Size
    ) -> MaskPrediction:
        query = self.post_norm(query)
        masks = torch.einsum("bqc,bchw->bqhw", self.mask_embed(query), mask_feature)
        logits = masks
        if self.scheme == 1:
            logits = torch.einsum("bqk,bqhw->bkhw", self.cls_embed(query), masks)
        blocked = resized(masks.detach(), following).flatten(2).sigmoid() < 0.5
        return MaskPrediction(logits, blocked & ~blocked.all(-1, keepdim=True))

    def losses(self, features: Features, targets: Tensor) -> dict[str, Tensor]:
        """``"ce"``, and the figure ``"accuracy"`` in 0..1 of the labelled pixels.

        The cross-entropy's mean is over all pixels, unlabelled ones included, as officially.

        Args:
            features: Of the batch.
            targets: int64 ``(B, H, W)``, 0 to `out_channels` - 1, or `UNLABELLED`.
        """
        logits = resized(self(features).float(), targets.shape[-2:])
        total = F.cross_entropy(logits, targets, ignore_index=UNLABELLED, reduction="sum")
        labelled = targets != UNLABELLED
        hits = (logits.detach().argmax(1) == targets)[labelled]
        return {
            "ce": total / targets.numel(),
            "accuracy": hits.sum() / hits.numel() if hits.numel() else total.detach() * 0,
        }
