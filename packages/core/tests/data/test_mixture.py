import pytest
import torch
from torchvision import tv_tensors

from swath.core.data.mixture import InMemory, Mixture, Relabelled, Selected
from swath.core.errors import DataError
from swath.core.sample import Sample


class Fixed:
    """Samples whose mask holds every class and an ignored pixel."""

    ignore_index = 9

    def __init__(self, name: str, classes: tuple[str, ...], count: int) -> None:
        self.classes, self.palette = classes, ((0, 0, 0),) * len(classes)
        self.ids = [f"{name}{i}" for i in range(count)]

    def __len__(self) -> int:
        return len(self.ids)

    dtype = torch.int64

    def __getitem__(self, index: int) -> Sample:
        mask = torch.tensor([[*range(len(self.classes)), 9]], dtype=self.dtype)
        return Sample(
            torch.zeros(3, *mask.shape, dtype=torch.uint8),
            {"mask": tv_tensors.Mask(mask)},
            meta={"id": self.ids[index]},
        )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_classes_are_renamed_merged_and_ignored(dtype: torch.dtype) -> None:
    fixed = Fixed("a", ("lawn", "tree", "house", "clutter"), 1)
    fixed.dtype = dtype
    names = {"lawn": "green", "tree": "green", "house": "building", "clutter": None}
    relabelled = Relabelled(fixed, names, ("building", "road", "green"))
    assert relabelled[0].targets["mask"].tolist() == [[2, 2, 0, 255, 255]]


def test_refuses_a_class_without_a_new_name() -> None:
    with pytest.raises(DataError, match="'house' has no new name"):
        Relabelled(Fixed("a", ("house",), 1), {"hous": "building"}, ("building",))


def test_refuses_a_name_that_is_no_label() -> None:
    with pytest.raises(DataError, match=r"'bilding' isn't among the labels.*building"):
        Relabelled(Fixed("a", ("house",), 1), {"house": "bilding"}, ("building",))


def test_a_part_is_seen_as_often_as_it_repeats() -> None:
    mixture = Mixture([Fixed("a", ("x",), 2), Fixed("b", ("x",), 1)], [1, 3])
    assert mixture.ids == ["0/a0", "0/a1", "1/b0", "1/b0", "1/b0"]
    assert [sample.meta["id"] for sample in mixture] == ["a0", "a1", "b0", "b0", "b0"]


def test_refuses_as_many_repeats_as_it_has_no_parts_for() -> None:
    with pytest.raises(DataError, match="1 parts need as many repeats"):
        Mixture([Fixed("a", ("x",), 2)], [1, 2])


def test_selects_samples_by_id() -> None:
    chosen = Selected(Fixed("a", ("x",), 4), ["a3", "a1"])
    assert [sample.meta["id"] for sample in chosen] == ["a3", "a1"]


def test_refuses_an_id_that_is_not_there() -> None:
    with pytest.raises(DataError, match="no sample 'a9'"):
        Selected(Fixed("a", ("x",), 4), ["a9"])


def test_a_kept_set_reads_each_sample_once() -> None:
    read: list[int] = []

    class Slow(Fixed):
        def __getitem__(self, index: int) -> Sample:
            read.append(index)
            return super().__getitem__(index)

    kept = InMemory(Slow("a", ("x",), 3))
    first = [kept[i] for i in (2, 0, 2)]
    assert read == [2, 0]
    assert first[0] is first[2]
    assert len(kept) == 3
    assert kept.ids == ["a0", "a1", "a2"]
