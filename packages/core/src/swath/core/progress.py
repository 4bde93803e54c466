"""Progress of long work: a bar with rate and ETA on a terminal, plain lines otherwise."""

import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")

_LINE_EVERY_S = 10.0


class Bar:
    """One progress bar, as a context manager.

    Args:
        description: What is being done, a few words.
        total: Number of units, or None if nobody knows.
        unit: What is counted: ``"it"``, ``"tiles"``, ``"scenes"``.
        start: Units that were done before.
        enabled: False shows nothing.
    """

    def __init__(
        self,
        description: str,
        total: int | None,
        unit: str = "it",
        *,
        start: int = 0,
        enabled: bool = True,
    ) -> None:
        self.description, self.total, self.unit, self.enabled = description, total, unit, enabled
        self.done = self._before = start
        self._figures = self._status = ""
        self._printed = start, ""
        self._console = Console(stderr=True)
        self._live = enabled and self._console.is_terminal

    def __enter__(self) -> Self:
        self._start = self._last_line = time.monotonic()
        if self._live:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._progress.start()
            self._task = self._progress.add_task(
                self.description, total=self.total, completed=self.done, figures=""
            )
        return self

    def advance(self, amount: int = 1, /, **figures: float) -> None:
        """Count ``amount`` more units and show the figures beside the bar."""
        self.done += amount
        self._status = ""
        if figures:
            self._figures = "  ".join(f"{k} {v:.4g}" for k, v in figures.items())
        self._show(amount)

    def status(self, text: str) -> None:
        """Show a word on what is going on in place of the figures, until the next unit is done."""
        self._status = text
        self._show(0)

    def _show(self, amount: int) -> None:
        if not self.enabled:
            return
        if self._live:
            shown = f"{self.rate:.3g} {self.unit}/s  {self._status or self._figures}"
            self._progress.update(self._task, advance=amount, figures=shown)
            return
        ended = self.done == self.total and not self._status  # the last line comes at the end
        if not ended and time.monotonic() - self._last_line >= _LINE_EVERY_S:
            self._line()

    def note(self, text: str) -> None:
        """Print a line that stays: above the bar on a terminal."""
        if self.enabled:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    @property
    def rate(self) -> float:
        """Units a second since the start."""
        return (self.done - self._before) / max(time.monotonic() - self._start, 1e-9)

    def _line(self) -> None:
        self._last_line = time.monotonic()
        self._printed = self.done, self._status or self._figures
        total = f"/{self.total}" if self.total else ""
        left = (self.total or 0) - self.done
        eta = f", {left / self.rate:.0f} s left" if self.total and self.rate > 0 else ""
        self._console.print(
            f"{self.description}: {self.done}{total} {self.unit}, "
            f"{self.rate:.3g} {self.unit}/s{eta}  {self._status or self._figures}".rstrip(),
            highlight=False,
            soft_wrap=True,
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._status = ""
        if self._live:
            self._progress.stop()
        elif self.enabled and self._printed != (self.done, self._figures):
            self._line()


def track(
    items: Iterable[T],
    description: str,
    total: int | None = None,
    unit: str = "it",
    *,
    enabled: bool = True,
) -> Iterator[T]:
    """Iterate with a progress bar; the total is ``len(items)`` where that exists."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Bar(description, total, unit, enabled=enabled) as bar:
        for item in items:
            yield item
            bar.advance()
