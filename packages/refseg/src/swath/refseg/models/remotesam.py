"""RemoteSAM: a sentence and an image in, the mask of what the sentence means out.

Paper: RemoteSAM, Yao et al. 2025, arXiv:2505.18022; the network is that of RMSIN, Liu et al. 2024,
arXiv:2312.12470, which builds on LAVT, Yang et al. 2022, arXiv:2112.02244. Official code:
https://github.com/1e12Leon/RemoteSAM (no licence file), https://github.com/Lsan2401/RMSIN,
https://github.com/yz93/LAVT-RIS. Parameter names are those of its checkpoints, which therefore load
strictly as they are; see `remap_official_keys`.

A Swin Transformer fuses words into pixels after each of its stages (`MultiModalStage`); a module on
a small grid relates the stages to each other (`swath.refseg.models.cross_scale`); a decoder with
rotated convolutions gives two logits a pixel; BERT reads the sentence. Tokens are kept as maps
``(B, H, W, C)`` inside the backbone.

What the official network takes from its input size alone is computed here for any: maps needn't be
square, and the decoder upsamples to the next map's size instead of by two.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from swath.core.backbones.swin import (
    SIZES,
    PatchEmbed,
    SwinStage,
    drop_path_rates,
    stage_widths,
)
from swath.core.backbones.vit import init_linear
from swath.core.checkpoint.fetch import locate
from swath.core.checkpoint.official import load_strict, strip_prefixes
from swath.core.checkpoint.safe import load_file
from swath.core.precision import in_float32
from swath.refseg.models.cross_scale import CrossScaleInteraction
from swath.refseg.models.rotated_conv import AdaptiveRotatedConv2d
from swath.refseg.models.upsampled_conv import convolve_upsampled
from swath.refseg.models.winograd import convolve_3x3

ABSENT_WORD = -1e4
"""Added to the scores of padding in a sentence."""


class PointwiseConv(nn.Conv1d):
    """A 1 x 1 convolution over tokens ``(..., C)``, stored as checkpoints have it."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Project tokens ``(..., in_channels)``."""
        return F.linear(x, self.weight[..., 0], self.bias)


class RepConvBranch(nn.Module):
    """1 x 1 convolution, batch norm, 3 x 3 convolution, batch norm; of one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(1)
        self.conv2 = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``(B, 1, H, W)``."""
        x = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        return x


class RepPointBranch(nn.Module):
    """1 x 1 convolution and batch norm of one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``(B, 1, H, W)``."""
        x = self.bn(self.conv(x))
        return x


class RepBlock(nn.Module):
    """Two re-parameterisable blocks in series, each the sum of three branches of one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.brb_3x3, self.brb_3x3_2 = RepConvBranch(), RepConvBranch()
        self.brb_1x1, self.brb_1x1_2 = RepPointBranch(), RepPointBranch()
        self.brb_identity, self.brb_identity_2 = nn.BatchNorm2d(1), nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``(B, 1, H, W)``."""
        x = F.relu(self.brb_1x1(x) + self.brb_3x3(x) + self.brb_identity(x))
        x = self.brb_1x1_2(x) + self.brb_3x3_2(x) + self.brb_identity_2(x)
        return x


class VisualResidual(nn.Module):
    """Weighs places by what the mean over channels looks like around them.

    Source:
        RMSIN section 3.1, dossier 1.3.
    """

    def __init__(self) -> None:
        super().__init__()
        self.repblock = RepBlock()

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the places of ``(B, H, W, C)``."""
        weights = self.repblock(x.mean(-1)[:, None]).sigmoid()
        x = x * weights[:, 0, :, :, None]
        return x


class ImageLanguageAttention(nn.Module):
    """Every place collects the words that concern it.

    Args:
        width: Channels C of the stage.
        words_width: Channels D of a word.
        num_heads: Heads; divides C.
    """

    def __init__(self, width: int, words_width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.scale = num_heads, width**-0.5  # by all channels, whatever the heads
        self.f_key = nn.Sequential(PointwiseConv(words_width, width))
        self.f_query = nn.Sequential(PointwiseConv(width, width))
        self.f_value = nn.Sequential(PointwiseConv(words_width, width))
        self.W = nn.Sequential(PointwiseConv(width, width))

    def query(self, x: Tensor) -> Tensor:
        """What each place of ``(B, H, W, C)`` asks for."""
        return instance_norm(self.f_query(x))

    def scores(self, query: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """How well words fit places, before the softmax: ``(B, heads, H * W, N)``."""
        present = mask[..., None].to(words.dtype)
        key = (self.f_key(words) * present).unflatten(-1, (self.num_heads, -1))
        places = query.flatten(1, 2).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        scores: Tensor = places @ key.permute(0, 2, 3, 1) * self.scale
        return scores + ABSENT_WORD * (1 - present[:, None, None, :, 0])

    def forward(self, query: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """Answer the queries.

        Args:
            query: ``(B, H, W, C)``, or ``(1, H, W, C)`` for all sentences.
            words: ``(B, N, D)``.
            mask: ``(B, N)``, 1 for words and 0 for padding.

        Returns:
            ``(B, H, W, C)``.
        """
        value = self.f_value(words) * mask[..., None].to(words.dtype)
        value = value.unflatten(-1, (self.num_heads, -1))
        scores = self.scores(query, words, mask).softmax(-1)
        # W is linear and the scores sum to 1: N words are projected instead of H * W places
        last: Any = self.W[0]
        weight = last.weight[..., 0].unflatten(1, (self.num_heads, -1))
        projected = torch.einsum("bnhc,ohc->bhno", value, weight).flatten(1, 2)
        answer = scores.transpose(1, 2).flatten(2) @ projected  # (B, H * W, C)
        answer = (answer + last.bias).unflatten(1, query.shape[1:3])
        return instance_norm(answer)


class PixelWordAttention(nn.Module):
    """Pixel-word attention module (PWAM): a stage's map times what the sentence says to it.

    Args:
        width: Channels C of the stage.
        words_width: Channels D of a word.
        num_heads: Heads.
        dropout: After either projection.

    Source:
        LAVT section 3.2; dossier 1.3.
    """

    def __init__(
        self, width: int, words_width: int, num_heads: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.vis_project = nn.Sequential(
            PointwiseConv(width, width), nn.GELU(), nn.Dropout(dropout)
        )
        self.image_lang_att = ImageLanguageAttention(width, words_width, num_heads)
        self.project_mm = nn.Sequential(PointwiseConv(width, width), nn.GELU(), nn.Dropout(dropout))

    # places differ little in what they ask for and collect, and the norms make much of it
    @in_float32
    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The visual part and the queries, ``(B, H, W, C)`` each: what needs no words."""
        return self.vis_project(x), self.image_lang_att.query(x)

    @in_float32
    def forward(self, visual: Tensor, query: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """Fuse what `look` gave with words ``(B, N, D)`` and their mask ``(B, N)``."""
        fused: Tensor = self.project_mm(visual * self.image_lang_att(query, words, mask))
        return fused

    def naming(self, visual: Tensor, query: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """Which words the fusion finds at each place, as log-probabilities ``(B, H, W, N)``.

        The mean of two readings: what the place attends to, and how well words fit it in the
        product that `forward` takes. The first sees what stands out in the image, being normalised
        over its places, the second what is there.
        """
        attention = self.image_lang_att
        attended = attention.scores(query, words, mask).log_softmax(-1).logsumexp(1)
        attended = attended - math.log(attention.num_heads)
        named = attention.W(attention.f_value(words))  # (B, N, C)
        fits = visual.flatten(1, 2) @ named.transpose(1, 2) * attention.scale
        fits = (fits + ABSENT_WORD * (1 - mask[:, None].to(fits.dtype))).log_softmax(-1)
        mean: Tensor = ((attended + fits) / 2).unflatten(1, visual.shape[1:3])
        return mean


class Gate(nn.Sequential):
    """How much of each channel passes, in -1..1.

    Args:
        width: Channels C.
    """

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.Linear(width, width, bias=False),
            nn.ReLU(),
            nn.Linear(width, width, bias=False),
            nn.Tanh(),
        )


class Looked(NamedTuple):
    """What a stage knows before it reads the sentence, ``(B, H, W, C)`` each.

    Attributes:
        passed: What goes on to the next stage whatever the sentence; None in the last stage.
        visual: Visual part of the fusion.
        query: Its queries.
    """

    passed: Tensor | None
    visual: Tensor
    query: Tensor

    def of(self, images: Tensor) -> "Looked":
        """The same for sentences, int64 ``(B,)``: of which image each is."""
        passed = None if self.passed is None else self.passed[images]
        return Looked(passed, self.visual[images], self.query[images])


class MultiModalStage(SwinStage):
    """A stage of Swin whose output is fused with the words, and goes on with them.

    In the last stage nothing goes on: its gates and its visual residual are in checkpoints, but
    influence nothing and get no gradient.

    Args:
        width: Channels C.
        depth: Blocks.
        num_heads: Heads of each block.
        window_size: Side of a window.
        drop_paths: Stochastic depth of each block.
        downsample: Whether another stage follows.
        words_width: Channels D of a word.
        fusion_heads: Heads of the fusion.
        fusion_dropout: See `PixelWordAttention`.
        checkpointing: See `SwinStage`.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        num_heads: int,
        window_size: int,
        drop_paths: Sequence[float],
        downsample: bool,
        words_width: int,
        fusion_heads: int,
        fusion_dropout: float,
        checkpointing: bool,
    ) -> None:
        super().__init__(
            width,
            depth,
            num_heads,
            window_size,
            drop_paths,
            downsample,
            checkpointing=checkpointing,
        )
        self.fusion = PixelWordAttention(width, words_width, fusion_heads, fusion_dropout)
        self.visual_residual = VisualResidual()
        self.res_gate, self.visual_gate = Gate(width), Gate(width)

    def look(self, x: Tensor) -> Looked:
        """The part that needs no words, of ``(B, H, W, C)``."""
        x = self.attend(x)
        passed = None
        if self.downsample is not None:
            seen = self.visual_residual(x)
            passed = x + self.visual_gate(seen) * seen
        return Looked(passed, *self.fusion.look(x))

    def read(self, looked: Looked, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """Fuse with words ``(B, N, D)`` and their mask ``(B, N)``.

        Returns:
            The stage's output ``(B, H, W, C)``, and what the next takes, None in the last.
        """
        fused = self.fusion(looked.visual, looked.query, words, mask)
        if self.downsample is None or looked.passed is None:
            return fused, None
        return fused, self.downsample(looked.passed + self.res_gate(fused) * fused)


class MultiModalSwin(nn.Module):
    """Swin Transformer with a sentence fused in after every stage, and the stages related.

    Args:
        embed_dim: Channels of the first stage.
        depths: Blocks of each stage.
        num_heads: Heads of each stage.
        window_size: Side of a window in tokens, or that of each stage. Where a map is no multiple
            of it, the padding lets tokens know where in the image they are.
        words_width: Channels of a word.
        fusion_heads: Heads of each stage's fusion.
        grid: See `CrossScaleInteraction`.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0 at the first.
        fusion_dropout: See `PixelWordAttention`.
        checkpointing: Recompute each block in the backward pass to save memory.

    Attributes:
        channels: Channels of each map.
        strides: Stride of each map.
    """

    def __init__(
        self,
        embed_dim: int = 128,
        depths: Sequence[int] = (2, 2, 18, 2),
        num_heads: Sequence[int] = (4, 8, 16, 32),
        window_size: int | Sequence[int] = 12,
        words_width: int = 768,
        fusion_heads: Sequence[int] = (1, 1, 1, 1),
        grid: int = 28,
        drop_path_rate: float = 0.3,
        fusion_dropout: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.channels = tuple(stage_widths(embed_dim, depths))
        self.strides = tuple(4 * 2**i for i in range(len(depths)))
        self.patch_embed = PatchEmbed(3, embed_dim, 4)
        windows = [window_size] * len(depths) if isinstance(window_size, int) else window_size
        self.layers = nn.ModuleList(
            MultiModalStage(
                self.channels[i],
                depths[i],
                num_heads[i],
                windows[i],
                rates,
                downsample=i < len(depths) - 1,
                words_width=words_width,
                fusion_heads=fusion_heads[i],
                fusion_dropout=fusion_dropout,
                checkpointing=checkpointing,
            )
            for i, rates in enumerate(drop_path_rates(drop_path_rate, depths))
        )
        for i, width in enumerate(self.channels):
            self.add_module(f"norm{i}", nn.LayerNorm(width))
        self.cim = CrossScaleInteraction(self.channels, grid)
        self.apply(init_linear)

    @property
    def stages(self) -> list[MultiModalStage]:
        """The stages, in order."""
        return list(self.layers)  # type: ignore[arg-type]

    def look(self, image: Tensor) -> Looked:
        """All that is known of ``(B, 3, H, W)`` before a word is read: most of the first stage."""
        return self.stages[0].look(self.patch_embed(image))

    def fuse(
        self, looked: Looked, words: Tensor, mask: Tensor
    ) -> tuple[list[Looked], list[Tensor]]:
        """Go through the stages with the words.

        Args:
            looked: Of B images, or of one for all sentences.
            words: ``(B, N, D)``.
            mask: ``(B, N)``.

        Returns:
            For each stage what it looked at, and its output ``(B, H, W, C)``.
        """
        seen, outputs = [], []
        for i, stage in enumerate(self.stages):
            fused, following = stage.read(looked, words, mask)
            seen.append(looked)
            outputs.append(fused)
            if following is not None:
                looked = self.stages[i + 1].look(following)
        return seen, outputs

    def relate(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Maps ``(B, C_i, h_i, w_i)``, finest first, of the stages' outputs."""
        norms = (self.get_submodule(f"norm{i}") for i in range(len(outputs)))
        # channels last, as convolutions on small maps like it
        maps = [norm(x).permute(0, 3, 1, 2) for norm, x in zip(norms, outputs, strict=True)]
        related: list[Tensor] = self.cim(maps)
        return related

    def naming(self, seen: Sequence[Looked], words: Tensor, mask: Tensor) -> list[Tensor]:
        """Which words are found at each place, by stage; see `PixelWordAttention.naming`.

        Args:
            seen: What `fuse` gave.
            words: ``(B, N, D)``.
            mask: ``(B, N)``.
        """
        return [
            stage.fusion.naming(looked.visual, looked.query, words, mask)
            for stage, looked in zip(self.stages, seen, strict=True)
        ]

    def forward(self, image: Tensor, words: Tensor, mask: Tensor) -> list[Tensor]:
        """Maps of images ``(B, 3, H, W)`` with words ``(B, N, D)`` and their mask ``(B, N)``."""
        _, outputs = self.fuse(self.look(image), words, mask)
        return self.relate(outputs)


class RotatedDecoder(nn.Module):
    """From the coarsest map down to the finest, with a rotated convolution at each step.

    Args:
        channels: Of the coarsest map; each finer one has half as many.
        hidden: Channels inside; default half as many too.

    Source:
        RMSIN section 3.3, dossier 1.6.
    """

    def __init__(self, channels: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or channels // 2
        skips = {
            4: (channels, channels // 2),
            3: (hidden, channels // 4),
            2: (hidden, channels // 8),
        }
        for level, (top, skip) in skips.items():
            self.add_module(
                f"conv1_{level}", nn.Conv2d(top + skip, hidden, 3, padding=1, bias=False)
            )
            self.add_module(f"bn1_{level}", nn.BatchNorm2d(hidden))
            self.add_module(f"conv2_{level}", AdaptiveRotatedConv2d(hidden, hidden))
            self.add_module(f"bn2_{level}", nn.BatchNorm2d(hidden))
        self.conv1_1 = nn.Conv2d(hidden, 2, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits ``(B, 2, h, w)`` at the size of the finest of four maps, finest first."""
        *finer, x = maps
        for level, skip in zip((4, 3, 2), reversed(finer), strict=True):
            x = self.step(level, x, skip)
        logits: Tensor = self.conv1_1(x)
        return logits

    def step(self, level: int, x: Tensor, skip: Tensor) -> Tensor:
        """Bring the coarser map to the size of the finer one and combine them."""
        narrow = x.dtype != torch.float32 or torch.is_autocast_enabled("cpu")
        if x.device.type == "cpu" and not (narrow or self.training or torch.is_grad_enabled()):
            return self._folded_step(level, x, skip)
        x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=True)
        x = torch.cat([x, skip], dim=1)
        for i in (1, 2):
            x = self.get_submodule(f"conv{i}_{level}")(x)
            x = F.relu(self.get_submodule(f"bn{i}_{level}")(x))
        return x

    def _folded_step(self, level: int, x: Tensor, skip: Tensor) -> Tensor:
        """The same in far fewer operations, which a CPU feels; norms go into the kernels."""
        conv1, conv2, bn1, bn2 = (
            self.get_submodule(f"{name}_{level}") for name in ("conv1", "conv2", "bn1", "bn2")
        )
        assert isinstance(conv1, nn.Conv2d)
        assert isinstance(conv2, AdaptiveRotatedConv2d)
        scale, shift = _scale_and_shift(bn1)
        x = convolve_upsampled(x, skip, conv1.weight * scale[:, None, None, None])
        x = x.add_(shift[:, None, None]).relu_()
        scale, shift = _scale_and_shift(bn2)
        x = convolve_3x3(x, conv2.kernels(x) * scale[:, None, None, None])
        return x.add_(shift[:, None, None]).relu_()


def _scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """What a batch norm in eval mode does to each channel."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


class RemoteSAM(nn.Module):
    """The whole network: image and sentence to two logits a pixel, of which 1 is the object.

    Args:
        embed_dim: Channels of the first stage of the Swin Transformer.
        depths: Blocks of each stage.
        num_heads: Heads of each stage.
        window_size: See `MultiModalSwin`.
        fusion_heads: Heads of each stage's fusion with the sentence.
        grid: Side of the grid on which stages are related. Weights are tied to it; images of any
            size and shape are pooled to it.
        drop_path_rate: Stochastic depth of the last block.
        fusion_dropout: See `PixelWordAttention`.
        decoder_width: See `RotatedDecoder`, ``hidden``.
        bert: Fields of a `transformers.BertConfig`; default: those of bert-base-uncased.
        checkpointing: Recompute each block in the backward pass to save memory.

    Attributes:
        backbone: `MultiModalSwin`.
        classifier: `RotatedDecoder`.
        text_encoder: `transformers.BertModel` without pooler; its last hidden states are used.
    """

    def __init__(
        self,
        embed_dim: int = 128,
        depths: Sequence[int] = (2, 2, 18, 2),
        num_heads: Sequence[int] = (4, 8, 16, 32),
        window_size: int | Sequence[int] = 12,
        fusion_heads: Sequence[int] = (1, 1, 1, 1),
        grid: int = 28,
        drop_path_rate: float = 0.3,
        fusion_dropout: float = 0.0,
        decoder_width: int | None = None,
        bert: Mapping[str, Any] | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        config = BertConfig(**(bert or {}))
        self.backbone = MultiModalSwin(
            embed_dim,
            depths,
            num_heads,
            window_size,
            config.hidden_size,
            fusion_heads,
            grid,
            drop_path_rate,
            fusion_dropout,
            checkpointing,
        )
        self.classifier = RotatedDecoder(self.backbone.channels[-1], decoder_width)
        self.text_encoder = BertModel(config, add_pooling_layer=False)

    def forward(
        self,
        image: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        image_of: Tensor | None = None,
    ) -> Tensor:
        """Logits ``(B, 2, H, W)``.

        Args:
            image: Normalised, ``(B, 3, H, W)``; or ``(1, 3, H, W)`` for B sentences about it, of
                which it is looked at only once.
            input_ids: Word pieces, int64 ``(B, N)``.
            attention_mask: ``(B, N)``, 1 for word pieces and 0 for padding.
            image_of: With ``(D, 3, H, W)``, which image each sentence is about, int64 ``(B,)``.
        """
        looked = self.look(image)
        if image_of is not None:
            looked = looked.of(image_of)
        words = self.encode_text(input_ids, attention_mask)
        return self.decode(looked, words, attention_mask, image.shape[-2:])

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Words ``(B, N, D)`` of word pieces and their mask, ``(B, N)`` each."""
        words: Tensor = self.text_encoder(input_ids, attention_mask=attention_mask)[0]
        return words

    def look(self, image: Tensor) -> Looked:
        """What can be computed of ``(B, 3, H, W)`` without a sentence."""
        return self.backbone.look(image)

    def decode(self, looked: Looked, words: Tensor, mask: Tensor, size: Sequence[int]) -> Tensor:
        """Logits ``(B, 2, H, W)`` at a size of what `look` and `encode_text` gave."""
        _, outputs = self.backbone.fuse(looked, words, mask)
        return self.segment(outputs, size)

    def segment(self, outputs: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Logits ``(B, 2, H, W)`` at a size of the outputs of the backbone's stages."""
        logits = self.classifier(self.backbone.relate(outputs))
        return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=True)


def remotesam(
    size: Literal["t", "s", "b", "l"] = "b",
    window_size: int = 12,
    grid: int = 28,
    drop_path_rate: float = 0.3,
    checkpointing: bool = False,
    bert: Mapping[str, Any] | None = None,
) -> RemoteSAM:
    """RemoteSAM on Swin-T, S, B or L; the published one is B, 241,590,421 parameters.

    Args:
        size: Of the Swin Transformer.
        window_size: 12 as published; 7 for weights of Swin that were trained with it.
        grid: See `RemoteSAM`.
        drop_path_rate: See `RemoteSAM`.
        checkpointing: See `RemoteSAM`.
        bert: See `RemoteSAM`.
    """
    return RemoteSAM(
        window_size=window_size,
        grid=grid,
        drop_path_rate=drop_path_rate,
        checkpointing=checkpointing,
        bert=bert,
        **SIZES[size],
    )


def remap_official_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An official state dict, ready for a strict load.

    Names are the same; wrappers' prefixes go, and a buffer that some versions of transformers
    stored with BERT.
    """
    return {
        key: value
        for key, value in strip_prefixes(state).items()
        if key != "text_encoder.embeddings.position_ids"
    }


def instance_norm(x: Tensor) -> Tensor:
    """Normalise each channel of ``(B, H, W, C)`` over its places (eps 1e-5), always from itself."""
    variance, mean = torch.var_mean(x, dim=(1, 2), correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + 1e-5)


def remotesam_from(
    swin: str | Path | None = None,
    bert: str | Path | None = None,
    size: Literal["t", "s", "b", "l"] = "b",
    window_size: int = 12,
    grid: int = 28,
    drop_path_rate: float = 0.3,
    checkpointing: bool = False,
) -> RemoteSAM:
    """A RemoteSAM to be trained, from pretrained halves as published.

    Args:
        swin: Official ImageNet classifier of that size and window; None begins at random.
        bert: Weights of bert-base-uncased; None begins at random.
        size: See `remotesam`, like those that follow.
        window_size: As there.
        grid: As there.
        drop_path_rate: As there.
        checkpointing: As there.

    Raises:
        CheckpointError: If a file is missing, or lacks a weight of its half.
    """
    model = remotesam(size, window_size, grid, drop_path_rate, checkpointing)
    if swin is not None:
        _load_half(model.backbone, load_file(locate(swin)), _FUSION, str(swin))
    if bert is not None:
        state = load_file(locate(bert))
        inside = {k.removeprefix("bert."): v for k, v in state.items() if not k.startswith("cls.")}
        _load_half(model.text_encoder, inside, (), str(bert))
    return model


_FUSION = (
    "fusion",
    "visual_residual",
    "res_gate",
    "visual_gate",
    "cim",
    "norm0",
    "norm1",
    "norm2",
    "norm3",
)


def _load_half(
    half: nn.Module, state: Mapping[str, Tensor], new: Sequence[str], where: str
) -> None:
    """Load all that a half shares with its pretraining; what the file has beside it is dropped."""
    own = half.state_dict()
    kept = {k: v for k, v in state.items() if k in own}
    may_miss = [k for k in own if any(part in new for part in k.split("."))]
    load_strict(half, kept, where=where, may_miss=may_miss)
