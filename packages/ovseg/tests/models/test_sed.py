"""SED: what comes from CLIP, what trains, and classes that are rejected on the way."""

from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors

from swath.core.errors import ConfigError
from swath.core.sample import Sample
from swath.ovseg.models import sed
from swath.ovseg.models.catseg import TRUNCATED_LOGIT
from swath.ovseg.task import OpenVocabularyTask


def test_full_size_has_the_measured_parameters() -> None:
    with torch.device("meta"):
        model = sed.sed()
    sizes = [
        sum(p.numel() for p in part) / 1e6
        for part in (
            model.parameters(),
            (p for p in model.parameters() if p.requires_grad),
            model.clip.visual.parameters(),
            model.aggregator.parameters(),
        )
    ]
    want = [180.7617, 89.5982, 88.2218, 1.3764]  # as printed in the dossier, section 12
    assert sizes == pytest.approx(want, abs=1e-4)


def test_keys_are_the_official_ones(tiny: Any) -> None:
    state = tiny.build("sed").state_dict()
    official = sed.official_keys(state)
    head = "sem_seg_head.predictor."
    for name in (
        "clip_model.visual.trunk.stages.3.blocks.1.conv_dw.weight",
        "clip_model.visual.head.proj.weight",
        "clip_model.transformer.resblocks.0.attn.in_proj_weight",
        "transformer.conv1.weight",
        "transformer.decoder_guidance_projection.2.0.weight",
        "transformer.decoder_corr_guidance_projection.0.0.bias",
        "transformer.decoder1.cnext.dwconv.weight",
        "transformer.decoder2.cnext.pwconv1.bias",
        "transformer.decoder3.attention.attention.q.weight",
        "transformer.decoder3.conv.double_conv.4.weight",
        "transformer.head0.weight",
    ):
        assert head + name in official
    assert {k.split(".")[2] for k in official} == {"clip_model", "transformer"}
    assert set(sed.remap_official_keys(official)) == set(state)


def test_features_and_texts_are_those_of_open_clip(tiny: Any) -> None:
    clip = tiny.build("sed").clip
    image, tokens = torch.randn(2, 3, 32, 32), torch.zeros(2, 77, dtype=torch.int64)
    tokens[0, :4] = torch.tensor([49406, 5, 9, 49407])
    tokens[1, :6] = torch.tensor([49406, 7, 7, 3, 2, 49407])
    with torch.no_grad():
        features, maps = clip.dense(image)  # a single cell is its own mean
        torch.testing.assert_close(features[..., 0, 0], clip.encode_image(image))
        want = open_clip.CLIP.encode_text(clip, tokens)
        torch.testing.assert_close(clip.encode_text(tokens[:, :6]), want, rtol=1e-5, atol=1e-6)
    assert [x.shape[-1] for x in maps] == [8, 4, 2, 1]


def test_in_training_every_stage_is_judged(tiny: Any) -> None:
    model = tiny.build("sed").train()
    image, text = torch.randn(1, 3, 64, 100), torch.randn(3, 1, 32)
    outputs = model(image, text)
    assert [x.shape for x in outputs] == [(1, 3, 64, 100)] * 4
    sum(x.mean() for x in outputs[1:]).backward()
    reached = {n.split(".")[1] for n, p in model.named_parameters() if p.grad is not None}
    assert reached == {"head0", "head1", "head2"}, "what they learn from is theirs alone"
    model.zero_grad()
    sum(x.mean() for x in model(image, text)).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    trained = {n.split(".")[1] for n, p in model.clip.named_parameters("clip") if p.requires_grad}
    assert trained == {"visual"}


def test_frozen_texts_are_encoded_once_for_all_steps(tiny: Any) -> None:
    model = tiny.build("sed").train()
    task = OpenVocabularyTask(["tree", "ship"])
    image = tv_tensors.Image(torch.zeros(3, 64, 64, dtype=torch.uint8))
    mask = tv_tensors.Mask(torch.zeros(64, 64, dtype=torch.uint8))
    batch = task.collate([Sample(image, {"mask": mask})])
    calls = []
    model.clip.ln_final.register_forward_hook(lambda m, i, o: calls.append(len(o)))
    for _ in range(2):
        losses = task.losses(model, batch)
    assert list(losses) == ["bce", "bce_1", "bce_2", "bce_3"]
    assert calls == [2]


def test_rejected_classes_change_nothing_for_those_that_are_kept(tiny: Any) -> None:
    model = tiny.build("sed")
    image, text = torch.randn(1, 3, 64, 64), torch.randn(6, 1, 32)
    with torch.no_grad():
        everything = model(image, text)
        model.aggregator.top_k = 6
        torch.testing.assert_close(model(image, text), everything)
        model.aggregator.top_k = 1
        few = model(image, text)
        kept = (few != TRUNCATED_LOGIT).flatten(2).any(-1)[0]
        assert 0 < kept.sum() < 6
        model.aggregator.top_k = None
        head = model.aggregator.head0
        first = best_anywhere(model, image, text, head)
        assert set(kept.nonzero().flatten().tolist()) <= first


def best_anywhere(model: Any, image: Tensor, text: Tensor, head: Any) -> set[int]:
    """Classes that are highest in some cell before the first stage."""
    caught: list[Tensor] = []
    handle = model.aggregator.conv1.register_forward_hook(lambda m, i, o: caught.append(o))
    model(image, text)
    handle.remove()
    return set(head(caught[0])[:, 0].argmax(0).flatten().tolist())


@pytest.mark.slow
def test_it_can_be_exported(tiny: Any) -> None:
    model = tiny.build("sed")
    image, text = torch.randn(1, 3, 64, 64), torch.randn(3, 1, 32)
    with torch.no_grad():
        exported = torch.export.export(model, (image, text)).module()
        torch.testing.assert_close(exported(image, text), model(image, text))


def test_an_unknown_mode_is_named(tiny: Any) -> None:
    with pytest.raises(ConfigError, match="finetune='attention' is unknown; use one of full"):
        tiny.build("sed", finetune="attention")
