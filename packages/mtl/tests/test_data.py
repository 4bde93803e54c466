from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from swath.core.data.loader import Key
from swath.core.errors import ConfigError, DataError
from swath.core.sample import Sample
from swath.mtl.data import Fold, Part, TaskMixture, WithObjects
from swath.mtl.strategies import Random, RoundRobin


class Numbers:
    """Sample ``i`` is an image of ``i``."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return Sample(torch.full((3, 4, 4), index, dtype=torch.uint8), meta={"id": str(index)})


def mixture(**options: Any) -> TaskMixture:
    sizes = {"cls/a": (7, 2), "det/b": (3, 1), "seg/c": (5, 3)}
    return TaskMixture({n: Part(Numbers(c), b) for n, (c, b) in sizes.items()}, **options)


def named(data: TaskMixture, keys: list[Key]) -> list[tuple[str, int]]:
    samples = [data[index] for _, index in keys]
    return [(s.meta["dataset"], int(s.image[0, 0, 0])) for s in samples]


def test_each_data_set_begins_somewhere() -> None:
    data = mixture()
    assert data.starts == {"cls/a": 0, "det/b": 7, "seg/c": 10}
    assert [data[i].meta["dataset"] for i in data.starts.values()] == list(data.parts)


def test_a_batch_is_of_one_set_and_a_pass_takes_each_sample_once() -> None:
    data = mixture()
    seen: dict[str, list[int]] = {}
    for number, keys in enumerate(islice(data.batches(0, 0, 0, 1), 12)):
        rows = named(data, keys)
        (name,) = {name for name, _ in rows}
        assert name == ["cls/a", "det/b", "seg/c"][number % 3]
        seen.setdefault(name, []).extend(value for _, value in rows)
    assert sorted(seen["cls/a"]) == list(range(7))  # batches of 2, 2, 2 and 1
    assert sorted(seen["det/b"][:3]) == list(range(3))
    assert sorted(seen["seg/c"][:5]) == sorted(seen["seg/c"][5:]) == list(range(5))


@pytest.mark.parametrize("turn", [1, 2])
@pytest.mark.parametrize("together", [False, True])
def test_beginning_late_gives_the_batches_that_come_then(turn: int, together: bool) -> None:
    data = mixture(strategy=Random(), turn=turn, together=together)
    whole = list(islice(data.batches(3, 0, 0, 1), 20))
    for start in (1, 2, 7):
        assert list(islice(data.batches(3, start, 0, 1), 20 - start)) == whole[start:]


def test_processes_take_one_set_in_a_step_and_share_out_what_one_process_accumulates() -> None:
    shared = mixture(strategy=Random())
    ranks = [list(islice(shared.batches(5, 0, rank, 2), 10)) for rank in (0, 1)]
    alone = list(islice(shared.batches(5, 0, 0, 1, accumulate=2), 20))
    for step, (first, second) in enumerate(zip(*ranks, strict=True)):
        assert {n for n, _ in named(shared, first)} == {n for n, _ in named(shared, second)}
        assert [first, second] == alone[2 * step : 2 * step + 2]


def test_a_set_shorter_than_a_batch_gives_what_it_has_and_each_process_gets_a_full_batch() -> None:
    parts = {"det/few": Part(Numbers(2), batch_size=4)}
    alone = next(TaskMixture(parts).batches(0, 0, 0, 1))
    assert sorted(index for _, index in alone) == [0, 1]
    of_two = [next(TaskMixture(parts).batches(0, 0, rank, 2)) for rank in (0, 1)]
    assert [len(keys) for keys in of_two] == [4, 4]


def test_with_turns_of_one_batch_a_step_that_accumulates_mixes_data_sets() -> None:
    taken = islice(mixture(turn=1).batches(0, 0, 0, 1, accumulate=3), 3)
    names = [{name for name, _ in named(mixture(), keys)} for keys in taken]
    assert names == [{"cls/a"}, {"det/b"}, {"seg/c"}]


def test_a_pass_is_shuffled_once_and_one_that_is_left_out_never(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shuffled, shuffle = [], np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda s: shuffled.append(s) or shuffle(s))
    data = TaskMixture({"cls/a": Part(Numbers(10), 2), "det/b": Part(Numbers(6), 2)})
    next(islice(data.batches(3, 20, 0, 1), 9, None))  # batches 10 to 14 of either
    assert shuffled == [(3, 0, 2), (3, 1, 3), (3, 1, 4)]


def test_together_a_batch_holds_a_batch_of_each() -> None:
    data = mixture(together=True)
    for keys in islice(data.batches(0, 0, 0, 1), 3):
        assert {name for name, _ in named(data, keys)} == {"cls/a", "det/b", "seg/c"}


def test_some_may_be_chosen_by_head_or_name() -> None:
    assert list(mixture(only=["det", "cls/a"]).parts) == ["cls/a", "det/b"]
    assert mixture(only=["seg"]).ids == [f"seg/c/{i}" for i in range(5)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TaskMixture({"cls/a": Part(Numbers(0))}), "data set of 'cls/a' is empty"),
        (lambda: TaskMixture({}), "at least one data set"),
        (lambda: TaskMixture({"dior": Part(Numbers(1))}), "'dior' can't name a data set"),
        (lambda: mixture(only=["segm"]), "no task 'segm'; did you mean 'seg'"),
        (lambda: mixture(only=[]), "no task is chosen"),
        (lambda: mixture(turn=0), "turn=0"),
        (lambda: Part(Numbers(1), 0), "batch_size=0"),
        (lambda: next(mixture(strategy=RoundRobin(9)).batches(0, 0, 0, 1)), "strategy.start=9"),
    ],
)
def test_mistakes_are_named(make: Any, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        make()


def test_a_fold_holds_out_every_nth() -> None:
    held, rest = (Fold(Numbers(11), part, every=4) for part in ("test", "train"))
    assert held.ids == ["0", "4", "8"]
    assert [held[i].meta["id"] for i in range(len(held))] == held.ids
    assert sorted([*held.ids, *rest.ids], key=int) == [str(i) for i in range(11)]
    with pytest.raises(DataError, match="part 'val' is unknown"):
        Fold(Numbers(3), "val")


def test_images_that_show_no_object_can_be_left_out() -> None:
    class Boxed(Numbers):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            return replace(sample, targets={"labels": torch.zeros(index % 3, dtype=torch.int64)})

    shown = WithObjects(Boxed(7))
    assert shown.ids == ["1", "2", "4", "5"]
    assert [shown[i].meta["id"] for i in range(len(shown))] == shown.ids
    with pytest.raises(DataError, match="no image of the set shows an object"):
        WithObjects(Boxed(1))
