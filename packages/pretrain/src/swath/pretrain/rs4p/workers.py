"""Work shared out among processes whose results come in order.

Imports no torch, so that a worker starts fast and stays small.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

import cv2

from swath.core.errors import SwathError

T = TypeVar("T")
R = TypeVar("R")


class _Inline(Executor):
    """An executor without workers."""

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> "Future[R]":
        future: Future[R] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@contextmanager
def worker_pool(workers: int) -> Iterator[Executor]:
    """Processes that work for this one; 0: this one does it itself.

    Raises:
        SwathError: If one of them was killed.
    """
    if not workers:
        yield _Inline()
        return
    # spawned: a fork would inherit torch's threads and the GPU
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise SwathError(
            f"one of {workers} workers was killed, perhaps for want of memory; run it again, with "
            "fewer of them: it goes on where it stopped"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the main process, and don't outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)

    def follow() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def in_order(pool: Executor, call: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """Results in the order of the items, of which at most ``ahead`` are under way."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(call, item))
        while len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items in pieces of a size, the last one of what is left."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
