"""Vocabularies, alternatives, background, the loss, and the cache of texts."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from swath.core.errors import ConfigError, DataError
from swath.core.inference.predictor import Predictor
from swath.core.palette import default_palette
from swath.core.sample import Sample
from swath.ovseg.losses import pixelwise_bce
from swath.ovseg.prompts import SINGLE, templates, tokenize
from swath.ovseg.protocols import PublishedProtocol
from swath.ovseg.task import VOCABULARIES, OpenVocabularyTask


def sample(size: int = 64, labels: tuple[int, ...] = (0, 1, 255)) -> Sample:
    torch.manual_seed(0)
    image = torch.randint(0, 255, (3, size, size), dtype=torch.uint8)
    choice = torch.randint(0, len(labels), (size, size))
    mask = torch.tensor(labels)[choice].to(torch.uint8)
    return Sample(tv_tensors.Image(image), {"mask": tv_tensors.Mask(mask)})


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "no class"),
        (["tree", " "], "empty name"),
        (["tree", "plane, "], "empty name"),
        (["tree", "Tree"], "'Tree' is there twice"),
        (["tree", "bush, tree"], "'tree' is there twice"),
        (["plane, aircraft", "ship", ""], r"class 3 \(''\) has an empty name"),
        ("tree", "give a list"),
        (["a very " * 40 + "long name"], "tokens long, 77 is the most"),
    ],
)
def test_names_that_cant_be_right_are_refused(classes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OpenVocabularyTask(classes)


@pytest.mark.parametrize(
    ("background", "message"),
    [
        (0.0, "between 0 and 1"),
        (1.5, "between 0 and 1"),
        (["sea", "sea"], "'sea' is there twice"),
        ([""], "background has an empty name"),
        ([], "background has no name"),
        (["sea", "Tree"], "'Tree' is there twice"),
    ],
)
def test_a_background_that_cant_be_right_is_refused(background: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OpenVocabularyTask(["tree"], background=background)


def test_there_is_one_background() -> None:
    with pytest.raises(ConfigError, match="called 'background' already"):
        OpenVocabularyTask(["tree", "background"], background=0.3)


def test_templates_are_known_by_name_or_given() -> None:
    assert templates("single") == SINGLE
    assert len(templates("imagenet")) == 80
    assert templates(["a map of {}"]) == templates("a map of {}") == ("a map of {}",)
    with pytest.raises(ConfigError, match=r"called 'singel'.*did you mean 'single'"):
        templates("singel")
    with pytest.raises(ConfigError, match=r"must hold .* once"):
        templates(["a map"])


def test_other_braces_in_a_template_are_text() -> None:
    found = tokenize(["ship"], templates(["{type} {{}}"]))
    assert torch.equal(found, tokenize(["{type} {ship}"], ["{}"]))


def test_other_scripts_are_spelt_in_bytes() -> None:
    tokens = tokenize(["здание", "建物", "Gebäude"])
    assert tokens.shape[:2] == (3, 1)
    assert len(tokens.unique(dim=0)) == 3


def test_alternatives_score_by_the_best_and_background_by_threshold() -> None:
    task = OpenVocabularyTask(["plane, aircraft", "ship"], background=0.25)
    assert task.classes == ("plane, aircraft", "ship", "background")
    assert task.palette == (*default_palette(2), (0, 0, 0))
    assert len(task.tokens) == 3
    logits = torch.tensor([1.0, 3.0, -2.0]).view(1, 3, 1, 1)
    got = task.by_class(logits).flatten()
    torch.testing.assert_close(got, torch.tensor([3.0, -2.0, -1.0986123]))
    assert got[2].sigmoid() == pytest.approx(0.25)


def test_names_of_the_background_may_have_alternatives() -> None:
    for background in ("sea, runway", ["sea,runway"], ["sea", "runway"]):
        task = OpenVocabularyTask(["ship"], background=background)
        assert task.names == ("ship", "sea", "runway")
        assert task.starts == [0, 1, 3]


def test_alternatives_need_no_space_after_the_comma() -> None:
    assert OpenVocabularyTask(["plane,aircraft", "ship"]).names == ("plane", "aircraft", "ship")


def test_how_likely_a_class_is_does_not_depend_on_the_others() -> None:
    logits = torch.tensor([[-3.0, 1.0], [-5.0, 0.5]])
    label, confidence = OpenVocabularyTask(["tree", "sea"]).labelled(logits)
    assert label.tolist() == [0, 0]
    torch.testing.assert_close(confidence, torch.tensor([-3.0, 1.0]).sigmoid())

    task = OpenVocabularyTask(["tree", "sea"], background=0.5)
    label, confidence = task.labelled(torch.cat([logits, torch.zeros(1, 2)]))
    assert label.tolist() == [2, 0]
    torch.testing.assert_close(confidence, torch.tensor([3.0, 1.0]).sigmoid())


def test_negative_prompts_are_one_class() -> None:
    task = OpenVocabularyTask(["ship"], background=["sea", "cloud"])
    assert task.classes == ("ship", "background")
    got = task.by_class(torch.tensor([1.0, -3.0, 2.0]).view(1, 3, 1, 1)).flatten()
    assert got.tolist() == [1.0, 2.0]


def test_a_prediction_has_one_map_for_each_class(model: Any) -> None:
    task = OpenVocabularyTask(["plane, aircraft", "ship"], background=["sea", "cloud"])
    batch = task.collate([sample(64), sample(40)])
    first, second = task.predict(model, batch)
    assert first.shape == (3, 64, 64)
    assert second.shape == (3, 40, 40)


def test_texts_are_encoded_once_until_weights_or_classes_change(tiny: Any) -> None:
    model = tiny.build("catseg")
    calls = []
    model.clip.ln_final.register_forward_hook(lambda m, i, o: calls.append(len(o)))
    task = OpenVocabularyTask(["tree", "ship"])
    first = task.text(model)
    assert task.text(model) is first
    with torch.no_grad():
        model.clip.text_projection.mul_(-1.0)
    changed = task.text(model)
    torch.testing.assert_close(changed, -first)
    task.with_classes(("tree", "ship", "road")).text(model)
    assert calls == [2, 2, 3]
    model.load_state_dict(tiny.build("catseg", seed=1).state_dict())
    assert not torch.allclose(task.text(model), changed)


def test_the_same_words_for_many_images_are_encoded_once(tiny: Any) -> None:
    model, calls = tiny.build("catseg"), []
    model.clip.ln_final.register_forward_hook(lambda m, i, o: calls.append(len(o)))
    predictor = Predictor(model, OpenVocabularyTask(["tree", "ship"]))
    image = np.zeros((64, 64, 3), np.uint8)
    for _ in range(2):
        for words in (["roof", "road", "sea"], ["tree", "ship"]):
            predictor.predict(image, classes=words)
        predictor.predict(image)
    assert calls == [3, 2]
    for number in range(VOCABULARIES):
        predictor.predict(image, classes=[f"thing {number}"])
    predictor.predict(image)
    assert len(calls) == 2 + VOCABULARIES + 1, "the oldest made way"


def test_a_task_goes_to_other_processes_after_it_has_encoded_texts(tiny: Any) -> None:
    model, task = tiny.build("catseg"), OpenVocabularyTask(["tree", "ship"], background=0.3)
    want = task.text(model)
    copied = pickle.loads(pickle.dumps(task))
    assert copied.classes == task.classes
    assert torch.equal(copied.text(model), want)


def test_texts_encoded_in_a_prediction_serve_training(tiny: Any) -> None:
    model = tiny.build("catseg", finetune="frozen")
    task = OpenVocabularyTask(["tree", "ship"])
    Predictor(model, task).predict(np.zeros((64, 64, 3), np.uint8))
    task.losses(model.train(), task.collate([sample(64)]))["bce"].backward()
    assert model.aggregator.conv1.weight.grad.any()


@pytest.mark.parametrize("slide", [False, True])
def test_the_published_protocol_is_an_option(tiny: Any, slide: bool) -> None:
    model = tiny.build("catseg")
    small = PublishedProtocol(slide, 64, canvas=128, window=96, stride=32)
    task = OpenVocabularyTask(["tree", "ship"], evaluation=small)
    (scores,) = task.predict(model, task.collate([sample(50)]))
    assert scores.shape == (2, 50, 50)
    plain = OpenVocabularyTask(["tree", "ship"]).predict(model, task.collate([sample(50)]))[0]
    assert not torch.allclose(scores, plain)


def test_the_loss_counts_ignored_pixels_as_no_class_or_not_at_all() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 8, 8).double()
    mask = torch.randint(0, 3, (2, 8, 8))
    mask[:, :3] = 255
    target = torch.nn.functional.one_hot(mask.clamp_max(3) % 255, 4)[..., :3].movedim(-1, 1)
    target = target * (mask != 255)[:, None]
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, target.double(), reduction="none"
    )
    torch.testing.assert_close(pixelwise_bce(logits, mask, 255), each.mean())
    want = each[(mask != 255)[:, None].expand_as(each)].mean()
    torch.testing.assert_close(pixelwise_bce(logits, mask, 255, skip_ignored=True), want)
    nothing = torch.full_like(mask, 255)
    assert pixelwise_bce(logits, nothing, 255, skip_ignored=True) == 0


def test_a_step_moves_what_should_learn(tiny: Any) -> None:
    model = tiny.build("gsnet").train()
    task = OpenVocabularyTask(["tree", "ship"])
    batch = task.collate([sample(64), sample(64)])
    losses = task.losses(model, batch)
    assert list(losses) == ["bce"]
    losses["bce"].backward()
    block = model.clip.transformer.resblocks[0].attn
    assert block.v_proj_weight.grad.any(), "gradients reach the text tower"
    with pytest.raises(ConfigError, match="train with one name for each class"):
        OpenVocabularyTask(["tree, bush", "ship"]).losses(model, batch)


def test_masks_that_dont_fit_the_classes_are_named() -> None:
    task = OpenVocabularyTask(["tree", "ship"])
    with pytest.raises(DataError, match="the mask holds class 7, but there are 2 classes"):
        task.collate([sample(labels=(0, 7))])
