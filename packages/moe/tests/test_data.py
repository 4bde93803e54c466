from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors

from swath.core.data.loader import EpochSampler
from swath.core.errors import DataError
from swath.core.sample import Sample
from swath.core.structures import RotatedBoxes
from swath.moe.augment import mdf_detection_augment
from swath.moe.data import MultiDataset


class Numbers:
    """Samples whose image is their own number."""

    def __init__(self, name: str, count: int) -> None:
        self.name, self.count = name, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        assert 0 <= index < self.count
        return Sample(
            tv_tensors.Image(torch.full((3, 4, 4), index, dtype=torch.uint8)),
            meta={"id": f"{self.name}-{index}"},
        )


def mixed(counts: dict[str, int], repeat: bool = True) -> MultiDataset:
    return MultiDataset({name: Numbers(name, n) for name, n in counts.items()}, repeat)


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    each=st.integers(1, 3),
    world=st.integers(1, 3),
    epoch=st.integers(0, 5),
)
def test_every_batch_of_every_process_has_as_many_samples_of_each_set(
    counts: list[int], each: int, world: int, epoch: int
) -> None:
    dataset = mixed({f"set{i}": n for i, n in enumerate(counts)})
    size = each * len(counts)
    for rank in range(world):
        sampler = iter(
            EpochSampler(
                len(dataset),
                start=epoch * size,
                rank=rank,
                world_size=world,
                batch_size=size,
                order=dataset.epoch_order,
            )
        )
        for _ in range(5):
            batch = [dataset[next(sampler)[1]].meta["task"] for _ in range(size)]
            assert set(Counter(batch).values()) == {each}


def test_an_epoch_sees_the_longest_set_once_and_the_others_as_often_as_it_takes() -> None:
    dataset = mixed({"long": 7, "short": 3})
    order = dataset.epoch_order(0, 4)
    assert sorted(order.tolist()) == list(range(14))
    seen = Counter(dataset[int(i)].meta["id"] for i in order)
    assert all(seen[f"long-{i}"] == 1 for i in range(7))
    assert [seen[f"short-{i}"] for i in range(3)] == [3, 2, 2]  # 7 of 3 3 3, as officially
    assert order.tolist() != dataset.epoch_order(0, 5).tolist()
    assert order.tolist() != dataset.epoch_order(1, 4).tolist()
    assert order.tolist() == dataset.epoch_order(0, 4).tolist()


def test_to_judge_on_every_sample_comes_once_set_after_set() -> None:
    dataset = mixed({"a": 2, "b": 3}, repeat=False)
    assert [dataset[i].meta["id"] for i in range(len(dataset))] == [
        "a-0", "a-1", "b-0", "b-1", "b-2",
    ]  # fmt: skip
    assert [dataset[i].meta["task"] for i in range(len(dataset))] == ["a", "a", "b", "b", "b"]
    assert not hasattr(dataset, "epoch_order")
    with pytest.raises(IndexError):
        dataset[5]


def test_nothing_to_train_on_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="set of 'b' is empty"):
        mixed({"a": 2, "b": 0})
    with pytest.raises(DataError, match="at least one data set"):
        mixed({})


def test_images_to_detect_in_are_brought_to_size_with_their_boxes() -> None:
    boxes = RotatedBoxes(torch.tensor([[200.0, 100, 80, 40, 0.3]]), canvas_size=(400, 800))
    image = tv_tensors.Image(torch.zeros(3, 400, 800, dtype=torch.uint8))
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        bigger, targets = mdf_detection_augment(1024)(image, {"boxes": boxes})
        assert bigger.shape == (3, 512, 1024)
        cx, cy, w, h, _ = targets["boxes"].as_subclass(torch.Tensor)[0].tolist()
        assert (w, h) == pytest.approx((102.4, 51.2), abs=1e-3)
        seen.add((round(cx), round(cy)))
    assert seen == {(256, 128), (768, 128), (256, 384), (768, 384)}
