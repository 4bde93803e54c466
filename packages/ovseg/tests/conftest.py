"""A CLIP, a specialist and models so small that a pass takes milliseconds."""

from typing import Any

import pytest
import torch

from swath.core.spec import Spec
from swath.ovseg.models.base import OpenVocabularySegmenter
from swath.ovseg.models.catseg import CATSeg
from swath.ovseg.models.gsnet import GSNet
from swath.ovseg.models.rskt_seg import RSKTSeg
from swath.ovseg.models.sed import SED

torch.set_num_threads(1)

CLIP: dict[str, Any] = {
    "embed_dim": 32, "image_size": 64, "vision_width": 64, "vision_layers": 3,
    "text_width": 64, "text_heads": 1, "text_layers": 1,
}  # fmt: skip
DINO = {"img_size": 64, "embed_dim": 48, "depth": 3, "num_heads": 2}
AGGREGATOR: dict[str, Any] = {
    "hidden_dim": 32, "num_layers": 1, "decoder_dims": [32, 16], "window_size": 4, "pad_len": 16,
    "text_guidance_proj_dim": 32, "appearance_guidance_proj_dim": 32,
}  # fmt: skip
SHARED: dict[str, Any] = {"clip": CLIP, "guidance_dims": [24, 12], "taps": [0, 1]}
FUSED = AGGREGATOR | {
    "decoder_clip_guidance_proj_dims": [16, 8],
    "decoder_dino_guidance_proj_dims": [16, 8],
}
CONVNEXT: dict[str, Any] = {
    "embed_dim": 32, "trunk": "convnext_atto", "text_width": 64, "text_heads": 1, "text_layers": 1,
}  # fmt: skip
GRADUAL: dict[str, Any] = {
    "hidden_dim": 32, "decoder_dims": [32, 16, 16], "decoder_guidance_proj_dims": [16, 8, 8],
    "nheads": 2, "kernel_size": 3, "prompt_channel": 1,
}  # fmt: skip
SPECS = {
    "catseg": Spec(
        CATSeg, aggregator=AGGREGATOR | {"decoder_guidance_proj_dims": [16, 8]}, **SHARED
    ),
    "gsnet": Spec(GSNet, aggregator=FUSED, specialist=DINO, dino_taps=[0, 1], **SHARED),
    "rskt_seg": Spec(
        RSKTSeg,
        aggregator=FUSED,
        specialist=DINO,
        dino_taps=[0, 1],
        remote_clip=CLIP | {"patch_size": 32},
        remote_taps=[0, 1],
        **SHARED,
    ),
    "sed": Spec(SED, clip=CONVNEXT, aggregator=GRADUAL),
}
"""CAT-Seg, GSNet, RSKT-Seg and SED in small."""


class Tiny:
    """What tests make of it."""

    specs = SPECS
    clip = CLIP
    fused = FUSED

    def build(self, name: str, seed: int = 0, **options: Any) -> Any:
        """A model of `SPECS` with random weights, the parameters that begin at 0 included."""
        torch.manual_seed(seed)
        model = SPECS[name].build(**options)
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.02)
        return model.eval()


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture(params=list(SPECS))
def model(request: pytest.FixtureRequest, tiny: Tiny) -> OpenVocabularySegmenter:
    made: OpenVocabularySegmenter = tiny.build(request.param)
    return made
