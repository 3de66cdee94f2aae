"""Batches of training samples from worker processes, each with a renderer and a random stream of its own."""

import contextlib
import os
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

STOPS = (signal.SIGINT, signal.SIGTERM)


class Samples(Protocol):
    """An endless source of samples: each a tuple of arrays in the order of `names`."""

    names: tuple[str, ...]

    def draw(self) -> tuple[NDArray[Any], ...]: ...

    def close(self) -> None:
        """Let go of the renderers."""
        ...


class Source(Protocol):
    """Everything that a worker needs to make samples; plain arrays, so that it travels to the worker."""

    def open(self, synthetic: bool, pairs: bool, rng: np.random.Generator) -> tuple[Samples | None, Samples | None]:
        """T^S and T^M, whichever is asked for. Called in the process that draws them."""
        ...


class Batches(IterableDataset[dict[str, Any]]):
    """Endless batches with `synthetic` samples of T^S and `pairs` of T^M each."""

    def __init__(self, source: Source, synthetic: int, pairs: int, seed: tuple[int, ...]) -> None:
        self.source, self.synthetic, self.pairs, self.seed = source, synthetic, pairs, seed

    def __iter__(self) -> Iterator[dict[str, Any]]:
        from threadpoolctl import threadpool_limits

        info = get_worker_info()
        rng = np.random.default_rng([*self.seed, info.id if info else 0])
        cv2.setNumThreads(1)
        with threadpool_limits(1) if info is not None else contextlib.nullcontext():
            synthetic, pairs = self.source.open(self.synthetic > 0, self.pairs > 0, rng)
            try:
                for batch in batches(synthetic, pairs, self.synthetic, self.pairs):
                    yield {name: torch.from_numpy(values) for name, values in batch.items()}
            except GeneratorExit:
                if info is not None:  # the worker has done its work; threads of the renderer may abort a slower end
                    os._exit(0)
                raise


def load(source: Source, synthetic: int, pairs: int, seed: tuple[int, ...], workers: int) -> Iterator[dict[str, Any]]:
    """Batches from `workers` processes (0: from this one). `seed`: numbers that make this stream different from every
    other (the experiment's seed, the rank, the step at which it starts)."""
    dataset = Batches(source, synthetic, pairs, seed)
    if workers == 0:
        return iter(dataset)
    context = "spawn"  # a forked child would inherit this process's OpenGL and OpenMP state
    loader = DataLoader(
        dataset, batch_size=None, num_workers=workers, multiprocessing_context=context, prefetch_factor=3
    )
    with stops_blocked():
        return iter(loader)


@contextlib.contextmanager
def stops_blocked() -> Iterator[None]:
    """Processes that begin here never see the signals to stop, not even while they begin. They are the trainer's: it
    saves, and then ends its workers."""
    resource_tracker.ensure_running()  # it would unblock them when the first process begins
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def batches(
    synthetic: Samples | None, pairs: Samples | None, synthetic_size: int, pair_size: int
) -> Iterator[dict[str, NDArray[Any]]]:
    """Endless batches, each name stacked: x_s, y_s, p_s of T^S (images, labels, and the surface points for L_p) and
    x_r, x_m, y_r, p_r, p_m of T^M."""
    while True:
        batch: dict[str, NDArray[Any]] = {}
        for samples, size in ((synthetic, synthetic_size), (pairs, pair_size)):
            if samples is not None and size:
                drawn = [samples.draw() for _ in range(size)]
                batch |= {
                    name: np.stack(column) for name, column in zip(samples.names, zip(*drawn, strict=True), strict=True)
                }
        yield batch
