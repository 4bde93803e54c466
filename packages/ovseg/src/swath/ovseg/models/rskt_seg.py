"""RSKT-Seg: cost maps of four directions, and a decoder that takes knowledge of three towers.

Paper: Exploring Efficient Open-Vocabulary Segmentation in the Remote Sensing, Li et al. 2025,
arXiv:2509.12040.
Official code: https://github.com/LiBingyu01/RSKT-Seg, `RSKT_Seg/RSKT_Seg.py` and
`RSKT_Seg/modeling/transformer`.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swath.core.precision import in_float32
from swath.kernels import cost_volume
from swath.ovseg.clip import CLIP, CLIP_SIZES, Size, guiding_blocks, resized, sized
from swath.ovseg.dino import Specialist, set_dino_finetuning
from swath.ovseg.layers import (
    CELLS_AT_ONCE,
    AggregatorLayer,
    AttentionType,
    GuidedUpsample,
    as_cells,
    as_images,
    average_pool,
    check_choice,
    decode,
    guidance_projection,
    guided_qkv,
    in_groups,
    mean_over_prompts,
    text_projection,
    upsampled,
)
from swath.ovseg.models.base import (
    CLIP_KEYS,
    SPECIALIST_KEYS,
    ViTSegmenter,
    remap,
    unmap,
)
from swath.ovseg.models.gsnet import fuse

V = TypeVar("V")

FusionType = Literal["simple_separate", "simple_concatenation", "simple_mean"]
FUSION_TYPES = ("simple_separate", "simple_concatenation", "simple_mean")

DIRECTIONS = (0, 1, 2, 3)
"""Quarter turns, counter-clockwise, of the images whose cost maps are put together."""


class GatedFeedForward(nn.Module):
    """``fc3(relu6(fc1 x) * fc2 x)``, three times as wide inside.

    Args:
        dim: Channels C.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 3 * dim), nn.Linear(dim, 3 * dim)
        self.fc3 = nn.Linear(3 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``(..., C)``."""
        weight = torch.cat([self.fc1.weight, self.fc2.weight])
        gate, value = F.linear(x, weight, torch.cat([self.fc1.bias, self.fc2.bias])).chunk(2, -1)
        x = self.fc3(F.relu6(gate) * value)
        return x


class ReducedAttention(nn.Module):
    """Attention of every cell to blocks of cells, guided by appearance.

    Args:
        dim: Channels C, of the guidance too.
        heads: Heads.
        ratio: Side of a block, cells; what doesn't fill one is left out as key.
    """

    def __init__(self, dim: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.heads, self.ratio = heads, ratio
        self.q, self.k = nn.Linear(2 * dim, dim), nn.Linear(2 * dim, dim)
        self.v, self.proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.sr_k = nn.Conv2d(2 * dim, 2 * dim, ratio, stride=ratio)
        self.norm_k = nn.LayerNorm(2 * dim)
        self.sr_v = nn.Conv2d(dim, dim, ratio, stride=ratio)
        self.norm_v = nn.LayerNorm(dim)

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """Attend within maps ``(B, T, H, W, C)``, guided by ``(B, 1, H, W, C)``."""
        own = x.shape[-1]
        q = F.linear(x, self.q.weight[:, :own], self.q.bias)
        q = q + F.linear(guidance, self.q.weight[:, own:])
        blocks, guiding = self._blocks(x), self._blocks(guidance)
        weight = torch.cat([self._taps(self.sr_k.weight[:, :own]), self._taps(self.sr_v.weight)])
        bias = torch.cat([self.sr_k.bias, self.sr_v.bias])  # type: ignore[list-item]
        k, v = F.linear(blocks, weight, bias).split([2 * own, own], -1)
        k = k + F.linear(guiding, self._taps(self.sr_k.weight[:, own:]))
        k, v = self.k(self.norm_k(k)), self.v(self.norm_v(v))
        q, k, v = (self._by_head(part) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v)  # (B * T, heads, H * W, C / heads)
        x = self.proj(mixed.transpose(1, 2).reshape(x.shape))
        return x

    def _blocks(self, x: Tensor) -> Tensor:
        """Blocks of cells as vectors: ``(B, T, H / r, W / r, r * r * C)``."""
        rows, columns = x.shape[2] // self.ratio, x.shape[3] // self.ratio
        x = x[:, :, : rows * self.ratio, : columns * self.ratio]
        x = x.unflatten(3, (columns, self.ratio)).unflatten(2, (rows, self.ratio))
        return x.transpose(3, 4).flatten(4)

    @staticmethod
    def _taps(weight: Tensor) -> Tensor:
        """A convolution's weight ``(O, I, r, r)`` as a linear layer's on such vectors."""
        return weight.permute(0, 2, 3, 1).flatten(1)

    def _by_head(self, x: Tensor) -> Tensor:
        heads: Tensor = (
            x.flatten(0, 1).flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        )
        return heads


class SpatialFusion(nn.Module):
    """Spatial half of an RS-Fusion layer: reduced attention, gated feed-forward, 7 x 7 depthwise.

    Args:
        dim: Channels C.
        heads: Heads.
        ratio: See `ReducedAttention`.
    """

    def __init__(self, dim: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = ReducedAttention(dim, heads, ratio)
        self.mlp: Any = GatedFeedForward(dim)
        depthwise = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        # official checkpoints have it there
        self.mlp.dwconv = nn.Sequential(OrderedDict(dwconv=depthwise))

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """Transform ``(B, T, H, W, C)``, guided by ``(B, H, W, C)``."""
        x = x + self.attention(self.norm1(x), guidance[:, None])
        hidden = as_images(self.mlp(self.norm2(x)))
        return x + as_cells(self.mlp.dwconv(hidden), x)


class TextGuidedAttention(nn.Module):
    """The projections of the attention between classes.

    Args:
        dim: Channels C, of the guidance too.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(2 * dim, dim), nn.Linear(2 * dim, dim)
        self.v, self.proj = nn.Linear(dim, dim), nn.Linear(dim, dim)


class ClassFusion(nn.Module):
    """Class half of an RS-Fusion layer: softmax attention between classes, gated feed-forward.

    Args:
        dim: Channels C.
        heads: Heads.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = TextGuidedAttention(dim)
        self.mlp = GatedFeedForward(dim)

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """Transform ``(B, T, H, W, C)``, guided by ``(B or 1, T, C)``."""
        attention = self.attention
        qkv = guided_qkv(
            self.norm1(x), guidance[:, :, None, None], attention.q, attention.k, attention.v
        )
        cells = qkv.permute(0, 2, 3, 1, 4).flatten(0, 2)  # (B * H * W, T, 3 C)
        q, k, v = cells.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        mixed = attention.proj(mixed).unflatten(0, (x.shape[0], x.shape[2], x.shape[3]))
        x = x + mixed.permute(0, 3, 1, 2, 4)
        return x + F.relu6(self.mlp(self.norm2(x)))


class RSFusionLayer(nn.Module):
    """RS-Fusion, the efficient aggregation: spatial fusion, then class fusion at half the size.

    Args:
        dim: Channels C; both guidances must have as many.
        heads: Heads.
        ratio: See `ReducedAttention`.
        pooling: Cells that are averaged before the class fusion, in training and evaluation.

    Source:
        RSKT-Seg, RS-Fusion; dossier section 6.
    """

    def __init__(
        self, dim: int, heads: int = 8, ratio: int = 2, pooling: Sequence[int] = (2, 2)
    ) -> None:
        super().__init__()
        self.pooling = tuple(pooling)
        self.spatial_fusion = nn.ModuleDict({"sa": SpatialFusion(dim, heads, ratio)})
        self.class_fusion = nn.ModuleDict({"sa": ClassFusion(dim, heads)})

    def forward(self, x: Tensor, appearance: Tensor, text: Tensor) -> Tensor:
        """Transform ``(B, T, H, W, C)``, guided by ``(B, H, W, C)`` and ``(B or 1, T, C)``."""
        spatial, between = self.spatial_fusion["sa"], self.class_fusion["sa"]
        classes = max(1, CELLS_AT_ONCE // (x.shape[2] * x.shape[3]))
        x = in_groups(lambda part: spatial(part, appearance), x, 1, classes)
        pooled = average_pool(x, self.pooling)
        rows = max(1, CELLS_AT_ONCE // (pooled.shape[1] * pooled.shape[3]))
        pooled = in_groups(lambda part: between(part, text), pooled, 2, rows)
        return x + upsampled(pooled, (x.shape[2], x.shape[3]))


class RSKTDecoder(nn.Module):
    """From the features of all streams to logits: RS-CMA, RS-Fusion and RS-Transfer.

    Args:
        text_guidance_dim: Channels E of texts and features.
        text_guidance_proj_dim: What texts are projected to; ``hidden_dim`` if efficient.
        appearance_guidance_dim: Channels of the appearance guidance.
        appearance_guidance_proj_dim: What it is projected to; ``hidden_dim`` if efficient.
        decoder_dims: Channels after each upsampling.
        decoder_guidance_dims: Channels of the finer guidance of every stream.
        decoder_clip_guidance_proj_dims: What the generalist's and RemoteCLIP's are projected to.
        decoder_dino_guidance_proj_dims: What the specialist's is projected to.
        use_rotate: Whether there are cost maps of four directions.
        use_remote_clip: Whether RemoteCLIP guides the decoder.
        use_remote_dino: Whether there is a specialist.
        fusion_type: How the specialist's cost map joins: ``"simple_separate"`` (published) as in
            GSNet; ``"simple_concatenation"`` as one more channel; ``"simple_mean"`` by averaging.
        use_efficient: RS-Fusion layers (published); False takes CAT-Seg's, which alone read
            ``nheads``, ``pooling_size``, ``eval_pooling_size``, ``window_size``,
            ``attention_type`` and ``pad_len``.
        num_layers: Layers of aggregation.
        nheads: See `AggregatorLayer`, as the rest.
        hidden_dim: Channels of the embedded cost volume.
        pooling_size: See there.
        eval_pooling_size: See there.
        window_size: See there.
        attention_type: See there.
        prompt_channel: Templates P.
        pad_len: See there.

    Raises:
        ConfigError: If the fusion type is unknown.
    """

    def __init__(
        self,
        text_guidance_dim: int = 512,
        text_guidance_proj_dim: int = 128,
        appearance_guidance_dim: int = 512,
        appearance_guidance_proj_dim: int = 128,
        decoder_dims: Sequence[int] = (64, 32),
        decoder_guidance_dims: Sequence[int] = (256, 128),
        decoder_clip_guidance_proj_dims: Sequence[int] = (32, 16),
        decoder_dino_guidance_proj_dims: Sequence[int] = (32, 16),
        use_rotate: bool = True,
        use_remote_clip: bool = True,
        use_remote_dino: bool = True,
        fusion_type: FusionType = "simple_separate",
        use_efficient: bool = True,
        num_layers: int = 3,
        nheads: int = 4,
        hidden_dim: int = 128,
        pooling_size: Sequence[int] = (2, 2),
        eval_pooling_size: Sequence[int] | None = None,
        window_size: int = 12,
        attention_type: AttentionType = "linear",
        prompt_channel: int = 1,
        pad_len: int = 256,
    ) -> None:
        super().__init__()
        check_choice("fusion_type", fusion_type, FUSION_TYPES)
        self.fusion_type = fusion_type
        self.prompt_channel = prompt_channel
        self.rotations = DIRECTIONS if use_rotate else DIRECTIONS[:1]
        self.layers = nn.ModuleList(
            RSFusionLayer(hidden_dim)
            if use_efficient
            else AggregatorLayer(
                hidden_dim,
                appearance_guidance_proj_dim,
                text_guidance_proj_dim,
                nheads,
                window_size,
                pooling_size,
                eval_pooling_size,
                attention_type,
                pad_len,
            )
            for _ in range(num_layers)
        )
        self.guidance_projection = guidance_projection(
            appearance_guidance_dim, appearance_guidance_proj_dim
        )
        self.text_guidance_projection = text_projection(text_guidance_dim, text_guidance_proj_dim)

        maps = len(self.rotations)
        if use_remote_dino and fusion_type == "simple_concatenation":
            maps += 1
        elif use_remote_dino and fusion_type == "simple_mean":
            maps = 1
        self.conv1 = nn.Conv2d(maps * prompt_channel, hidden_dim, 7, padding=3)
        if use_remote_dino and fusion_type == "simple_separate":
            self.conv2 = nn.Conv2d(prompt_channel, hidden_dim, 7, padding=3)
            self.fusion_corr = nn.Conv2d(2 * hidden_dim, hidden_dim, 7, padding=3)

        clip_dims = tuple(decoder_clip_guidance_proj_dims)
        streams = {"CLIP_decoder_guidance_projection": clip_dims}
        if use_remote_clip:
            streams["CLIP_decoder_guidance_projection_remote"] = clip_dims
        if use_remote_dino:
            streams["DINO_decoder_guidance_projection"] = tuple(decoder_dino_guidance_proj_dims)
        for name, dims in streams.items():
            projections = (
                guidance_projection(*d) for d in zip(decoder_guidance_dims, dims, strict=True)
            )
            self.add_module(name, nn.ModuleList(projections))
        self._streams = tuple(streams)

        kept = clip_dims if use_remote_clip else tuple(decoder_dino_guidance_proj_dims)
        widths = (hidden_dim, *decoder_dims)
        stages = [
            GuidedUpsample(
                widths[i],
                widths[i] - kept[i],
                sum(dims[i] for dims in streams.values()),
                widths[i + 1],
            )
            for i in range(2)
        ]
        self.Fusiondecoder1, self.Fusiondecoder2 = stages
        self.head = nn.Conv2d(decoder_dims[1], 1, 3, padding=1)

    def forward(
        self,
        clip_features: Sequence[Tensor],
        dino_features: Tensor | None,
        text: Tensor,
        guidance: Sequence[Tensor],
        remote_guidance: Sequence[Tensor] = (),
        dino_guidance: Sequence[Tensor] = (),
    ) -> Tensor:
        """Logits ``(B, T, 4 h, 4 w)``.

        Args:
            clip_features: A map ``(B, E, h, w)`` for each direction, as it came from the turned
                image.
            dino_features: ``(B, E, h, w)`` of the upright image, or None without a specialist.
            text: ``(B or 1, T, P, E)``.
            guidance: Appearance ``(B, E, h, w)``, and the generalist's maps of twice and four
                times the size.
            remote_guidance: RemoteCLIP's maps of these sizes; nothing without it.
            dino_guidance: The specialist's; nothing without one.
        """
        x = self._embedded(clip_features, dino_features, text)
        x = x.permute(0, 2, 3, 1).unflatten(0, (len(guidance[0]), -1))  # (B, T, h, w, C)
        appearance = self.guidance_projection(guidance[0]).permute(0, 2, 3, 1)
        text_guidance = self.text_guidance_projection(mean_over_prompts(text))
        for layer in self.layers:
            x = layer(x, appearance, text_guidance)
        given = [maps for maps in (guidance[1:], remote_guidance, dino_guidance) if maps]
        finer: list[list[Tensor]] = [[], []]
        for name, maps in zip(self._streams, given, strict=True):
            projections: Any = self.get_submodule(name)
            for into, projection, g in zip(finer, projections, maps, strict=True):
                into.append(projection(g))
        stages = [(self.Fusiondecoder1, finer[0]), (self.Fusiondecoder2, finer[1])]
        return decode(x, stages, self.head)

    @in_float32  # in bfloat16 two to three times as many pixels change their class
    def _embedded(self, clip: Sequence[Tensor], dino: Tensor | None, text: Tensor) -> Tensor:
        """RS-CMA: the fused, embedded cost maps ``(B * T, C, h, w)``."""
        queried = cost_volume(clip, text, self.rotations, layout="images")
        if dino is None:
            embedded: Tensor = self.conv1(queried)
            return embedded
        guided = cost_volume([dino], text, (0,), layout="images")
        if self.fusion_type == "simple_separate":
            return fuse(self, queried, guided)
        joined = torch.cat([queried, guided], 1)  # (B * T, (N + 1) * P, h, w)
        if self.fusion_type == "simple_mean":
            joined = joined.unflatten(1, (-1, text.shape[2])).mean(1)
        embedded = self.conv1(joined)
        return embedded


class RSKTSeg(ViTSegmenter):
    """RSKT-Seg.

    Args:
        clip: Arguments of `CLIP`.
        remote_clip: Arguments of `CLIP` for RemoteCLIP.
        specialist: Arguments of `swath.ovseg.dino.DINO`.
        aggregator: Arguments of `RSKTDecoder` other than streams and channels of features and
            guidance.
        guidance_dims: Channels of the guidance of the decoder.
        taps: Blocks of CLIP that it comes from.
        dino_taps: Blocks of the specialist that it comes from.
        remote_taps: Blocks of RemoteCLIP; later ones and its text tower never run, but are part of
            the released files.
        use_rotate: Whether CLIP sees the image in four directions.
        use_remote_clip: Whether RemoteCLIP guides the decoder.
        use_remote_dino: Whether there is a specialist.
        finetune: See `swath.ovseg.clip.set_finetuning`; RemoteCLIP is frozen.
        dino_finetune: See `swath.ovseg.dino.set_dino_finetuning`.
        cell: See `ViTSegmenter`.
    """

    def __init__(
        self,
        clip: Mapping[str, Any] | None = None,
        remote_clip: Mapping[str, Any] | None = None,
        specialist: Mapping[str, Any] | None = None,
        aggregator: Mapping[str, Any] | None = None,
        guidance_dims: Sequence[int] = (256, 128),
        taps: Sequence[int] = (3, 7),
        dino_taps: Sequence[int] = (3, 7),
        remote_taps: Sequence[int] = (3, 7),
        use_rotate: bool = True,
        use_remote_clip: bool = True,
        use_remote_dino: bool = True,
        finetune: str = "attention",
        dino_finetune: str = "freeze",
        cell: int = 16,
    ) -> None:
        super().__init__(clip or {}, guidance_dims, taps, finetune, cell)
        self.remote_taps = tuple(remote_taps)
        self.remote_clip = self.specialist = None
        if use_remote_clip:
            self.remote_clip = CLIP(**(remote_clip or CLIP_SIZES["b32"])).requires_grad_(False)
            width = self.remote_clip.vision_width
            self.upsample1_remote = nn.ConvTranspose2d(width, guidance_dims[0], 2, stride=2)
            self.upsample2_remote = nn.ConvTranspose2d(width, guidance_dims[1], 4, stride=4)
        if use_remote_dino:
            self.specialist = Specialist(self.clip.embed_dim, guidance_dims, dino_taps, specialist)
            set_dino_finetuning(self.specialist.vit, dino_finetune)
        self.aggregator = RSKTDecoder(
            text_guidance_dim=self.clip.embed_dim,
            appearance_guidance_dim=self.clip.embed_dim,
            decoder_guidance_dims=guidance_dims,
            use_rotate=use_rotate,
            use_remote_clip=use_remote_clip,
            use_remote_dino=use_remote_dino,
            **(aggregator or {}),
        )

    def score(self, image: Tensor, text: Tensor, grid: tuple[int, int]) -> Tensor:
        """See `OpenVocabularySegmenter.score`."""
        clip, guidance = self._directions(image, grid)
        dino, dino_guidance = self.specialist(image, grid) if self.specialist else (None, [])
        remote_guidance: list[Tensor] = []
        if self.remote_clip is not None:
            first, second = self.remote_clip.tapped_maps(image, grid, self.remote_taps)
            remote_guidance = [self.upsample1_remote(first), self.upsample2_remote(second)]
        logits: Tensor = self.aggregator(
            clip, dino, text[None], guidance, remote_guidance, dino_guidance
        )
        return logits

    def _directions(
        self, image: Tensor, grid: tuple[int, int]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """CLIP's features of the image in each direction, and the upright one's guidance.

        A square grid's directions are one batch.
        """
        patch = self.clip.patch_size
        image = resized(image, (grid[0] * patch, grid[1] * patch))
        turned = [torch.rot90(image, k, (2, 3)) for k in self.aggregator.rotations]
        count = len(image)
        if grid[0] == grid[1]:
            found, taps = self.clip.dense(torch.cat(turned), grid, self.taps)
            features = list(found.split(count))
        else:  # upright and upside down, and then the two on their sides
            found, taps = self.clip.dense(torch.cat(turned[::2]), grid, self.taps)
            features = list(found.split(count))
            if turned[1:]:
                aside, _ = self.clip.dense(torch.cat(turned[1::2]), grid[::-1])
                features = [
                    x for pair in zip(features, aside.split(count), strict=True) for x in pair
                ]
        first, second = (x[:count] for x in taps)
        return features, [features[0], self.upsample1(first), self.upsample2(second)]

    def cost_maps(self, image: Tensor, text: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
        """See `OpenVocabularySegmenter.cost_maps`."""
        clip, _ = self._directions(image, grid)
        maps = cost_volume(clip, text, self.aggregator.rotations)
        by_direction = maps.unflatten(1, (len(clip), -1)).mean(2).unbind(1)
        turns = self.aggregator.rotations
        named = {f"clip {90 * k}": x for k, x in zip(turns, by_direction, strict=True)}
        if self.specialist is not None:
            dino, _ = self.specialist(image, grid)
            named["specialist"] = cost_volume([dino], text, (0,)).mean(1)
        return named


def rskt_seg(
    size: Size = "b",
    num_layers: int = 3,
    fusion_type: FusionType = "simple_separate",
    use_efficient: bool = True,
    use_rotate: bool = True,
    use_remote_clip: bool = True,
    use_remote_dino: bool = True,
    finetune: str = "attention",
    dino_finetune: str = "freeze",
    prompt_channel: int = 1,
    eval_pooling_size: Sequence[int] = (1, 1),
) -> RSKTSeg:
    """RSKT-Seg as published: 398,896,835 parameters with ViT-B/16, ViT-B/32 and ViT-B/8.

    Args:
        size: CLIP: ``"b"`` for ViT-B/16, ``"l"`` for ViT-L/14 at 336 px, or another of
            `swath.ovseg.clip.CLIP_SIZES`, or arguments of `CLIP`.
        num_layers: Layers of aggregation. Released files have 5 (DLRSD) and 3 (iSAID) with B/16, 5
            (DLRSD) and 2 (iSAID) with L/14.
        fusion_type: See `RSKTDecoder`.
        use_efficient: See there.
        use_rotate: See `RSKTSeg`.
        use_remote_clip: See there.
        use_remote_dino: See there.
        finetune: What of CLIP trains.
        dino_finetune: What of the specialist trains.
        prompt_channel: Templates per class.
        eval_pooling_size: Of CAT-Seg's class aggregation in evaluation, without ``use_efficient``.
    """
    return RSKTSeg(
        sized(size),
        aggregator={
            "num_layers": num_layers,
            "fusion_type": fusion_type,
            "use_efficient": use_efficient,
            "prompt_channel": prompt_channel,
            "eval_pooling_size": eval_pooling_size,
        },
        taps=guiding_blocks(size),
        use_rotate=use_rotate,
        use_remote_clip=use_remote_clip,
        use_remote_dino=use_remote_dino,
        finetune=finetune,
        dino_finetune=dino_finetune,
    )


_KEYS = {"sem_seg_head.predictor.clip_model_remote.": "remote_clip."} | CLIP_KEYS | SPECIALIST_KEYS


def remap_official_keys(state: Mapping[str, V]) -> dict[str, V]:
    """Rename the keys of an official RSKT-Seg checkpoint to those of our model."""
    return remap(state, _KEYS)


def official_keys(state: Mapping[str, V]) -> dict[str, V]:
    """The inverse: our keys in the official layout."""
    return unmap(state, _KEYS)
