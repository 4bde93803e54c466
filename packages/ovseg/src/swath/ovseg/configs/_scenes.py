"""Small towers, from scratch, for synthetic scenes of 64 px: 4 x 4 cells."""

from typing import Any

SIZE = 64

CLIP: dict[str, Any] = {
    "embed_dim": 64,
    "image_size": SIZE,
    "patch_size": 16,
    "vision_width": 128,
    "vision_layers": 4,
    "text_width": 64,
    "text_heads": 1,
    "text_layers": 2,
}
DINO: dict[str, int] = {
    "img_size": SIZE,
    "patch_size": 8,
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
