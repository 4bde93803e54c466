"""What is known of the published open-vocabulary models, as data; imports no torch."""

from typing import Any

from swath.core.zoo import ModelCard
from swath.ovseg.vocabularies import DLRSD, ISAID, LANDDISCOVER

_TASK = "swath.ovseg.task:OpenVocabularyTask"
_STATED = "not stated"


def _card(
    name: str, title: str, model: str, params: int, classes: tuple[str, ...], **more: Any
) -> ModelCard:
    return ModelCard(
        name=name,
        title=title,
        task="open-vocabulary segmentation",
        licence_code=more.pop("licence_code", _STATED),
        licence_weights=_STATED,
        classes=classes,
        params=params,
        builder=f"swath.ovseg.models.{model}:{model}",
        task_builder=_TASK,
        converter=f"swath.ovseg.models.{model}:remap_official_keys",
        **more,
    )


def _catseg(size: str, title: str, params: int) -> ModelCard:
    return _card(
        f"catseg-vit{size}",
        f"CAT-Seg with CLIP {title}",
        "catseg",
        params,
        LANDDISCOVER[1:],
        paper="CAT-Seg, Cho et al. 2024",
        paper_url="https://arxiv.org/abs/2303.11797",
        official_repo="https://github.com/cvlab-kaist/CAT-Seg",
        weights="linked in the official README; trained on COCO-Stuff",
        builder_kwargs={"size": size},
    )


def _gsnet(size: str, title: str, params: int, weights: str) -> ModelCard:
    return _card(
        f"gsnet-vit{size}",
        f"GSNet with CLIP {title} and a DINO ViT-B/8 specialist",
        "gsnet",
        params,
        LANDDISCOVER[1:],
        paper="GSNet, Ye et al. 2025",
        paper_url="https://arxiv.org/abs/2412.19492",
        official_repo="https://github.com/yecy749/GSNet",
        weights=weights,
        builder_kwargs={"size": size},
    )


def _rskt_seg(
    size: str, data: str, layers: int, title: str, params: int, classes: tuple[str, ...]
) -> ModelCard:
    return _card(
        f"rskt-seg-vit{size}-{data}",
        f"RSKT-Seg with CLIP {title}, {layers} layers, trained on {data.upper()}",
        "rskt_seg",
        params,
        classes,
        paper="RSKT-Seg, Li et al. 2025",
        paper_url="https://arxiv.org/abs/2509.12040",
        official_repo="https://github.com/LiBingyu01/RSKT-Seg",
        weights="linked in the official README",
        builder_kwargs={"size": size, "num_layers": layers},
    )


def _sed(size: str, title: str, params: int) -> ModelCard:
    return _card(
        f"sed-convnext{size}",
        f"SED with CLIP {title}",
        "sed",
        params,
        LANDDISCOVER[1:],
        paper="SED, Xie et al. 2024",
        paper_url="https://arxiv.org/abs/2311.15537",
        official_repo="https://github.com/xb534/SED",
        licence_code="Apache-2.0",
        weights="linked in the official README; trained on COCO-Stuff",
        builder_kwargs={"size": size},
        task_kwargs={"ensemble": "imagenet", "tile": 768},
    )


_B, _L = "ViT-B/16", "ViT-L/14 at 336 px"

CARDS = (
    _catseg("b", _B, 154_289_378),
    _catseg("l", _L, 433_726_946),
    _gsnet("b", _B, 243_988_242, "model_final.pth, linked in the official README"),
    _gsnet("l", _L, 524_212_498, "none published at this size; train your own"),
    _rskt_seg("b", "dlrsd", 5, _B, 400_558_019, DLRSD),
    _rskt_seg("b", "isaid", 3, _B, 398_896_835, ISAID),
    _rskt_seg("l", "dlrsd", 5, _L, 680_782_275, DLRSD),
    _rskt_seg("l", "isaid", 2, _L, 678_290_499, ISAID),
    _sed("b", "ConvNeXt-B at 320 px", 180_761_741),
    _sed("l", "ConvNeXt-L at 320 px", 353_245_773),
)
