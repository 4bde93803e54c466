"""What the small models on synthetic scenes share: their CLIP, their towers, what they are taught.

CLIP learns from captions of `SEEN` names what words mean, the segmenters from masks of those that
are `TAUGHT` where it ends. They can be asked for all, also for what was kept back.
"""

from collections.abc import Callable, Sequence
from typing import Any

from swath.core.spec import Spec
from swath.ovseg.models.towers import pretrained
from swath.ovseg.scenes import TAUGHT, NamedCrops
from swath.ovseg.task import OpenVocabularyTask

CLIP_FILE = "runs/clip_scenes_tiny/last.safetensors"
"""Where ``swath train clip_scenes_tiny`` leaves its CLIP."""

CROP = 32
"""Side of the crops that CLIP is trained on, px: 4 x 4 patches."""

SIZE = 64
"""Side of those that segmenters are trained on, px: 8 x 8 cells."""

CELL = 8
"""Side of a cell and of CLIP's patches, px."""

TILE = 160
"""Side of the tiles that they read scenes in, px: the least that overlap and blending allow."""

CLIP: dict[str, Any] = {
    "embed_dim": 64,
    "image_size": CROP,
    "patch_size": CELL,
    "vision_width": 128,
    "vision_layers": 3,
    "text_width": 64,
    "text_heads": 1,
    "text_layers": 1,
}
DINO: dict[str, int] = {
    "img_size": SIZE,
    "patch_size": CELL // 2,
    "embed_dim": 96,
    "depth": 3,
    "num_heads": 3,
}
AGGREGATOR: dict[str, Any] = {
    "hidden_dim": 32,
    "num_layers": 1,
    "nheads": 2,
    "decoder_dims": [32, 16],
    "text_guidance_proj_dim": 32,
    "appearance_guidance_proj_dim": 32,
    "window_size": 4,
    "pad_len": 0,
}
FUSED: dict[str, Any] = AGGREGATOR | {
    "decoder_clip_guidance_proj_dims": [16, 8],
    "decoder_dino_guidance_proj_dims": [16, 8],
}
GUIDANCE = [32, 16]


def from_clip(build: Callable[..., Any], *, remote: bool = False, **options: Any) -> Spec:
    """A segmenter on the small CLIP, whose attention learns on, a fifth as fast.

    Args:
        build: Class of the segmenter.
        remote: Whether the same CLIP stands in for RemoteCLIP too.
        **options: Further arguments.
    """
    weights = {"clip": CLIP_FILE} | ({"remote_clip": CLIP_FILE} if remote else {})
    model = Spec(
        build, clip=CLIP, guidance_dims=GUIDANCE, taps=[0, 1], finetune="attention", cell=CELL,
        **options,
    )  # fmt: skip
    return Spec(pretrained, model=model, weights=weights)


def task() -> Spec:
    """Names alone, as CLIP's captions are; pixels without a name don't count."""
    return Spec(
        OpenVocabularyTask, classes=list(TAUGHT), ensemble="name", skip_ignored=True, tile=TILE
    )


def crops(seed: int, count: int, size: int = SIZE, classes: Sequence[str] = TAUGHT) -> Spec:
    """Crops of scenes with some names; sets of different seeds share no scene."""
    return Spec(NamedCrops, size=size, count=count, seed=seed, classes=list(classes))
