"""Spread loops that release the GIL over torch's number of threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def split(run: Callable[[int, int], None], count: int) -> None:
    """Call ``run(first, last)`` on ranges that cover ``range(count)``, one for each thread.

    Args:
        run: Works on the half-open range alone: whatever two ranges share is only read.
        count: Number of independent items.
    """
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        run(0, count)
        return
    bounds = [count * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, bounds[:-1], bounds[1:]))
