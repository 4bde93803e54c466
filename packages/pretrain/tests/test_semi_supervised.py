from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from swath.core.data.loader import EpochSampler, seeded
from swath.core.errors import ConfigError
from swath.core.sample import Sample
from swath.pretrain.semi_supervised import SemiSupervised


class Numbers:
    """Samples that show their number; the mask does too."""

    def __init__(self, count: int, base: int = 0) -> None:
        self.count, self.base = count, base

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        number = self.base + index
        mask = tv_tensors.Mask(torch.full((2, 2), number, dtype=torch.uint8))
        return Sample(torch.full((3, 2, 2), number, dtype=torch.uint8), {"mask": mask})


class Ordered(Numbers):
    """Wants to be read backwards."""

    def epoch_order(self, seed: int, epoch: int) -> Any:
        return np.arange(len(self))[::-1]


def shown(sample: Sample) -> int:
    return int(sample.image[0, 0, 0])


def test_the_shorter_list_is_repeated_to_the_length_of_the_longer() -> None:
    pairs = SemiSupervised(Numbers(3), Numbers(7, base=100))
    assert len(pairs) == 7
    found = [(shown(pairs[i]), shown(pairs[i].targets["unlabelled"])) for i in range(7)]
    assert found == [(i % 3, 100 + i) for i in range(7)]
    assert len(SemiSupervised(Numbers(7), Numbers(3))) == 7
    assert len(SemiSupervised(Numbers(7), Numbers(0))) == 0
    with pytest.raises(IndexError):
        pairs[7]


def test_the_partner_is_any_other_image_and_there_half_the_time() -> None:
    pairs = SemiSupervised(Numbers(2), Numbers(5, base=100))
    with seeded(0):
        drawn = [pairs[2].targets.get("mix") for _ in range(2000)]
    partners = [shown(m) for m in drawn if m is not None]
    assert len(partners) / 2000 == pytest.approx(0.5, abs=0.04)
    counts = np.bincount(partners)[100:]
    assert counts[2] == 0
    assert counts[[0, 1, 3, 4]].min() > 200


class Sharded(Numbers):
    """In shards of three."""

    def neighbours(self, index: int) -> range:
        return range(index - index % 3, index - index % 3 + 3)


def test_the_partner_is_of_the_same_shard_if_there_are_shards() -> None:
    pairs = SemiSupervised(Numbers(2), Sharded(9), cutmix=1.0)
    with seeded(0):
        partners = [shown(pairs[4].targets["mix"]) for _ in range(200)]
    assert set(partners) == {3, 5}


def test_the_official_partner_is_the_image_itself() -> None:
    pairs = SemiSupervised(Numbers(2), Numbers(5, base=100), mix="same", cutmix=1.0)
    assert [shown(pairs[i].targets["mix"]) for i in range(5)] == [100, 101, 102, 103, 104]
    alone = SemiSupervised(Numbers(2), Numbers(1, base=100), cutmix=1.0)
    assert shown(alone[1].targets["mix"]) == 100


def test_labels_of_the_unlabelled_are_not_looked_at_unless_asked_for() -> None:
    for stored in (False, True):
        pairs = SemiSupervised(Numbers(2), Numbers(5), cutmix=1.0, stored_labels=stored)
        targets = pairs[0].targets
        assert "mask" in targets
        assert ("mask" in targets["unlabelled"].targets) is stored
        assert ("mask" in targets["mix"].targets) is stored


def test_the_unlabelled_set_may_say_in_which_order_it_is_read() -> None:
    pairs = SemiSupervised(Numbers(2), Ordered(5))
    keys = iter(EpochSampler(len(pairs), order=pairs.epoch_order))
    assert [next(keys)[1] for _ in range(5)] == [4, 3, 2, 1, 0]
    assert SemiSupervised(Numbers(2), Numbers(5)).epoch_order is None
    assert SemiSupervised(Numbers(9), Ordered(5)).epoch_order is None


@pytest.mark.parametrize(
    ("options", "message"), [({"mix": "none"}, "'other' or 'same'"), ({"cutmix": 2}, "0 to 1")]
)
def test_options_out_of_range_are_named(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SemiSupervised(Numbers(2), Numbers(5), **options)
