"""What is costly to make and serves several samples: the latest of it is kept, and used between others."""

from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")
FEWEST = 16  # before any is used a second time, so that neighbouring samples differ


class Ring(Generic[T]):
    """Keeps up to `size` things, such as rendered views; a new one replaces any of them. Each new one stands for `uses`
    draws.

        if ring.wants_more():
            ring.add(render())
        view = ring.draw()
    """

    def __init__(self, size: int, uses: int, rng: np.random.Generator) -> None:
        self.kept: list[T] = []
        self.size, self.uses, self.rng = size, uses, rng
        self._left = 0

    def wants_more(self) -> bool:
        """Whether a new one is due."""
        return self._left <= 0 or len(self.kept) < min(FEWEST, self.size)

    def add(self, thing: T) -> None:
        """Keep a new one."""
        if len(self.kept) < self.size:
            self.kept.append(thing)
        else:
            self.kept[int(self.rng.integers(self.size))] = thing
        self._left = self.uses

    def draw(self) -> T:
        """Any of those that are kept; there must be one."""
        self._left -= 1
        return self.kept[int(self.rng.integers(len(self.kept)))]
