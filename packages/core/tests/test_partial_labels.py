import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import tv_tensors

from swath.core.errors import ConfigError
from swath.core.partial_labels import PartialLabelTask, marginal_cross_entropy
from swath.core.sample import Sample

CLASSES = ("land", "building", "water")
GROUPS = {"open": ("land", "water")}


def sample(mask: list[list[int]], valid: Tensor | None = None) -> Sample:
    labels = torch.tensor(mask)
    image = torch.zeros(3, *labels.shape, dtype=torch.uint8)
    return Sample(tv_tensors.Image(image), {"mask": tv_tensors.Mask(labels)}, valid)


def test_a_group_has_the_probability_of_its_members_together() -> None:
    probabilities = torch.tensor([0.2, 0.7, 0.1])
    logits = probabilities.log().reshape(1, 3, 1, 1)
    members = torch.tensor([[True, False, True]])
    loss = marginal_cross_entropy(logits, torch.zeros(1, 1, 1, dtype=torch.long), members)
    torch.testing.assert_close(loss, -torch.tensor(0.3).log())


def test_without_groups_it_is_the_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 5, 6), torch.randint(0, 4, (2, 5, 6))
    labels[0, :2] = 255
    expected = F.cross_entropy(logits, labels, ignore_index=255)
    loss = marginal_cross_entropy(logits, labels, torch.eye(4, dtype=torch.bool))
    torch.testing.assert_close(loss, expected)


def test_gradients_are_finite_and_zero_without_labels() -> None:
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    labels = torch.full((1, 3, 3), 255)
    loss = marginal_cross_entropy(logits, labels, torch.eye(2, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_groups_train_and_do_not_count() -> None:
    task = PartialLabelTask(CLASSES, GROUPS)
    valid = torch.tensor([[True, True], [False, True]])
    batch = task.collate([sample([[3, 1], [3, 255]], valid), sample([[0]])])
    assert batch["mask"][0].tolist() == [[255, 1], [255, 255]]
    assert batch["partial"][0].tolist() == [[3, 1], [255, 255]]
    assert batch["partial"][1].tolist() == [[0, 255], [255, 255]]
    losses = task.losses(nn.Conv2d(3, 3, 1), batch)
    assert set(losses) == {"marginal"}
    assert losses["marginal"].isfinite()


@pytest.mark.parametrize(
    ("groups", "message"), [({"open": ()}, "groups.open is empty"), ({"a": ("wter",)}, "'water'")]
)
def test_refuses_a_group_it_cannot_use(groups: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PartialLabelTask(CLASSES, groups)
