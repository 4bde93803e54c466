from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from swath.core.checkpoint.official import load_strict
from swath.core.errors import CheckpointError
from swath.refseg.models.cross_scale import attention_tokens
from swath.refseg.models.remotesam import (
    Gate,
    ImageLanguageAttention,
    RemoteSAM,
    VisualResidual,
    remap_official_keys,
    remotesam,
)

Build = Callable[..., RemoteSAM]

IDS = torch.tensor([[2, 7, 9, 11, 3], [2, 12, 3, 0, 0], [2, 40, 20, 3, 0]])
MASK = (IDS != 0).long()


@pytest.mark.parametrize(("size", "embed_dim"), [("t", 96), ("s", 96), ("l", 192)])
def test_every_swin_builds_at_full_size(size: str, embed_dim: int) -> None:
    with torch.device("meta"):
        model = remotesam(size, bert={"num_hidden_layers": 1})  # type: ignore[arg-type]
        features = model.backbone(
            torch.empty(1, 3, 224, 160), torch.empty(1, 20, 768), torch.ones(1, 20)
        )
    assert [x.shape[1] for x in features] == [embed_dim * 2**i for i in range(4)]


@pytest.mark.parametrize("shape", [(64, 64), (33, 100), (1, 1), (130, 47)])
def test_any_image_size_and_shape(model: RemoteSAM, shape: tuple[int, int]) -> None:
    with torch.no_grad():
        logits = model(torch.randn(3, 3, *shape), IDS, MASK)
    assert logits.shape == (3, 2, *shape)
    assert bool(logits.isfinite().all())


def test_one_image_is_looked_at_once_for_all_sentences(model: RemoteSAM) -> None:
    image = torch.randn(1, 3, 48, 64)
    with torch.no_grad():
        together = model(image, IDS, MASK)
        repeated = model(image.expand(3, -1, -1, -1), IDS, MASK)
        alone = torch.cat(
            [model(image, ids[None], m[None]) for ids, m in zip(IDS, MASK, strict=True)]
        )
    assert float((together[0] - together[1]).abs().max()) > 1e-3  # the sentence matters
    torch.testing.assert_close(together, repeated, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)


def test_padding_of_the_sentence_changes_nothing(model: RemoteSAM) -> None:
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        short = model(image, IDS[1:2, :3], MASK[1:2, :3])
        long = model(image, IDS[1:2], MASK[1:2])
    torch.testing.assert_close(short, long, atol=2e-5, rtol=1e-4)


def test_words_are_projected_before_they_are_spread() -> None:
    """The output projection is applied to words; applied to places it gives the same."""
    torch.manual_seed(0)
    attention = ImageLanguageAttention(12, 7, 3).double()
    x, words = torch.randn(2, 5, 4, 12).double(), torch.randn(2, 6, 7).double()
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    query = attention.query(x)
    places = query.flatten(1, 2).unflatten(-1, (3, 4)).transpose(1, 2)
    keys, values = (
        (layer(words) * mask[..., None]).unflatten(-1, (3, 4)).transpose(1, 2)
        for layer in (attention.f_key, attention.f_value)
    )
    scores = places @ keys.transpose(2, 3) * 12**-0.5 + 1e4 * (mask[:, None, None] - 1)
    spread = (scores.softmax(-1) @ values).transpose(1, 2).flatten(2)
    projected = attention.W(spread).transpose(1, 2)  # (B, C, H * W)
    want = F.instance_norm(projected, eps=1e-5).transpose(1, 2).unflatten(1, (5, 4))
    torch.testing.assert_close(attention(query, words, mask), want)


def test_tokens_of_the_published_grids() -> None:
    assert (attention_tokens(28), attention_tokens(15)) == (1080, 314)


def test_gates_and_visual_residual_keep_the_shape() -> None:
    x = torch.randn(2, 5, 3, 8)
    assert Gate(8)(x).abs().max() <= 1
    assert VisualResidual().eval()(x).shape == x.shape


def test_another_grid_is_another_checkpoint(build: Build) -> None:
    with pytest.raises(CheckpointError, match=r"attention\.proj"):
        load_strict(build(grid=3), build(grid=2).state_dict())


def test_only_the_last_stages_dead_parts_get_no_gradient(build: Build) -> None:
    model = build(drop_path_rate=0.0).train()
    F.cross_entropy(
        model(torch.randn(3, 3, 64, 64), IDS, MASK), torch.ones(3, 64, 64).long()
    ).backward()
    dead = {n for n, p in model.named_parameters() if p.grad is None}
    prefixes = tuple(
        f"backbone.layers.3.{p}" for p in ("res_gate", "visual_gate", "visual_residual")
    )
    assert dead
    assert all(name.startswith(prefixes) for name in dead)


def test_checkpointing_changes_no_gradient(build: Build) -> None:
    grads = []
    for checkpointing in (False, True):
        model = build(checkpointing=checkpointing, drop_path_rate=0.0).train()
        torch.manual_seed(1)
        model(torch.ones(3, 3, 32, 32), IDS, MASK).square().mean().backward()
        grads.append(model.backbone.patch_embed.proj.weight.grad)
    torch.testing.assert_close(*grads)


def test_wrappers_and_an_old_buffer_are_removed_from_official_keys(build: Build) -> None:
    state = {f"module.{k}": v for k, v in build().state_dict().items()}
    state["module.text_encoder.embeddings.position_ids"] = torch.zeros(1, 24)
    load_strict(build(), remap_official_keys(state))
