"""Sizes, streams, key layouts and parameter counts of the three models."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from swath.core.errors import ConfigError
from swath.ovseg.models import catseg, gsnet, rskt_seg
from swath.ovseg.models.base import OpenVocabularySegmenter


def counts(model: nn.Module) -> tuple[float, float]:
    """Parameters and trainable parameters, millions."""
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return sum(p.numel() for p in model.parameters()) / 1e6, trainable / 1e6


@pytest.mark.parametrize(
    ("make", "total", "trainable"),
    [
        (catseg.catseg, 154.2894, 25.1159),
        (lambda: catseg.catseg(finetune="full"), 154.2894, 127.5517),
        (gsnet.gsnet, 243.9882, 29.0069),
        (lambda: rskt_seg.rskt_seg(num_layers=2), 398.0663, 31.8076),
        (rskt_seg.rskt_seg, 398.8968, 32.6381),
        (lambda: rskt_seg.rskt_seg(num_layers=5), 400.5580, 34.2993),
        (lambda: rskt_seg.rskt_seg("l", num_layers=2), 678.2905, 77.7485),
        (
            lambda: rskt_seg.rskt_seg(
                num_layers=2, fusion_type="simple_concatenation", use_efficient=False
            ),
            396.1534,
            29.8947,
        ),
    ],
)
def test_full_size_has_the_measured_parameters(make: Any, total: float, trainable: float) -> None:
    with torch.device("meta"):
        got = counts(make())
    assert got == pytest.approx((total, trainable), abs=1e-4)  # as printed there


def test_parts_have_the_measured_parameters() -> None:
    with torch.device("meta"):
        model = rskt_seg.rskt_seg(num_layers=1)
        layer = catseg.catseg(num_layers=1).aggregator.layers[0]
    assert model.remote_clip is not None
    assert model.specialist is not None
    visual = model.clip.visual
    measured = {
        "CLIP visual": counts(visual)[0],
        "CLIP text": counts(model.clip)[0] - counts(visual)[0],
        "RemoteCLIP visual": counts(model.remote_clip.visual)[0],
        "specialist": counts(model.specialist.vit)[0],
        "CAT-Seg layer": counts(layer)[0],
        "efficient layer": counts(model.aggregator.layers[0])[0],
    }
    want = {
        "CLIP visual": 86.1926, "CLIP text": 63.4281, "RemoteCLIP visual": 87.8492,
        "specialist": 85.8079, "CAT-Seg layer": 0.6771, "efficient layer": 0.8306,
    }  # fmt: skip
    assert measured == pytest.approx(want, abs=5.1e-5)
    assert counts(visual)[1] == pytest.approx(14.156, abs=5.1e-4)


@pytest.mark.parametrize(
    ("module", "make", "keys"),
    [
        (catseg, catseg.catseg, 484 - 2),
        (gsnet, gsnet.gsnet, 648 - 2),
        (rskt_seg, rskt_seg.rskt_seg, 1042),
    ],
)
def test_the_official_layout_has_the_published_number_of_keys(
    module: Any, make: Any, keys: int
) -> None:
    # without the masks of shifted windows, two in a model with two of CAT-Seg's layers
    with torch.device("meta"):
        state = make().state_dict()
    official = module.official_keys(state)
    assert len(official) == keys
    assert set(module.remap_official_keys(official)) == set(state)
    prefixes = Counter(key.split(".")[0] for key in official)
    known = {"sem_seg_head", "upsample1", "upsample2", "dino_model", "dino_decod_proj1"}
    known |= {"dino_decod_proj2", "dino_down_sample", "upsample1_remote", "upsample2_remote"}
    assert set(prefixes) <= known


@pytest.mark.parametrize("options", [{}, {"size": "l"}, {"finetune": "full"}])
@pytest.mark.parametrize("fusion", gsnet.FUSION_TYPES)
def test_every_variant_of_gsnet_builds(fusion: Any, options: dict[str, Any]) -> None:
    with torch.device("meta"):
        assert counts(gsnet.gsnet(fusion_type=fusion, **options))[0] > 200


@pytest.mark.parametrize("efficient", [True, False])
@pytest.mark.parametrize("fusion", rskt_seg.FUSION_TYPES)
@pytest.mark.parametrize("streams", [(1, 1, 1), (0, 1, 1), (1, 0, 1), (1, 1, 0), (0, 0, 0)])
def test_every_variant_of_rskt_seg_runs(
    tiny: Any, streams: tuple[int, int, int], fusion: str, efficient: bool
) -> None:
    rotate, remote, dino = map(bool, streams)
    model = tiny.build(
        "rskt_seg",
        aggregator=tiny.fused | {"fusion_type": fusion, "use_efficient": efficient},
        use_rotate=rotate,
        use_remote_clip=remote,
        use_remote_dino=dino,
    )
    with torch.no_grad():
        logits = model(torch.randn(2, 3, 64, 96), torch.randn(3, 1, 32))
    assert logits.shape == (2, 3, 64, 96)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("streams", [(True, False), (False, True)])
def test_gsnet_runs_with_one_stream_alone(tiny: Any, streams: tuple[bool, bool]) -> None:
    clip, dino = streams
    model = tiny.build("gsnet", use_clip=clip, use_dino=dino)
    logits = model(torch.randn(1, 3, 64, 64), torch.randn(2, 1, 32))
    assert logits.shape == (1, 2, 64, 64)
    assert set(model.cost_maps(torch.randn(1, 3, 64, 64), torch.randn(2, 1, 32), (4, 4))) == (
        {"clip"} if clip else {"specialist"}
    )


@pytest.mark.parametrize("stream", ["clip", "dino"])
def test_a_stream_of_gsnet_needs_not_guide_the_decoder(tiny: Any, stream: str) -> None:
    aggregator = tiny.fused | {f"decoder_{stream}_guidance_proj_dims": (0, 0)}
    model = tiny.build("gsnet", aggregator=aggregator)
    keys = gsnet.official_keys(model.state_dict())
    unused = {"clip": ("upsample", "CLIP_decoder"), "dino": ("dino_decod", "DINO_decoder")}[stream]
    assert not [key for key in keys if any(part in key for part in unused)]
    text = torch.randn(2, 1, 32)
    image = torch.randn(1, 3, 64, 64)
    logits = model(image, text)
    assert logits.shape == (1, 2, 64, 64)
    assert set(model.cost_maps(image, text, (4, 4))) == {"clip", "specialist"}


@pytest.mark.parametrize("size", [(1, 1), (33, 90), (64, 64), (128, 32), (70, 131)])
def test_images_of_any_size(model: OpenVocabularySegmenter, size: tuple[int, int]) -> None:
    with torch.no_grad():
        logits = model(torch.randn(1, 3, *size), torch.randn(4, 1, 32))
    assert logits.shape == (1, 4, *size)
    assert torch.isfinite(logits).all()


def test_an_image_is_scored_the_same_in_a_batch(model: OpenVocabularySegmenter) -> None:
    images, text = torch.randn(3, 3, 64, 96), torch.randn(4, 1, 32)
    with torch.no_grad():
        batch = model(images, text)
        alone = torch.cat([model(image[None], text) for image in images])
    torch.testing.assert_close(batch, alone, rtol=1e-4, atol=1e-5)


def test_prompts_cut_at_the_longest_give_what_padded_ones_give(
    model: OpenVocabularySegmenter,
) -> None:
    tokens = torch.zeros(3, 1, 77, dtype=torch.int64)
    for row, length in enumerate((4, 9, 7)):
        tokens[row, 0, :length] = torch.randint(1, 400, (length,))
        tokens[row, 0, length] = 49407
    with torch.no_grad():
        full, cut = model.encode_text(tokens), model.encode_text(tokens[:, :, :10])
    torch.testing.assert_close(cut, full, rtol=1e-6, atol=1e-6)


def test_several_templates_become_one_vector_for_a_model_of_one(tiny: Any) -> None:
    model = tiny.build("catseg")
    tokens = torch.randint(1, 400, (3, 5, 8))
    with torch.no_grad():
        each = model.clip.encode_text(tokens.flatten(0, 1), normalize=True).unflatten(0, (3, 5))
        text = model.encode_text(tokens)
    want = torch.nn.functional.normalize(each.mean(1), dim=-1)[:, None]
    torch.testing.assert_close(text, want, rtol=1e-5, atol=1e-6)
    aggregator = tiny.specs["catseg"]["aggregator"] | {"prompt_channel": 5}
    five = tiny.build("catseg", aggregator=aggregator)
    assert five.encode_text(tokens).shape == (3, 5, 32)
    with pytest.raises(ConfigError, match="this CATSeg was made for 5 templates, not for 4"):
        five.encode_text(tokens[:, :4])


def test_the_four_directions_are_the_turned_images(tiny: Any) -> None:
    model = tiny.build("rskt_seg")
    image, text = torch.randn(1, 3, 64, 96), torch.randn(2, 1, 32)
    grid = (4, 6)
    with torch.no_grad():
        maps = model.cost_maps(image, text, grid)
        unit = torch.nn.functional.normalize(text[:, 0], dim=-1)
        for turns in range(4):
            turned = torch.rot90(image, turns, (2, 3))
            features, _ = model.clip.dense(turned, grid if turns % 2 == 0 else grid[::-1])
            features = torch.nn.functional.normalize(features, dim=1)
            cosines = torch.einsum("bchw,tc->bthw", features, unit)
            want = torch.rot90(cosines, -turns, (2, 3))
            torch.testing.assert_close(maps[f"clip {90 * turns}"], want, rtol=1e-4, atol=1e-5)
    assert list(maps) == ["clip 0", "clip 90", "clip 180", "clip 270", "specialist"]


def test_square_images_in_one_batch_give_what_two_batches_give(tiny: Any) -> None:
    model = tiny.build("rskt_seg")
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        together, guidance = model._directions(image, (4, 4))
        apart = [model.clip.dense(torch.rot90(image, k, (2, 3)), (4, 4))[0] for k in range(4)]
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert guidance[1].shape == (2, 24, 8, 8)


def test_remote_clip_runs_no_further_than_its_last_tap(tiny: Any) -> None:
    model = tiny.build("rskt_seg")
    assert model.remote_clip is not None
    called: list[int] = []
    for number, block in enumerate(model.remote_clip.visual.transformer.resblocks):
        block.register_forward_hook(lambda m, i, o, n=number: called.append(n))
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64), torch.randn(2, 1, 32))
    assert called == [0, 1]


def test_checkpointing_changes_no_gradient(model: OpenVocabularySegmenter) -> None:
    image, text = torch.randn(1, 3, 64, 64), torch.randn(2, 1, 32)

    def gradients() -> list[Tensor]:
        model.zero_grad()
        outputs = model(image, text)
        sum(x.mean() for x in (outputs if isinstance(outputs, list) else [outputs])).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    model.train()
    plain = gradients()
    model.set_checkpointing()
    for one, other in zip(gradients(), plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_what_doesnt_train_has_no_gradient(tiny: Any) -> None:
    model = tiny.build("gsnet").train()
    model(torch.randn(1, 3, 64, 64), torch.tensor([[[3, 49407]], [[5, 49407]]])).mean().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert not any(p.requires_grad for p in model.specialist.vit.parameters())
    assert not model.clip.visual.positional_embedding.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"finetune": "all"}, "finetune='all' is unknown; use one of attention"),
        ({"dino_finetune": "half"}, "dino_finetune='half' is unknown"),
        ({"aggregator": {"fusion_type": "sum"}}, "fusion_type='sum' is unknown"),
        ({"use_clip": False, "use_dino": False}, "both off; words need one"),
        (
            {"aggregator": {"fusion_type": "simple_concatenation"}, "use_dino": False},
            "joins two streams; use both",
        ),
    ],
)
def test_an_unknown_option_is_named(tiny: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny.build("gsnet", **options)


def test_freezing_the_image_trains_text_and_its_positions(tiny: Any) -> None:
    model = tiny.build("catseg", finetune="freezeIMG")
    trained = {n for n, p in model.clip.named_parameters() if p.requires_grad}
    assert trained == {
        "positional_embedding",
        "transformer.resblocks.0.attn.q_proj_weight",
        "transformer.resblocks.0.attn.v_proj_weight",
    }
