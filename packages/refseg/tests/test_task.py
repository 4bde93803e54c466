import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from swath.core.errors import ConfigError, DataError
from swath.core.sample import Sample
from swath.refseg.models.remotesam import RemoteSAM
from swath.refseg.optimizers import RemoteSAMAdamW
from swath.refseg.task import ReferringTask


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
    assert batch["image"].shape == (2, 3, 64, 64)
    assert batch["mask"].shape == (2, 64, 64)
    share = float(batch["mask"][0].float().mean())
    assert share == pytest.approx(20 * 30 / (40 * 64), abs=0.02)
    assert batch["attention_mask"].sum(1).tolist() == [4, 8]


def test_a_mask_of_other_size_than_its_image_is_fitted_too(task: ReferringTask) -> None:
    mask = np.zeros((41, 63), np.uint8)
    mask[:, :31] = 1
    batch = task.collate([sample(torch.from_numpy(mask))])
    assert float(batch["mask"].float().mean()) == pytest.approx(0.5, abs=0.02)


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
