"""In which order data sets take turns.

A strategy says whose turn it is, draw after draw; `turns` makes batches of it. All randomness is
one legacy NumPy generator that the run's seed starts, so that the official sequences come out
exactly; and an order is always drawn from its beginning, so that seed and step, which a checkpoint
holds, are the whole state of a run that resumes.

==================  ===========================================  ==================================
strategy            rule                                         a data set that has ended
==================  ===========================================  ==================================
`RoundRobin`        0, 1, 2, 0, ...                              begins anew
`Constant`          always the same                              begins anew
`RepeatedSequence`  a list, over and over                        begins anew
`Random`            any, with equal probability                  begins anew
`WeightedRandom`    any, by given weights                        begins anew
`SizeProportional`  any, by its share of samples or batches      rests until all have
==================  ===========================================  ==================================

Data sets are named, or numbered from 0.

Source:
    RSCoTr dossier 2 and 7; MMF's iteration strategies, from which the official ones stem.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from swath.core.errors import ConfigError, suggest

OFFICIAL_WASTE = 300
"""Draws that the official builder makes for a log line before the first that counts."""


class SetSize(NamedTuple):
    """How large a data set is: its name, its samples, and the batches of one pass over it."""

    name: str
    samples: int
    batches: int


class Turn(NamedTuple):
    """A batch: number of the data set, the pass over it, and the batch's place in that pass."""

    part: int
    epoch: int
    batch: int


class Strategy:
    """Whose turn it is."""

    def draws(self, sizes: Sequence[SetSize], seed: int) -> Iterator[int]:
        """Numbers of data sets, without end.

        Args:
            sizes: Of the data sets.
            seed: Of the randomness.

        Raises:
            ConfigError: If the strategy's arguments don't fit these data sets.
        """
        raise NotImplementedError

    def turns(self, sizes: Sequence[SetSize], seed: int) -> Iterator[Turn]:
        """Batches in the order in which they are trained on, without end."""
        counters = [itertools.count() for _ in sizes]
        for part in self.draws(sizes, seed):
            yield Turn(part, *divmod(next(counters[part]), sizes[part].batches))


class RoundRobin(Strategy):
    """One after the other.

    Args:
        start: Whose turn it is first.
    """

    def __init__(self, start: int | str = 0) -> None:
        self.start = start

    def draws(self, sizes: Sequence[SetSize], seed: int) -> Iterator[int]:
        """In turn."""
        start = _number(self.start, sizes, "start")
        return (i % len(sizes) for i in itertools.count(start))


class Constant(Strategy):
    """Always the same data set.

    The official one loops for ever, or divides by zero, where there are others.

    Args:
        index: Which.
    """

    def __init__(self, index: int | str = 0) -> None:
        self.index = index

    def draws(self, sizes: Sequence[SetSize], seed: int) -> Iterator[int]:
        """The one."""
        return itertools.repeat(_number(self.index, sizes, "index"))


class RepeatedSequence(Strategy):
    """A list of turns, over and over.

    Args:
        sequence: Data sets; every one must occur.
    """

    def __init__(self, sequence: Sequence[int | str]) -> None:
        self.sequence = list(sequence)

    def draws(self, sizes: Sequence[SetSize], seed: int) -> Iterator[int]:
        """The list, for ever."""
        numbers = [_number(one, sizes, "sequence") for one in self.sequence]
        missing = [size.name for i, size in enumerate(sizes) if i not in numbers]
        if missing:
            raise ConfigError(
                f"strategy.sequence={self.sequence} never gets to {', '.join(missing)}; name every "
                "data set"
            )
        return itertools.cycle(numbers)


class Random(Strategy):
    """Any data set, with equal probability.

    Args:
        wasted: Numbers that are drawn before the first that counts; see `OFFICIAL_WASTE`.
    """

    def __init__(self, wasted: int = 0) -> None:
        self.wasted = wasted

    def draws(self, sizes: Sequence[SetSize], seed: int) -> Iterator[int]:
        """As ``RandomState.choice`` draws them."""
        # the generator that official runs use, and that NumPy promises never to change
        generator = np.random.RandomState(seed % 2**32)
        p = self.probabilities(sizes)
        if p is None:
            stream = (int(generator.randint(len(sizes))) for _ in itertools.count())
        else:
            edges = np.cumsum(np.array(p, np.float64) / np.sum(p))
            edges /= edges[-1]
            stream = (
                int(edges.searchsorted(generator.random_sample(), side="right"))
                for _ in itertools.count()
            )
        return itertools.islice(stream, self.wasted, None)

    def probabilities(self, sizes: Sequence[SetSize]) -> list[float] | None:
        """Of each data set, up to a factor; None if all are equal."""
        return None


class WeightedRandom(Random):
    """Any data set, by given weights.

    Args:
        p: A weight for each data set, in their order or by name; they are divided by their sum.
        wasted: See `Random`.

    Raises:
        ConfigError: If a weight is negative or not finite, or all are 0.
    """

    def __init__(self, p: Sequence[float] | Mapping[str, float], wasted: int = 0) -> None:
        super().__init__(wasted)
        self.p = dict(p) if isinstance(p, Mapping) else list(p)
        weights = list(self.p.values()) if isinstance(self.p, dict) else self.p
        if not all(weight >= 0 for weight in weights) or not 0 < sum(weights) < float("inf"):
            raise ConfigError(f"strategy.p={self.p} must be weights of 0 or more, not all 0")

    def probabilities(self, sizes: Sequence[SetSize]) -> list[float]:
        """The weights."""
        if isinstance(self.p, dict):
            for name in self.p:
                _number(name, sizes, "p")
            return [self.p.get(size.name, 0.0) for size in sizes]
        if len(self.p) != len(sizes):
            raise ConfigError(
                f"strategy.p has {len(self.p)} weights for {len(sizes)} data sets; give one each"
            )
        return self.p


class SizeProportional(Random):
    """Any data set, by its size; one that has ended rests until all have.

    Args:
        by: ``"samples"``, as officially: sets with small batches then end last. ``"batches"``: all
            end at about the same time.
        early_end: End a pass as the official loader does: already when the data set that is drawn
            in place of one that has ended has ended, too.
        wasted: See `Random`.

    Raises:
        ConfigError: If ``by`` is neither.
    """

    def __init__(self, by: str = "samples", early_end: bool = False, wasted: int = 0) -> None:
        super().__init__(wasted)
        if by not in ("samples", "batches"):
            raise ConfigError(f"strategy.by='{by}' must be 'samples' or 'batches'")
        self.by, self.early_end = by, early_end

    def probabilities(self, sizes: Sequence[SetSize]) -> list[float]:
        """Numbers of samples, or of batches."""
        return [float(size.samples if self.by == "samples" else size.batches) for size in sizes]

    def turns(self, sizes: Sequence[SetSize], seed: int) -> Iterator[Turn]:
        """Pass after pass over all data sets together."""
        draws = self.draws(sizes, seed)
        one_pass = _pass_ending_early if self.early_end else _whole_pass
        for epoch in itertools.count():
            counters = [itertools.count() for _ in sizes]
            for part in one_pass(draws, [size.batches for size in sizes]):
                yield Turn(part, epoch, next(counters[part]))


def _whole_pass(draws: Iterator[int], left: list[int]) -> Iterator[int]:
    """Draws until no data set has a batch left; those that have none are passed over."""
    while any(left):
        part = next(p for p in draws if left[p])
        left[part] -= 1
        yield part


def _pass_ending_early(draws: Iterator[int], left: list[int]) -> Iterator[int]:
    """The same as the official loader, which notices an ended data set only when it is drawn."""
    ended: set[int] = set()
    while True:
        part = next(p for p in draws if p not in ended)
        if not left[part]:
            ended.add(part)
            if len(ended) == len(left):
                return
            part = next(p for p in draws if p not in ended)
            if not left[part]:
                return
        left[part] -= 1
        yield part


def _number(reference: int | str, sizes: Sequence[SetSize], argument: str) -> int:
    """The number of a data set that is named or numbered."""
    names = [size.name for size in sizes]
    if reference in names:
        return names.index(str(reference))
    if isinstance(reference, str):
        raise ConfigError(
            f"strategy.{argument}: there is no data set '{reference}'{suggest(reference, names)}"
        )
    if not 0 <= reference < len(names):
        raise ConfigError(
            f"strategy.{argument}={reference} must be one of the {len(names)} data sets, 0 to "
            f"{len(names) - 1}"
        )
    return reference
