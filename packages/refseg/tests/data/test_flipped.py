import numpy as np
import torch
from torchvision import tv_tensors

from swath.core.sample import Sample
from swath.refseg.data.flipped import Flipped

SENTENCES = {  # across, down
    (False, False): "The leftmost ship at the top, above the dock right of the lawn",
    (True, False): "The rightmost ship at the top, above the dock left of the lawn",
    (False, True): "The leftmost ship at the bottom, below the dock right of the lawn",
    (True, True): "The rightmost ship at the bottom, below the dock left of the lawn",
}


def test_sentence_and_mask_turn_with_the_image() -> None:
    image = torch.arange(24, dtype=torch.uint8).view(1, 4, 6)
    mask = tv_tensors.Mask((image[0] < 3).to(torch.uint8))
    sample = Sample(image, {"sentence": SENTENCES[False, False], "mask": mask})
    views = Flipped([sample])
    turns = set()
    torch.manual_seed(0)
    for _ in range(30):
        found = views[0]
        left, right, below = (int(found.image[0, y, x]) for y, x in ((0, 0), (0, 1), (1, 0)))
        turn = (right < left, below < left)
        axes = [axis for axis, flag in zip((2, 1), turn, strict=True) if flag]
        np.testing.assert_array_equal(found.image, np.flip(image.numpy(), axes))
        np.testing.assert_array_equal(found.targets["mask"], np.asarray(found.image)[0] < 3)
        assert found.targets["sentence"] == SENTENCES[turn]
        turns.add(turn)
    assert turns == set(SENTENCES)
    assert sample.targets["sentence"] == SENTENCES[False, False]
