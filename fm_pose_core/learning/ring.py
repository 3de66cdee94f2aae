"""Keeps the latest views of something that is dear to make; each is used several times, between others."""

from typing import Generic, TypeVar

import numpy as np

V = TypeVar("V")
LEAST = 16  # views before one is used a second time


class Ring(Generic[V]):
    """size: views that are kept. uses: samples drawn for each view that is added."""

    def __init__(self, size: int, uses: int, rng: np.random.Generator) -> None:
        self.views: list[V] = []
        self.size, self.uses, self.rng = size, uses, rng
        self._left = 0

    def wants_more(self) -> bool:
        """Whether a new view is due before the next draw."""
        return self._left <= 0 or len(self.views) < min(LEAST, self.size)

    def add(self, view: V) -> None:
        """A new view; it takes the place of a random one where the ring is full."""
        if len(self.views) < self.size:
            self.views.append(view)
        else:
            self.views[int(self.rng.integers(self.size))] = view
        self._left = self.uses

    def draw(self) -> V:
        """A random one of those kept."""
        self._left -= 1
        return self.views[int(self.rng.integers(len(self.views)))]
