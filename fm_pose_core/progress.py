"""A progress bar on stderr: tqdm where it is installed, else a plain line per tenth."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

T = TypeVar("T")


class Bar(Protocol):
    def update(self, n: int = 1) -> object: ...


class _PlainBar:
    def __init__(self, total: int, label: str, unit: str) -> None:
        self.total, self.label, self.unit, self.done, self.shown, self.start = (
            total,
            label,
            unit,
            0,
            0,
            time.monotonic(),
        )

    def update(self, n: int = 1) -> None:
        self.done += n
        tenth = 10 * self.done // self.total if self.total > 0 else 0
        if tenth > self.shown:
            self.shown = tenth
            elapsed = time.monotonic() - self.start
            print(f"{self.label}: {self.done}/{self.total} {self.unit}, {elapsed:.0f} s", file=sys.stderr, flush=True)


@contextmanager
def bar(total: int, label: str, unit: str = "it", initial: int = 0) -> Iterator[Bar]:
    """A bar of `total` steps; call `.update(n)` on it."""
    try:
        from tqdm import tqdm
    except ImportError:
        plain = _PlainBar(total, label, unit)
        plain.done = initial
        yield plain
        return
    with tqdm(total=total, desc=label, unit=unit, initial=initial, unit_scale=unit == "B") as tqdm_bar:
        yield tqdm_bar


def over(items: Iterable[T], total: int, label: str, unit: str = "it", show: bool = True) -> Iterator[T]:
    """The items, with a bar that counts them if `show`."""
    if not show:
        yield from items
        return
    with bar(total, label, unit) as b:
        for item in items:
            yield item
            b.update()
