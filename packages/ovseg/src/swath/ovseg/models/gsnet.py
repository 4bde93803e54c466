"""GSNet: a generalist (CLIP) and a specialist (DINO on remote-sensing imagery) together.

Paper: Towards Open-Vocabulary Remote Sensing Image Semantic Segmentation, Ye et al. 2025,
arXiv:2412.19492.
Official code: https://github.com/yecy749/GSNet, `gs_net/GSNet.py` and
`gs_net/modeling/transformer/RIPD.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swath.core.errors import ConfigError
from swath.core.precision import in_float32
from swath.kernels import cost_volume
from swath.ovseg.clip import Size, guiding_blocks, sized
from swath.ovseg.dino import Specialist, set_dino_finetuning
from swath.ovseg.layers import (
    AggregatorLayer,
    AttentionType,
    GuidedUpsample,
    check_choice,
    decode,
    guidance_projection,
    mean_over_prompts,
    text_projection,
)
from swath.ovseg.models.base import (
    CLIP_KEYS,
    SPECIALIST_KEYS,
    ViTSegmenter,
    remap,
    unmap,
)

V = TypeVar("V")

FusionType = Literal["query_guided", "simple_concatenation", "fusion_query"]
FUSION_TYPES = ("query_guided", "simple_concatenation", "fusion_query")


class RIPD(nn.Module):
    """Residual information preservation decoder, with the fusion of both streams before it.

    Fusion types: ``"query_guided"`` (QGFF, published): both cost volumes are embedded, fused by a
    convolution, and the generalist's is added. ``"fusion_query"``: features are fused by a 1 x 1
    convolution and correlated. ``"simple_concatenation"``: features of both and the class's text
    are concatenated and embedded, without cost volume. With one stream alone its cost volume is
    embedded.

    Args:
        text_guidance_dim: Channels E of texts and features.
        text_guidance_proj_dim: What texts are projected to.
        appearance_guidance_dim: Channels of the appearance guidance.
        appearance_guidance_proj_dim: What it is projected to.
        decoder_dims: Channels after each upsampling.
        decoder_guidance_dims: Channels of the finer guidance.
        decoder_clip_guidance_proj_dims: What the generalist's is projected to; ``(0, 0)`` if only
            the cost volume and the appearance come from it.
        decoder_dino_guidance_proj_dims: What the specialist's is projected to; the like.
        feat_dim: Channels E of the features.
        use_clip_corr: Whether there is a generalist.
        use_dino_corr: Whether there is a specialist.
        fusion_type: See above.
        num_layers: See `Aggregator`, as the rest.
        nheads: See there.
        hidden_dim: See there.
        pooling_size: See there.
        eval_pooling_size: See there.
        window_size: See there.
        attention_type: See there.
        prompt_channel: See there.
        pad_len: See `ClassAggregation`; more classes than that are not padded.

    Raises:
        ConfigError: If the fusion type is unknown, or a stream is missing that it needs.

    Source:
        GSNet, sections 3.3 and 3.4; dossier section 5.
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
        feat_dim: int = 512,
        use_clip_corr: bool = True,
        use_dino_corr: bool = True,
        fusion_type: FusionType = "query_guided",
        num_layers: int = 2,
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
        self.fusion_type, self.prompt_channel = fusion_type, prompt_channel
        both = use_clip_corr and use_dino_corr
        if not (use_clip_corr or use_dino_corr):
            raise ConfigError(
                "use_clip and use_dino are both off; words need one to be compared with"
            )
        if fusion_type == "simple_concatenation" and not both:
            raise ConfigError(
                "fusion_type='simple_concatenation' joins two streams; use both, or 'query_guided'"
            )
        if fusion_type == "simple_concatenation":
            self.simple_concatenation_corr_embed = nn.Conv2d(3 * feat_dim, hidden_dim, 7, padding=3)
        else:
            self.conv1 = nn.Conv2d(prompt_channel, hidden_dim, 7, padding=3)
        if fusion_type == "query_guided" and both:
            self.conv2 = nn.Conv2d(prompt_channel, hidden_dim, 7, padding=3)
            self.fusion_corr = nn.Conv2d(2 * hidden_dim, hidden_dim, 7, padding=3)
        if fusion_type == "fusion_query":
            self.fusion_feats = nn.Conv2d(2 * feat_dim, feat_dim, 1)
        self.guidance_projection = guidance_projection(
            appearance_guidance_dim, appearance_guidance_proj_dim
        )
        self.text_guidance_projection = text_projection(text_guidance_dim, text_guidance_proj_dim)
        self.layers = nn.ModuleList(
            AggregatorLayer(
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
        clip_dims = tuple(decoder_clip_guidance_proj_dims) if use_clip_corr else (0, 0)
        dino_dims = tuple(decoder_dino_guidance_proj_dims) if use_dino_corr else (0, 0)
        self.clip_guides, self.dino_guides = clip_dims[0] > 0, dino_dims[0] > 0
        if self.clip_guides:
            self.CLIP_decoder_guidance_projection = nn.ModuleList(
                guidance_projection(*dims)
                for dims in zip(decoder_guidance_dims, clip_dims, strict=True)
            )
        if self.dino_guides:
            self.DINO_decoder_guidance_projection = nn.ModuleList(
                guidance_projection(*dims)
                for dims in zip(decoder_guidance_dims, dino_dims, strict=True)
            )
        widths = (hidden_dim, *decoder_dims)
        stages = [
            GuidedUpsample(widths[i], widths[i] - clip, clip + dino, widths[i + 1])
            for i, (clip, dino) in enumerate(zip(clip_dims, dino_dims, strict=True))
        ]
        self.Fusiondecoder1, self.Fusiondecoder2 = stages
        self.head = nn.Conv2d(decoder_dims[1], 1, 3, padding=1)

    def forward(
        self,
        clip_features: Tensor | None,
        dino_features: Tensor | None,
        text: Tensor,
        guidance: Sequence[Tensor] = (),
        dino_guidance: Sequence[Tensor] = (),
    ) -> Tensor:
        """Logits ``(B, T, 4 h, 4 w)``.

        Args:
            clip_features: ``(B, E, h, w)``, or None without a generalist.
            dino_features: The like, or None without a specialist.
            text: ``(B or 1, T, P, E)``.
            guidance: Appearance ``(B, E, h, w)``, and the generalist's maps of twice and four
                times the size, unless they don't guide the decoder; nothing without a generalist:
                then the specialist's features are the appearance.
            dino_guidance: The specialist's maps of these sizes, unless they don't guide it.
        """
        x = self._embedded(clip_features, dino_features, text)
        appearance = guidance[0] if guidance else dino_features
        appearance = self.guidance_projection(appearance).permute(0, 2, 3, 1)
        text_guidance = self.text_guidance_projection(mean_over_prompts(text))
        for layer in self.layers:
            x = layer(x, appearance, text_guidance)
        first: list[Tensor] = []
        second: list[Tensor] = []
        if self.clip_guides:
            for maps, projection, g in zip(
                (first, second), self.CLIP_decoder_guidance_projection, guidance[1:], strict=True
            ):
                maps.append(projection(g))
        if self.dino_guides:
            for maps, projection, g in zip(
                (first, second), self.DINO_decoder_guidance_projection, dino_guidance, strict=True
            ):
                maps.append(projection(g))
        stages = [(self.Fusiondecoder1, first), (self.Fusiondecoder2, second)]
        return decode(x, stages, self.head)

    @in_float32  # in bfloat16 two to three times as many pixels change their class
    def _embedded(self, clip: Tensor | None, dino: Tensor | None, text: Tensor) -> Tensor:
        """The fused, embedded cost volume ``(B, T, h, w, C)``."""
        streams = [x for x in (clip, dino) if x is not None]
        if len(streams) == 1:
            x = self.conv1(_images(streams[0], text))
        elif self.fusion_type == "query_guided":
            x = fuse(self, *(_images(features, text) for features in streams))
        elif self.fusion_type == "fusion_query":
            x = self.conv1(_images(self.fusion_feats(torch.cat(streams, 1)), text))
        else:
            x = self._concatenated(streams, text)
        cells: Tensor = x.permute(0, 2, 3, 1).unflatten(0, (-1, text.shape[1]))
        return cells

    def _concatenated(self, streams: Sequence[Tensor], text: Tensor) -> Tensor:
        """The convolution of features and text, each pixel's the same, concatenated.

        It is linear: features are convolved once for all classes, and a text, which is constant
        but for the zeros around the map, is multiplied with the taps and these with a map of ones.
        """
        convolution = self.simple_concatenation_corr_embed
        features = torch.cat([F.normalize(x, dim=1) for x in streams], 1)
        own, sides = features.shape[1], features.shape[-2:]
        weight, padding = convolution.weight, convolution.padding
        image = F.conv2d(features, weight[:, :own], convolution.bias, padding=padding)
        mean = F.normalize(text, dim=-1).mean(-2)  # not brought to unit length again
        taps = torch.einsum("bte,oeyx->btoyx", mean, weight[:, own:])
        ones = features.new_ones(1, 1, *sides)
        constant = F.conv2d(ones, taps.flatten(0, 2)[:, None], padding=padding)
        constant = constant.view(*taps.shape[:3], *sides)
        return (image[:, None] + constant).flatten(0, 1)


def _images(features: Tensor, text: Tensor) -> Tensor:
    """The cost volume ``(B * T, P, h, w)`` of upright features."""
    volume: Tensor = cost_volume([features], text, (0,), layout="images")
    return volume


def fuse(module: Any, clip: Tensor, dino: Tensor) -> Tensor:
    """QGFF: embed both cost volumes, fuse them, and add the generalist's embedding.

    Args:
        module: Has the convolutions ``conv1``, ``conv2`` and ``fusion_corr``.
        clip: The generalist's cost volume ``(B * T, P, h, w)``.
        dino: The specialist's.

    Source:
        GSNet, query-guided feature fusion; RSKT-Seg's ``simple_separate`` is the same.
    """
    queried, guided = module.conv1(clip).sigmoid(), module.conv2(dino).sigmoid()
    fused: Tensor = module.fusion_corr(torch.cat([queried, guided], 1)).sigmoid() + queried
    return fused


class GSNet(ViTSegmenter):
    """GSNet.

    Args:
        clip: Arguments of `CLIP`.
        specialist: Arguments of `swath.ovseg.dino.DINO`.
        aggregator: Arguments of `RIPD` other than streams and channels of features and guidance.
        guidance_dims: Channels of the guidance of the decoder.
        taps: Blocks of CLIP that it comes from.
        dino_taps: Blocks of the specialist that it comes from.
        use_clip: Whether the generalist's image tower is used (its text tower always is).
        use_dino: Whether there is a specialist.
        finetune: See `swath.ovseg.clip.set_finetuning`.
        dino_finetune: See `swath.ovseg.dino.set_dino_finetuning`.
        cell: See `ViTSegmenter`.
    """

    def __init__(
        self,
        clip: Mapping[str, Any] | None = None,
        specialist: Mapping[str, Any] | None = None,
        aggregator: Mapping[str, Any] | None = None,
        guidance_dims: Sequence[int] = (256, 128),
        taps: Sequence[int] = (3, 7),
        dino_taps: Sequence[int] = (3, 7),
        use_clip: bool = True,
        use_dino: bool = True,
        finetune: str = "attention",
        dino_finetune: str = "freeze",
        cell: int = 16,
    ) -> None:
        super().__init__(clip or {}, guidance_dims, taps, finetune, cell)
        self.use_clip = use_clip
        self.aggregator = RIPD(
            text_guidance_dim=self.clip.embed_dim,
            appearance_guidance_dim=self.clip.embed_dim,
            feat_dim=self.clip.embed_dim,
            decoder_guidance_dims=guidance_dims,
            use_clip_corr=use_clip,
            use_dino_corr=use_dino,
            **(aggregator or {}),
        )
        if not self.aggregator.clip_guides:
            del self.upsample1, self.upsample2
        self.specialist = None
        if use_dino:
            self.specialist = Specialist(
                self.clip.embed_dim, guidance_dims, dino_taps, specialist,
                guides=self.aggregator.dino_guides,
            )  # fmt: skip
            set_dino_finetuning(self.specialist.vit, dino_finetune)

    def score(self, image: Tensor, text: Tensor, grid: tuple[int, int]) -> Tensor:
        """See `OpenVocabularySegmenter.score`."""
        clip, guidance, dino, dino_guidance = self._features(image, grid)
        logits: Tensor = self.aggregator(clip, dino, text[None], guidance, dino_guidance)
        return logits

    def _features(
        self, image: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor | None, list[Tensor], Tensor | None, list[Tensor]]:
        clip: Tensor | None = None
        guidance: list[Tensor] = []
        if self.use_clip and self.aggregator.clip_guides:
            clip, guidance = self.clip_features(image, grid)
        elif self.use_clip:
            clip, _ = self.clip.dense(image, grid)
            guidance = [clip]
        dino, finer = self.specialist(image, grid) if self.specialist else (None, [])
        return clip, guidance, dino, finer

    def cost_maps(self, image: Tensor, text: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
        """See `OpenVocabularySegmenter.cost_maps`."""
        clip, _, dino, _ = self._features(image, grid)
        streams = {"clip": clip, "specialist": dino}
        return {
            name: cost_volume([features], text, (0,)).mean(1)
            for name, features in streams.items()
            if features is not None
        }


def gsnet(
    size: Size = "b",
    fusion_type: FusionType = "query_guided",
    num_layers: int = 2,
    use_clip: bool = True,
    use_dino: bool = True,
    finetune: str = "attention",
    dino_finetune: str = "freeze",
    prompt_channel: int = 1,
    attention_type: AttentionType = "linear",
    pooling_size: Sequence[int] = (2, 2),
    eval_pooling_size: Sequence[int] = (1, 1),
) -> GSNet:
    """GSNet as published: 243,988,242 parameters with ViT-B/16 and ViT-B/8.

    Args:
        size: CLIP: ``"b"`` for ViT-B/16, ``"l"`` for ViT-L/14 at 336 px, or another of
            `swath.ovseg.clip.CLIP_SIZES`, or arguments of `CLIP`.
        fusion_type: See `RIPD`.
        num_layers: Layers of aggregation.
        use_clip: See `GSNet`.
        use_dino: See `GSNet`.
        finetune: What of CLIP trains.
        dino_finetune: What of the specialist trains.
        prompt_channel: Templates per class.
        attention_type: Between classes.
        pooling_size: Of the class aggregation in training.
        eval_pooling_size: In evaluation.
    """
    return GSNet(
        sized(size),
        aggregator={
            "fusion_type": fusion_type,
            "num_layers": num_layers,
            "prompt_channel": prompt_channel,
            "attention_type": attention_type,
            "pooling_size": pooling_size,
            "eval_pooling_size": eval_pooling_size,
        },
        taps=guiding_blocks(size),
        use_clip=use_clip,
        use_dino=use_dino,
        finetune=finetune,
        dino_finetune=dino_finetune,
    )


_KEYS = CLIP_KEYS | SPECIALIST_KEYS


def remap_official_keys(state: Mapping[str, V]) -> dict[str, V]:
    """Rename the keys of an official GSNet checkpoint to those of our model."""
    return remap(state, _KEYS)


def official_keys(state: Mapping[str, V]) -> dict[str, V]:
    """The inverse: our keys in the official layout."""
    return unmap(state, _KEYS)
