"""CLIP's sizes, beside those of open_clip."""

import open_clip
import pytest
import torch

from swath.core.errors import ConfigError
from swath.ovseg.clip import CLIP, CLIP_SIZES, clip_arguments, guiding_blocks, remap_clip_keys
from swath.ovseg.models.catseg import catseg
from swath.ovseg.models.gsnet import gsnet

PUBLISHED = {
    "b": "ViT-B-16-quickgelu",
    "b32": "ViT-B-32-quickgelu",
    "l": "ViT-L-14-336-quickgelu",
    "l224": "ViT-L-14-quickgelu",
    "h": "ViT-H-14",
}


@pytest.mark.parametrize("name", CLIP_SIZES)
def test_sizes_are_those_of_open_clip_and_are_read_off_a_file(name: str) -> None:
    config = open_clip.get_model_config(PUBLISHED[name])
    with torch.device("meta"):
        theirs = open_clip.CLIP(**config)
        ours = CLIP(**CLIP_SIZES[name])
    state = theirs.state_dict()
    want = {key: value.shape for key, value in remap_clip_keys(state).items()}
    assert {key: value.shape for key, value in ours.state_dict().items()} == want
    for mine, other in ((ours, theirs), (ours.visual, theirs.visual)):
        block, same = mine.transformer.resblocks[0], other.transformer.resblocks[0]
        assert block.attn.heads == same.attn.num_heads
        assert type(block.mlp.gelu) is type(same.mlp.gelu)
    assert clip_arguments(state).items() >= CLIP_SIZES[name].items()
    assert clip_arguments(ours.state_dict()) == clip_arguments(state)


def test_any_size_can_be_the_generalist() -> None:
    assert guiding_blocks("b") == guiding_blocks("b32") == (3, 7)
    assert guiding_blocks("l") == guiding_blocks("l224") == (7, 15)
    assert guiding_blocks("h") == (9, 20)
    with torch.device("meta"):
        for size in ("b32", "l224", "h"):
            model = gsnet(size)
            assert model.clip.embed_dim == CLIP_SIZES[size].get("embed_dim", 512)
            assert model.taps == guiding_blocks(size)
    with pytest.raises(ConfigError, match="size='L' is unknown; use one of b, b32, l, l224, h"):
        catseg("L")
