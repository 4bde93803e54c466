"""Data loading whose randomness depends on the sample and on nothing else.

A sample's augmentation is a function of (seed, epoch, index): the same for any number of workers
and ranks, after a resume, and whatever was loaded before. Samplers therefore yield *keys*
``(epoch, index)``, and `Augmented` turns a key into a sample under a random state of its own.
`Streamed` does the same for sets that are read in sequence: there, a key names a place.
"""

import atexit
import itertools
import random
import signal
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any, Protocol
from weakref import WeakSet

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, get_worker_info

from swath.core.errors import ConfigError, DataError, SwathError
from swath.core.sample import Sample
from swath.core.task import Batch, Task

Key = tuple[int, int]
"""Epoch and index of a sample."""

Order = Callable[[int, int], NDArray[np.int64]]
"""From seed and epoch to a permutation of a data set's indices, int64 ``(N,)``."""


class Samples(Protocol):
    """A map-style data set of samples."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


class SampleStream(IterableDataset[Sample]):
    """A training set that is read in sequence, and can be begun anywhere.

    A subclass says how many samples an epoch has and reads on from a given place; it makes its own
    order. Workers and ranks each read the places of their own batches, and a run that resumes
    begins with the first place that wasn't consumed: so beginning late must not cost reading what
    comes before, as it doesn't where the sizes of shards or the offsets in a file are known.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Samples in an epoch."""

    @abstractmethod
    def read(self, epoch: int, start: int) -> Iterator[Sample]:
        """The samples of an epoch, in its order, from place ``start`` on.

        What a place holds may depend on the epoch and on nothing else. Random numbers of torch's,
        numpy's and Python's global generators are the same whenever a place is read.
        """

    def __iter__(self) -> Iterator[Sample]:
        return self.read(0, 0)


class EpochSampler(Sampler[Key]):
    """Keys of one epoch after the other, without end.

    The ranks of a distributed run deal out one common sequence in turn, a batch at a time, so that
    together they see every sample once an epoch, and make the batches that one process would.
    Starting late costs nothing: positions are computed, not skipped.

    Args:
        length: Number of samples in the data set.
        seed: Of the order; each epoch has its own permutation.
        shuffle: False: by index.
        start: Samples that this rank has drawn already.
        rank: Which share of the sequence to draw.
        world_size: Number of shares.
        batch_size: Samples that a rank draws before it is the next one's turn.
        order: Makes the permutation of an epoch from (seed, epoch), for data that is read faster in
            some orders than in others; None draws from all permutations alike.
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int = 1,
        order: Order | None = None,
    ) -> None:
        if length < 1:
            raise ValueError("the data set is empty; there is nothing to sample")
        if not 0 <= rank < world_size or start < 0:
            raise ValueError(
                "expected 0 <= rank < world_size and start >= 0; "
                f"got rank={rank}, world_size={world_size}, start={start}"
            )
        self.length, self.seed, self.shuffle, self.start = length, seed, shuffle, start
        self.rank, self.world_size, self.batch_size = rank, world_size, batch_size
        self.order = order

    def __iter__(self) -> Iterator[Key]:
        epoch, order = -1, np.empty(0, np.int64)
        for drawn in itertools.count(self.start):
            batch, inside = divmod(drawn, self.batch_size)
            position = (batch * self.world_size + self.rank) * self.batch_size + inside
            if position // self.length != epoch:
                epoch = position // self.length
                order = self._order(epoch)
            yield epoch, int(order[position % self.length])

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(self.length)
        if self.order is not None:
            return self.order(self.seed, epoch)
        return np.random.default_rng((self.seed, epoch)).permutation(self.length)


class Augmented(Dataset[Sample]):
    """A data set under a transform, addressed by key.

    Reading the sample and transforming it happen under random states (torch, numpy, ``random``)
    that are seeded by (seed, epoch, index) and put back afterwards.

    Args:
        dataset: Map-style data set of samples.
        transform: What `Sample.map` takes, or None.
        seed: Non-negative.

    Raises:
        DataError: From indexing, if the data set gives anything but a `Sample`.
    """

    def __init__(
        self, dataset: Samples, transform: Callable[..., Any] | None = None, seed: int = 0
    ) -> None:
        self.dataset, self.transform, self.seed = dataset, transform, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key | int) -> Sample:
        epoch, index = (0, key) if isinstance(key, int) else key
        with seeded(self.seed, epoch, index):
            sample = self.dataset[index]
            if not isinstance(sample, Sample):
                raise DataError(
                    f"{type(self.dataset).__name__} gave a {type(sample).__name__} as sample "
                    f"{index}; a data set gives swath.core.Sample"
                )
            return sample if self.transform is None else sample.map(self.transform)


class Streamed(IterableDataset[Sample | SwathError]):
    """A stream under a transform: the places of this rank's, and this worker's, batches.

    Args:
        stream: What is read.
        places: Keys ``(epoch, place)`` of this rank, in order.
        transform: What `Sample.map` takes, or None.
        seed: Non-negative.
    """

    def __init__(
        self,
        stream: SampleStream,
        places: EpochSampler,
        transform: Callable[..., Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.stream, self.places, self.transform, self.seed = stream, places, transform, seed

    def __iter__(self) -> Iterator[Sample | SwathError]:
        samples: Iterator[Sample] = iter(())
        following: Key | None = None  # where `samples` stands
        result: Sample | SwathError
        for epoch, place in self._places_of_this_worker():
            with seeded(self.seed, epoch, place):
                try:
                    if (epoch, place) != following:
                        samples = self.stream.read(epoch, place)
                    sample = next(samples, None)
                    if sample is None:
                        raise DataError(
                            f"{self.stream!r} ended at place {place} of epoch {epoch}, short of "
                            f"the {len(self.stream)} samples it claims; mend its __len__ or read"
                        )
                    result = sample if self.transform is None else sample.map(self.transform)
                except SwathError as error:
                    result = error  # out of a worker, where it would become a traceback
            yield result
            following = epoch, place + 1

    def _places_of_this_worker(self) -> Iterator[Key]:
        """A `DataLoader` takes one batch from each of its workers in turn."""
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        for number, key in enumerate(self.places):
            if number // self.places.batch_size % workers == worker:
                yield key


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Random states of torch (CPU), numpy and ``random`` that depend on these numbers alone.

    On leaving, all three are as they were.

    Args:
        *numbers: Non-negative integers, any count.
    """
    # third-party transforms draw from numpy's global state, so that is the one to seed
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    seeds = np.random.SeedSequence(numbers).generate_state(3)
    # torch.manual_seed would reseed the accelerators too
    torch.default_generator.manual_seed(int(seeds[0]))
    np.random.seed(int(seeds[1]))  # noqa: NPY002
    random.seed(int(seeds[2]))
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        random.setstate(before[2])


def make_loader(
    dataset: Samples | SampleStream,
    task: Task,
    *,
    batch_size: int,
    num_workers: int = 0,
    transform: Callable[..., Any] | None = None,
    seed: int = 0,
    shuffle: bool = False,
    start: int = 0,
    drop_last: bool = False,
    rank: int = 0,
    world_size: int = 1,
    accumulate: int = 1,
) -> DataLoader[Batch]:
    """A loader of collated batches.

    Args:
        dataset: Map-style data set of samples. A method ``epoch_order(seed, epoch)``, if it has
            one, is the `Order` in which it is shuffled; ``batches(seed, start, rank, world_size,
            accumulate)``, if it has one, gives the keys of each batch from number ``start`` of this
            rank on, without end, where batches aren't slices of one sequence. For training, also a
            `SampleStream`, which has an order of its own.
        task: Collates.
        batch_size: Samples in a batch (of this rank); ``start`` is in units of it even where the
            data set makes batches of other sizes.
        num_workers: Processes that read ahead; 0 loads in this one. The batches are the same.
        transform: Augmentation, as `Sample.map` takes it.
        seed: Of order and augmentation, non-negative.
        shuffle: True: epoch after epoch without end, each in its own order, for training. False:
            every sample once, in order, for evaluation.
        start: Samples of this rank to leave out at the beginning; they aren't read.
        drop_last: Leave out a last batch that isn't full.
        rank: Which of ``world_size`` shares to load.
        world_size: Number of processes that share the data set.
        accumulate: Batches of this rank in a step of training, for a data set that makes its own.

    Returns:
        A `DataLoader` over `Batch`. Errors that the user can mend arrive from workers as they were
        raised, in one line.

    Raises:
        ConfigError: If a stream is to be evaluated on.
    """
    sampler: Sampler[Key] | Sequence[Key] | None
    own_batches = getattr(dataset, "batches", None) if shuffle else None
    if own_batches is not None:
        sampler = None
    elif shuffle:
        sampler = EpochSampler(
            len(dataset),
            seed=seed,
            shuffle=not isinstance(dataset, SampleStream),
            start=start,
            rank=rank,
            world_size=world_size,
            batch_size=batch_size,
            order=getattr(dataset, "epoch_order", None),
        )
    else:
        first = start * world_size + rank
        sampler = [(0, index) for index in range(first, len(dataset), world_size)]
    source: Dataset[Any]
    if isinstance(dataset, SampleStream):
        if not isinstance(sampler, EpochSampler):
            raise ConfigError(f"{dataset!r} is a stream, to train on; evaluate on a map-style set")
        source, sampler = Streamed(dataset, sampler, transform, seed), None
    else:
        source = _Guarded(Augmented(dataset, transform, seed))
    sampling: dict[str, Any] = {
        "batch_size": batch_size,
        "sampler": sampler,
        "drop_last": drop_last,
    }
    if own_batches is not None:
        first = start // batch_size
        sampling = {"batch_sampler": own_batches(seed, first, rank, world_size, accumulate)}
    return _Loader(
        source,
        **sampling,
        num_workers=num_workers,
        collate_fn=_Collate(task),
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_prepare_worker,
        persistent_workers=num_workers > 0,
        # batches leave in order: with torch's 2, all workers soon idle behind one slow batch
        prefetch_factor=4 if num_workers > 0 else None,
        generator=torch.Generator().manual_seed(seed),  # the global one stays untouched
    )


class _Guarded(Dataset[Any]):
    """Carries an error of the user's out of a worker, where it would become a traceback."""

    def __init__(self, dataset: Augmented) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Sample | SwathError:
        try:
            return self.dataset[key]
        except SwathError as error:
            return error


class _Collate:
    """`Task.collate`, unless a sample or the collating is an error of the user's."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __call__(self, samples: Sequence[Sample | SwathError]) -> Batch | SwathError:
        good = [sample for sample in samples if isinstance(sample, Sample)]
        if len(good) == len(samples):
            try:
                return self.task.collate(good)
            except SwathError as error:
                return error
        return next(sample for sample in samples if isinstance(sample, SwathError))


class _Loader(DataLoader[Any]):
    """Raises the errors that `_Guarded` let through."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        batches = super().__iter__()
        _workers.update(getattr(batches, "_workers", ()))
        for batch in batches:
            if isinstance(batch, SwathError):
                raise batch
            yield batch


_workers: WeakSet[BaseProcess] = WeakSet()


@atexit.register
def _end_workers() -> None:
    """End those that an iterator left behind, since Python waits for them after a SIGTERM only."""
    for process in _workers:
        process.kill()


def _prepare_worker(worker: int) -> None:
    """One thread each, since workers share the cores; and only the main process may end them.

    Ctrl-C and SIGTERM often go to the whole process group: a worker that died of it would turn the
    main process's orderly stop into an error.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
