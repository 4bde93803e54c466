"""Loading: the same samples whatever the workers, ranks and resumes."""

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from swath.core.data.loader import Augmented, EpochSampler, SampleStream, make_loader, seeded
from swath.core.data.transforms import Dihedral, strong_augment
from swath.core.errors import ConfigError, DataError
from swath.core.sample import Sample
from swath.core.structures import RotatedBoxes


class Numbered:
    """Sample ``i`` is filled with ``i``; remembers what was read."""

    def __init__(self, length: int = 10, broken: int | None = None) -> None:
        self.length, self.broken, self.read = length, broken, list[int]()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        self.read.append(index)
        if index == self.broken:
            raise DataError(f"{index}.png is truncated; copy it again")
        rng = np.random.default_rng(index)
        image = torch.from_numpy(rng.integers(0, 255, (3, 32, 32), dtype=np.uint8))
        mask = tv_tensors.Mask(torch.full((32, 32), index))
        return Sample(image=image, targets={"mask": mask}, meta={"id": str(index)})


class Stack:
    """The part of a task that a loader needs."""

    def collate(self, samples: Sequence[Sample]) -> dict[str, Any]:
        return {
            "image": torch.stack([s.image.as_subclass(torch.Tensor) for s in samples]),
            "ids": [s.meta["id"] for s in samples],
            "threads": torch.get_num_threads(),
        }


def loader(dataset: Any = None, **options: Any) -> Any:
    settings = {"batch_size": 4, "transform": strong_augment(24), "seed": 3} | options
    return make_loader(dataset or Numbered(), Stack(), **settings)  # type: ignore[arg-type]


def test_every_epoch_is_another_permutation() -> None:
    keys = list(islice(EpochSampler(10, seed=0), 30))
    epochs = [[index for epoch, index in keys if epoch == e] for e in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert keys == list(islice(EpochSampler(10, seed=0), 30))
    assert keys != list(islice(EpochSampler(10, seed=1), 30))
    assert list(islice(EpochSampler(3, shuffle=False), 5)) == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
        (1, 1),
    ]


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_ranks_share_each_epoch_and_resume_where_they_were(world_size: int) -> None:
    length, rounds = 7, 21
    ranks = [
        list(islice(EpochSampler(length, rank=r, world_size=world_size), rounds))
        for r in range(world_size)
    ]
    dealt = [key for turn in zip(*ranks, strict=True) for key in turn]
    assert dealt == list(islice(EpochSampler(length), rounds * world_size))
    assert set(Counter(dealt).values()) == {1}
    for r in range(world_size):
        late = EpochSampler(length, rank=r, world_size=world_size, start=11)
        assert list(islice(late, rounds - 11)) == ranks[r][11:]


class Backwards(Numbered):
    """A set that wants to be read from its end, an epoch further on each time."""

    def epoch_order(self, seed: int, epoch: int) -> Any:
        return np.roll(np.arange(len(self))[::-1], seed + epoch)


def test_a_set_may_say_in_which_order_it_is_shuffled() -> None:
    def ids(start: int) -> list[int]:
        settings = {"transform": None, "shuffle": True, "seed": 0, "start": start}
        batches = islice(loader(Backwards(), **settings), 5)
        return [int(name) for batch in batches for name in batch["ids"]]

    assert ids(0) == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert ids(5)[:10] == ids(0)[5:15]


def test_a_sample_depends_on_seed_epoch_and_index_alone() -> None:
    dataset, transform = Numbered(), strong_augment(24)
    first = Augmented(dataset, transform, seed=1)
    torch.manual_seed(9)
    wanted = first[2, 5].image
    torch.manual_seed(10)
    random.seed(4)
    assert torch.equal(Augmented(dataset, transform, seed=1)[2, 5].image, wanted)
    for other in (
        first[3, 5],
        Augmented(dataset, transform, seed=2)[2, 5],
    ):
        assert not torch.equal(other.image, wanted)
    assert torch.equal(first[0, 4].image, first[4].image)  # a bare index is the first epoch


def test_global_random_states_are_seeded_inside_and_restored_afterwards() -> None:
    def draw() -> tuple[float, float, float]:
        return torch.rand(()).item(), np.random.rand(), random.random()  # noqa: NPY002

    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    with seeded(1, 2, 3):
        first = draw()
    after = draw()
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    assert draw() == after
    with seeded(1, 2, 3):
        assert draw() == first
    with pytest.raises(RuntimeError, match="inside"), seeded(1):
        raise RuntimeError("inside")
    state = torch.get_rng_state()
    next(iter(loader(shuffle=True)))
    assert torch.equal(torch.get_rng_state(), state)


def test_workers_change_nothing() -> None:
    alone = list(islice(loader(shuffle=True), 6))
    helped = list(islice(loader(shuffle=True, num_workers=2), 6))
    for a, b in zip(alone, helped, strict=True):
        assert a["ids"] == b["ids"]
        assert torch.equal(a["image"], b["image"])
        assert b["threads"] == 1


class Boxed(Numbered):
    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        boxes = RotatedBoxes([[16.0, 16.0, 9.0, 5.0, 0.3]], canvas_size=(32, 32))
        sample.targets |= {"boxes": boxes, "labels": torch.tensor([index])}
        return sample


class Keep:
    def collate(self, samples: Sequence[Sample]) -> list[Sample]:
        return list(samples)


def test_boxes_come_back_from_workers_as_boxes() -> None:
    settings: Any = {"batch_size": 2, "transform": Dihedral(), "num_workers": 2}
    for sample, _ in make_loader(Boxed(), Keep(), **settings):  # type: ignore[arg-type]
        boxes = sample.targets["boxes"]
        assert isinstance(boxes, RotatedBoxes)
        assert boxes.canvas_size == (32, 32)
        assert isinstance(sample.targets["mask"], tv_tensors.Mask)


def test_starting_late_gives_the_same_batches_and_reads_nothing_before() -> None:
    whole = list(islice(loader(shuffle=True), 6))
    dataset = Numbered()
    late = list(islice(loader(dataset, shuffle=True, start=4 * 4), 2))
    assert len(dataset.read) == 8
    for a, b in zip(whole[4:], late, strict=True):
        assert a["ids"] == b["ids"]
        assert torch.equal(a["image"], b["image"])


class Counting(SampleStream):
    """Counts through ``Numbered``'s samples, each epoch from another one on; notes its reads."""

    def __init__(self, length: int = 10, ends_at: int | None = None) -> None:
        self.samples, self.ends_at = Numbered(length), ends_at
        self.opened: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return self.samples.length

    def read(self, epoch: int, start: int) -> Iterator[Sample]:
        self.opened.append((epoch, start))
        for place in range(start, len(self) if self.ends_at is None else self.ends_at):
            sample = self.samples[(place + epoch) % len(self)]
            sample.meta["drawn"] = torch.rand(()).item()
            yield sample


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stream_gives_the_same_batches_with_any_number_of_workers(workers: int) -> None:
    alone = list(islice(loader(Counting(), shuffle=True), 11))
    assert [i for b in alone for i in b["ids"]][:20] == [
        *(str(i) for i in range(10)),
        *(str(i) for i in (*range(1, 10), 0)),
    ]
    helped = list(islice(loader(Counting(), shuffle=True, num_workers=workers), 11))
    for a, b in zip(alone, helped, strict=True):
        assert a["ids"] == b["ids"]
        assert torch.equal(a["image"], b["image"])


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_a_stream_and_begin_late_without_reading_what_comes_before(
    world_size: int,
) -> None:
    alone = list(islice(loader(Counting(), shuffle=True), 4 * world_size))
    for rank in range(world_size):
        stream = Counting()
        share = {"shuffle": True, "rank": rank, "world_size": world_size, "start": 2 * 4}
        late = list(islice(loader(stream, **share), 2))
        for a, b in zip(alone[2 * world_size + rank :: world_size], late, strict=True):
            assert a["ids"] == b["ids"]
            assert torch.equal(a["image"], b["image"])
        assert len(stream.samples.read) == 8


def test_a_stream_is_opened_once_an_epoch_if_nobody_shares_it() -> None:
    stream = Counting()
    list(islice(loader(stream, shuffle=True), 5))
    assert stream.opened == [(0, 0), (1, 0)]


def test_random_numbers_of_a_stream_belong_to_the_place() -> None:
    def drawn(start: int) -> list[float]:
        keep: Any = {"batch_size": 5, "shuffle": True, "start": start}
        batch = next(iter(make_loader(Counting(), Keep(), **keep)))  # type: ignore[arg-type]
        return [sample.meta["drawn"] for sample in batch]  # type: ignore[union-attr]

    assert len(set(drawn(0))) == 5
    assert drawn(5) == drawn(5) != drawn(0)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_stream_shorter_than_it_says_is_reported_in_one_line(num_workers: int) -> None:
    with pytest.raises(DataError, match=r"place 7 of epoch 0, short of the 10 samples it claims"):
        list(loader(Counting(ends_at=7), shuffle=True, num_workers=num_workers))


def test_a_stream_is_for_training() -> None:
    with pytest.raises(ConfigError, match="is a stream, to train on"):
        loader(Counting())
    with pytest.raises(TypeError, match="abstract"):
        SampleStream()  # type: ignore[abstract]


def test_evaluation_sees_every_sample_once_in_order() -> None:
    batches = list(loader(transform=None, num_workers=0))
    assert [i for b in batches for i in b["ids"]] == [str(i) for i in range(10)]
    assert len(batches) == len(loader()) == 3
    assert len(list(loader(drop_last=True))) == 2
    assert [b["ids"] for b in loader(start=7)] == [["7", "8", "9"]]
    shares = [[i for b in loader(rank=r, world_size=2) for i in b["ids"]] for r in range(2)]
    assert shares == [["0", "2", "4", "6", "8"], ["1", "3", "5", "7", "9"]]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unreadable_sample_is_reported_in_one_line(num_workers: int) -> None:
    with pytest.raises(DataError) as caught:
        list(loader(Numbered(broken=6), num_workers=num_workers))
    assert str(caught.value) == "6.png is truncated; copy it again"


ABANDONED = """
import torch
from swath.core.data.loader import make_loader

class Ones:
    def __len__(self):
        return 8
    def __getitem__(self, index):
        from swath.core.sample import Sample
        return Sample(torch.ones(3, 4, 4, dtype=torch.uint8))

class First:
    def collate(self, samples):
        return {"image": samples[0].image}

batches = iter(make_loader(Ones(), First(), batch_size=2, num_workers=1, shuffle=True))
next(batches)
raise SystemExit(7)
"""


def test_a_program_can_end_with_a_loader_at_work() -> None:
    done = subprocess.run([sys.executable, "-c", ABANDONED], timeout=100, check=False)
    assert done.returncode == 7


@pytest.mark.parametrize(
    "options",
    [{"length": 0}, {"length": 4, "rank": 2, "world_size": 2}, {"length": 4, "start": -1}],
)
def test_refuses_what_cannot_be_sampled(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"empty|expected"):
        EpochSampler(**options)  # type: ignore[arg-type]


class Pairs(Numbered):
    """Makes the batches of a step of two, those of the next of three, and so on in turn."""

    def batches(
        self, seed: int, start: int, rank: int, world_size: int, accumulate: int
    ) -> Iterator[list[tuple[int, int]]]:
        for number in range(start * world_size + rank, 100, world_size):
            yield [(number, index) for index in range(2 + number // accumulate % 2)]


def test_a_set_may_make_its_own_batches() -> None:
    whole = [b["ids"] for b in islice(loader(Pairs(), shuffle=True, transform=None), 4)]
    assert whole == [["0", "1"], ["0", "1", "2"]] * 2
    # `start` counts samples, as if every batch had batch_size of them
    late = loader(Pairs(), shuffle=True, start=4, transform=None)
    assert next(iter(late))["ids"] == ["0", "1", "2"]
    second = loader(Pairs(), shuffle=True, rank=1, world_size=2, transform=None)
    assert [b["ids"] for b in islice(second, 2)] == [["0", "1", "2"]] * 2
    accumulating = loader(Pairs(), shuffle=True, accumulate=2, transform=None)
    assert [len(b["ids"]) for b in islice(accumulating, 4)] == [2, 2, 3, 3]
    evaluated = [b["ids"] for b in loader(Pairs(5))]
    assert evaluated == [["0", "1", "2", "3"], ["4"]]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("item", [None, {"image": 1}, (1, 2)])
def test_a_data_set_that_gives_no_samples_is_named(workers: int, item: Any) -> None:
    batches = loader([item] * 4, num_workers=workers)
    with pytest.raises(DataError, match=f"list gave a {type(item).__name__} as sample 0; a data"):
        next(iter(batches))
