import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from swath.core.errors import ConfigError, DataError
from swath.core.sample import Sample
from swath.refseg.data.scenes import VOCABULARY
from swath.refseg.models.remotesam import RemoteSAM
from swath.refseg.optimizers import RemoteSAMAdamW
from swath.refseg.task import ReferringTask
from swath.refseg.text import WordPieces


def sample(mask: torch.Tensor | None = None, sentence: str | None = "the ship") -> Sample:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 255, (3, 40, 64), generator=generator, dtype=torch.uint8)
    targets: dict[str, object] = {} if sentence is None else {"sentence": sentence}
    if mask is not None:
        targets["mask"] = tv_tensors.Mask(mask)
    return Sample(image, targets, meta={"path": "a.png"})


def square() -> torch.Tensor:
    mask = torch.zeros(40, 64, dtype=torch.uint8)
    mask[10:30, 20:50] = 1
    return mask


def test_images_and_masks_are_resized_to_the_square(task: ReferringTask) -> None:
    batch = task.collate([sample(square()), sample(square(), "the red vehicle at the top")])
    assert batch["image"].shape == (1, 3, 64, 64)  # one image, two sentences
    assert batch["mask"].shape == (2, 64, 64)
    share = float(batch["mask"][0].float().mean())
    assert share == pytest.approx(20 * 30 / (40 * 64), abs=0.02)
    assert batch["attention_mask"].sum(1).tolist() == [4, 8]


def test_a_mask_of_other_size_than_its_image_is_fitted_too(task: ReferringTask) -> None:
    mask = np.zeros((41, 63), np.uint8)
    mask[:, :31] = 1
    batch = task.collate([sample(torch.from_numpy(mask))])
    assert float(batch["mask"].float().mean()) == pytest.approx(0.5, abs=0.02)


def test_an_image_is_looked_at_once_for_all_its_sentences(
    model: RemoteSAM, task: ReferringTask
) -> None:
    first, second = sample(square()), sample(square(), "the red vehicle at the top")
    other = sample(square())
    other.image = 255 - other.image
    together = task.collate([first, second, other, first])
    assert together["image_of"].tolist() == [0, 0, 1, 2]
    losses = task.losses(model, together)
    apart = [task.losses(model, task.collate([s])) for s in (first, second, other, first)]
    for name, loss in losses.items():
        mean = sum(row[name] for row in apart) / (1 if name == "dice" else len(apart))
        torch.testing.assert_close(loss, mean)
    masks = task.predict(model, together)
    assert torch.equal(masks[0], masks[3])


def with_words(sentence: str, names: tuple[str, ...], masks: torch.Tensor) -> Sample:
    known = sample(masks[0], sentence)
    known.targets["words"] = tv_tensors.Mask(masks)
    known.meta["words"] = names
    return known


def test_places_learn_which_words_are_true_of_them(model: RemoteSAM) -> None:
    task = ReferringTask(WordPieces(VOCABULARY), input_size=64, word_weight=1.0, words_first=0.5)
    left, right = torch.zeros(2, 40, 64, dtype=torch.uint8)
    left[:, :32], right[:, 32:] = 1, 1
    known = with_words("the ship", ("ship", "road"), torch.stack([left, right]))
    batch = task.collate([known, known])
    batch["progress"] = 0.25
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=5e-3)
    losses = []
    for _ in range(40):
        found = task.losses(model, batch)
        assert set(found) == {"words"}  # as yet nothing else
        optimizer.zero_grad()
        found["words"].backward()
        assert model.classifier.conv1_1.weight.grad is None
        optimizer.step()
        losses.append(float(found["words"].detach()))
    print(f"word loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    assert losses[-1] < 0.5 * losses[0]
    batch["progress"] = 0.75
    assert set(task.losses(model, batch)) == {"ce", "dice", "words"}


def test_words_need_to_be_known() -> None:
    task = ReferringTask(WordPieces(VOCABULARY), input_size=64, word_weight=1.0)
    with pytest.raises(DataError, match=r"don't say where words are true: set task\.word_weight=0"):
        task.losses(torch.nn.Linear(1, 1), task.collate([sample(square())]))


def test_bad_samples_are_named(task: ReferringTask) -> None:
    with pytest.raises(DataError, match=r"a\.png: has no sentence"):
        task.collate([sample(square(), None)])
    with pytest.raises(DataError, match=r"a\.png: its mask holds other values"):
        task.collate([sample(2 * square())])


def test_a_few_steps_learn_one_picture(model: RemoteSAM, task: ReferringTask) -> None:
    torch.manual_seed(0)
    model.train()
    batch = task.collate([sample(square())] * 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    first = None
    for _ in range(25):
        losses = task.losses(model, batch)
        loss = losses["ce"] + losses["dice"]
        first = first if first is not None else float(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert first is not None
    assert float(loss.detach()) < 0.6 * first


def test_predictions_are_judged(model: RemoteSAM, task: ReferringTask) -> None:
    batch = task.collate([sample(square())])
    (mask,) = task.predict(model, batch)
    assert mask.dtype == torch.bool
    metrics = task.metrics()
    metrics.update([batch["mask"][0] == 1], batch)
    assert metrics.compute()["oIoU"] == 1


def test_another_model_is_refused(task: ReferringTask) -> None:
    with pytest.raises(ConfigError, match="asks a RemoteSAM, not a Linear"):
        task.select(torch.nn.Linear(1, 1), "detection")


def test_all_of_bert_may_be_trained(model: RemoteSAM) -> None:
    optimisation = RemoteSAMAdamW(bert_layers=None)(model, 10)
    count = sum(len(group["params"]) for group in optimisation.optimizer.param_groups)
    assert count == sum(1 for _ in model.parameters())
    assert [round(optimisation.factor(i), 3) for i in (0, 5, 10)] == [1, 0.536, 0]
