from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swath.core.errors import ConfigError
from swath.mtl.strategies import (
    Constant,
    Random,
    RepeatedSequence,
    RoundRobin,
    SetSize,
    SizeProportional,
    Strategy,
    WeightedRandom,
)

SIZES = [SetSize("cls/resisc", 7, 4), SetSize("det/dior", 5, 5), SetSize("seg/potsdam", 11, 4)]

SIZED = st.lists(st.integers(1, 6), min_size=1, max_size=5).map(
    lambda counts: [SetSize(f"cls/{i}", 3 * n, n) for i, n in enumerate(counts)]
)


@given(sizes=SIZED, seed=st.integers(0, 2**40), by=st.sampled_from(["samples", "batches"]))
def test_a_pass_by_size_takes_every_batch_of_every_set_once(
    sizes: list[SetSize], seed: int, by: str
) -> None:
    total = sum(size.batches for size in sizes)
    turns = list(islice(SizeProportional(by).turns(sizes, seed), 2 * total))
    for epoch in (0, 1):
        own = turns[epoch * total : (epoch + 1) * total]
        assert {turn.epoch for turn in own} == {epoch}
        every = {(p, b) for p, size in enumerate(sizes) for b in range(size.batches)}
        assert {(turn.part, turn.batch) for turn in own} == every


@given(sizes=SIZED, seed=st.integers(0, 2**32 - 1))
def test_other_strategies_begin_an_ended_set_anew(sizes: list[SetSize], seed: int) -> None:
    for strategy in (RoundRobin(), Random(), WeightedRandom([1.0] * len(sizes))):
        seen: Counter[int] = Counter()
        for turn in islice(strategy.turns(sizes, seed), 40):
            assert (turn.epoch, turn.batch) == divmod(seen[turn.part], sizes[turn.part].batches)
            seen[turn.part] += 1


@pytest.mark.parametrize("p", [[3, 5, 2], [0.3, 0.5, 0.2], {"det/dior": 1, "seg/potsdam": 1}])
def test_draws_are_those_of_numpys_choice(p: list[float] | dict[str, float]) -> None:
    weights = np.array([p.get(s.name, 0) for s in SIZES] if isinstance(p, dict) else p, float)
    generator = np.random.RandomState(4)
    want = [generator.choice(3, 1, p=weights / weights.sum())[0] for _ in range(200)]
    assert list(islice(WeightedRandom(p).draws(SIZES, 4), 200)) == want
    generator = np.random.RandomState(4)
    want = [generator.choice(3, 1)[0] for _ in range(200)]
    assert list(islice(Random().draws(SIZES, 4), 200)) == want


def test_names_do_as_well_as_numbers() -> None:
    by_name = RepeatedSequence(["det/dior", "seg/potsdam", "cls/resisc"])
    assert list(islice(by_name.draws(SIZES, 0), 4)) == [1, 2, 0, 1]
    assert list(islice(Constant("seg/potsdam").draws(SIZES, 0), 2)) == [2, 2]
    assert list(islice(RoundRobin("det/dior").draws(SIZES, 0), 3)) == [1, 2, 0]


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (lambda: WeightedRandom([1, 1]), "2 weights for 3 data sets"),
        (lambda: WeightedRandom([1, -1, 1]), "0 or more, not all 0"),
        (lambda: WeightedRandom([0, 0, 0]), "0 or more, not all 0"),
        (lambda: WeightedRandom([1, float("nan"), 1]), "0 or more"),
        (
            lambda: WeightedRandom({"det/diro": 1}),
            "no data set 'det/diro'; did you mean 'det/dior'",
        ),
        (lambda: RepeatedSequence([0, 1, 1]), "never gets to seg/potsdam"),
        (lambda: RepeatedSequence([0, 1, 3]), "strategy.sequence=3 must be one of the 3"),
        (lambda: Constant(3), "strategy.index=3"),
        (lambda: RoundRobin("seg"), "no data set 'seg'"),
        (lambda: SizeProportional("bytes"), "must be 'samples' or 'batches'"),
    ],
)
def test_what_fits_no_data_sets_is_refused(strategy: "type[Strategy]", message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        next(strategy().draws(SIZES, 0))
