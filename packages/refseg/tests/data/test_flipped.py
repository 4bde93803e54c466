import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from swath.core.sample import Sample
from swath.refseg.data.flipped import Flipped

SENTENCES = {
    (False, False): "The leftmost ship at the top, above the dock right of the lawn",
    (True, False): "The rightmost ship at the top, above the dock left of the lawn",
    (False, True): "The leftmost ship at the bottom, below the dock right of the lawn",
    (True, True): "The rightmost ship at the bottom, below the dock left of the lawn",
}


@pytest.mark.parametrize("turn", SENTENCES)
def test_the_sentence_turns_with_image_and_mask(
    turn: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = torch.arange(24, dtype=torch.uint8).view(1, 4, 6)
    mask = tv_tensors.Mask((image[0] < 3).to(torch.uint8))
    sample = Sample(image, {"sentence": SENTENCES[False, False], "mask": mask})
    monkeypatch.setattr(torch, "rand", lambda count: torch.tensor([1.0 - flag for flag in turn]))
    found = Flipped([sample])[0]
    assert found.targets["sentence"] == SENTENCES[turn]
    axes = [axis for axis, flag in zip((2, 1), turn, strict=True) if flag]
    np.testing.assert_array_equal(found.image, np.flip(image.numpy(), axes))
    np.testing.assert_array_equal(found.targets["mask"], found.image[0] < 3)
    assert sample.targets["sentence"] == SENTENCES[False, False]


def test_every_view_comes_up() -> None:
    image = torch.arange(4, dtype=torch.uint8).view(1, 2, 2)
    views = Flipped([Sample(image, {"sentence": "the ship"})])
    torch.manual_seed(0)
    assert {int(views[0].image[0, 0, 0]) for _ in range(40)} == {0, 1, 2, 3}
