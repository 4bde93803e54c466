"""The authors' own modules with our weights, which `ovseg_speed.py --official` times.

Of a checkout only the towers, aggregators and decoders are imported, not the packages around them,
which want detectron2. They are called here in the order of the authors' `forward` (text encoded
before, one template), with all that it computes and throws away. Their code needs einops.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swath.ovseg.clip import resized
from swath.ovseg.models import catseg, gsnet, rskt_seg

PACKAGES = {"catseg": "cat_seg", "gsnet": "gs_net", "rskt_seg": "RSKT_Seg"}
KEYS = {"catseg": catseg, "gsnet": gsnet, "rskt_seg": rskt_seg}
DECODERS = {"catseg": "model", "gsnet": "RIPD", "rskt_seg": "RSKT_Decoder"}
CLASSES = {"catseg": "Aggregator", "gsnet": "RIPD", "rskt_seg": "RSKT_Decoder"}
FUSIONS = {"gsnet": "corr_fusion_embed_seperate", "rskt_seg": "simple_separate_corr"}
DECODINGS = {"catseg": "conv_decoder"} | dict.fromkeys(FUSIONS, "Fusion_conv_decoer")
SIDE, CONTEXT = 384, 77


class Official:
    """One of the three models from its authors' modules.

    Args:
        path: A checkout of their repository.
        name: ``"catseg"``, ``"gsnet"`` or ``"rskt_seg"``.
        ours: Our model with ViT-B/16, with which it shares the weights.

    Attributes:
        parts: What `ovseg_speed.py` times by module.
    """

    def __init__(self, path: Path, name: str, ours: Any) -> None:
        package = PACKAGES[name]
        for part in ("", ".modeling", ".modeling.transformer", ".third_party"):
            _folder(f"{package}{part}", path)
        keys = KEYS[name]
        self.ours, self.state = ours, keys.official_keys(ours.state_dict())
        trains = {name: p.requires_grad for name, p in ours.named_parameters()}
        self.trains = keys.official_keys(trains)
        vit = importlib.import_module(f"{package}.third_party.model_vpt")
        head = importlib.import_module(f"{package}.modeling.transformer.{DECODERS[name]}")
        predictor = "sem_seg_head.predictor."
        self.clip = self._loaded(_clip(vit, 16), f"{predictor}clip_model.")
        self.taps = _Taps(self.clip)
        self.remote = self.dino = None
        if getattr(ours, "remote_clip", None) is not None:
            self.remote = self._loaded(_clip(vit, 32), f"{predictor}clip_model_remote.")
            self.remote_taps = _Taps(self.remote)
        if getattr(ours, "specialist", None) is not None:
            dino = importlib.import_module(f"{package}.vision_transformer")
            with patch.object(dino, "trunc_normal_"):  # its weights are replaced anyway
                vit_base = dino.vit_base(patch_size=8)
            self.dino = self._loaded(vit_base, "dino_model.")
        training = ours.training
        decoder = getattr(head, CLASSES[name])(
            num_layers=len(ours.aggregator.layers), pooling_size=(2, 2) if training else (1, 1)
        )
        self.decoder = self._loaded(decoder, f"{predictor}transformer.").train(training)
        self.name = name
        self.parts = [("text", self.clip, "encode_text"), ("CLIP", self.clip, "encode_image")]
        if self.remote is not None:
            self.parts.append(("RemoteCLIP", self.remote, "encode_image"))
        if self.dino is not None:
            self.parts.append(("specialist", self.dino, "get_intermediate_layers"))
            self.parts.append(("fusion", self.decoder, FUSIONS[name]))
        self.parts += [("aggregation", layer, "forward") for layer in self.decoder.layers]
        self.parts.append(("decoder", self.decoder, DECODINGS[name]))

    def _loaded(self, module: nn.Module, prefix: str) -> Any:
        """A module that shares the weights under a prefix; masks of windows are its own."""
        own = {k: v for k, v in self.state.items() if k.startswith(prefix)}
        own = {k.removeprefix(prefix): v for k, v in own.items()}
        missing, unexpected = module.load_state_dict(own, strict=False, assign=True)
        wrong = [k for k in missing if not k.endswith("attn_mask")] + unexpected
        if wrong:
            raise SystemExit(f"{prefix}{wrong[0]} doesn't fit the checkout")
        for key, parameter in module.named_parameters():
            parameter.requires_grad_(self.trains[prefix + key])
        return module.eval()

    def score(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits ``(B, T, 96, 96)`` of images of 384 px and texts ``(T, 1, E)``."""
        return self.head(*self._features(image, text[None].repeat(len(image), 1, 1, 1)))

    def texts(self, tokens: Tensor) -> Tensor:
        """Unit vectors ``(T, 1, E)`` of tokens ``(T, 1, L)``, padded to the context."""
        padded = F.pad(tokens[:, 0], (0, CONTEXT - tokens.shape[-1]))
        return F.normalize(self.clip.encode_text(padded), dim=-1)[:, None]

    def head(self, *given: Any) -> Tensor:
        """The decoder alone, with what ours takes; RSKT-Seg's also wants the images' names."""
        given = ([""], *given) if self.name == "rskt_seg" else given
        logits: Tensor = self.decoder(*given)
        return logits

    def _features(self, image: Tensor, text: Tensor) -> tuple[Any, ...]:
        """All towers, in the order of the authors' `forward`."""
        if self.dino is not None:
            outputs = self.dino.get_intermediate_layers(image, n=12)
            first, second, last = (_as_map(outputs[i], 48) for i in (3, 7, 11))
            specialist = self.ours.specialist
            dino = specialist.down_sample(last)
            dino_guidance = [specialist.decod_proj1(first), specialist.decod_proj2(second)]
        self.taps.clear()
        features = _as_map(self.clip.encode_image(image, dense=True), 24)
        first, second = self.taps.maps()
        guidance = [features, self.ours.upsample1(first), self.ours.upsample2(second)]
        if self.name == "catseg":
            return features, text, guidance
        if self.name == "gsnet":
            return features, dino, text, guidance, dino_guidance
        turned = (torch.rot90(image, k, (2, 3)) for k in (1, 2, 3))
        directions = [features]
        directions += [_as_map(self.clip.encode_image(x, dense=True), 24) for x in turned]
        self.remote_taps.clear()
        self.remote.encode_image(resized(image, (2 * SIDE, 2 * SIDE)), dense=True)  # type: ignore[union-attr]
        first, second = self.remote_taps.maps()
        remote = [self.ours.upsample1_remote(first), self.ours.upsample2_remote(second)]
        return directions, dino, text, guidance, remote, dino_guidance


class _Taps:
    """Outputs of blocks 3 and 7 of a tower, caught by hooks as the authors do."""

    def __init__(self, clip: Any) -> None:
        self.caught: list[Tensor] = []
        for block in (3, 7):
            clip.visual.transformer.resblocks[block].register_forward_hook(
                lambda module, inputs, output: self.caught.append(output)
            )

    def clear(self) -> None:
        self.caught.clear()

    def maps(self) -> list[Tensor]:
        return [_as_map(x.transpose(0, 1), 24) for x in self.caught[:2]]


def _clip(vit: Any, patch_size: int) -> Any:
    with torch.device("meta"):
        clip = vit.CLIP(512, 224, 12, 768, patch_size, CONTEXT, 49408, 512, 8, 12, 0, 0)
    for block in clip.transformer.resblocks:
        block.attn_mask = clip.build_attention_mask()
    return clip


def _as_map(tokens: Tensor, side: int) -> Tensor:
    return tokens[:, 1:].transpose(1, 2).unflatten(2, (side, side))


def _folder(name: str, root: Path) -> None:
    """Make a folder of the checkout a package without running its `__init__`."""
    module = ModuleType(name)
    module.__path__ = [str(root / name.replace(".", "/"))]
    sys.modules[name] = module
