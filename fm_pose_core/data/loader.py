"""Batches of training samples from worker processes, each with a renderer and a random stream of its own."""

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from fm_pose_core.crop import Crop
from fm_pose_core.data.backgrounds import Backgrounds
from fm_pose_core.data.real import RealView
from fm_pose_core.data.renderer import Mesh
from fm_pose_core.data.samples import PairSamples, RealConfig, SyntheticConfig, SyntheticSamples, batches
from fm_pose_core.geometry import Array


@dataclass(frozen=True)
class Source:
    """Everything that a worker needs to make samples; plain arrays, so that it travels to the worker.

    corners: (8, 3) metres. views, colours: from real.prepare_real_views; empty without real images. photos: images
    (H, W, 3) uint8 that backgrounds are cut from, beside procedural ones.
    """

    mesh: Mesh
    corners: Array
    crop: Crop
    synthetic: SyntheticConfig
    real: RealConfig
    views: list[RealView] = field(default_factory=list)
    colours: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0, 3), np.float32))
    photos: list[NDArray[np.uint8]] = field(default_factory=list)
    procedural_share: float = 0.5


class Batches(IterableDataset[dict[str, Any]]):
    """Endless batches with `synthetic` samples of T^S and `pairs` of T^M each."""

    def __init__(self, source: Source, synthetic: int, pairs: int, seed: tuple[int, ...]) -> None:
        self.source, self.synthetic, self.pairs, self.seed = source, synthetic, pairs, seed

    def __iter__(self) -> Iterator[dict[str, Any]]:
        from threadpoolctl import threadpool_limits

        info = get_worker_info()
        rng = np.random.default_rng([*self.seed, info.id if info else 0])
        cv2.setNumThreads(1)
        s = self.source
        if info is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's: it saves and then ends its workers
        with threadpool_limits(1) if info is not None else contextlib.nullcontext():
            backgrounds = Backgrounds(s.photos, s.crop.size, rng, s.procedural_share)
            synthetic = SyntheticSamples(s.mesh, s.corners, s.crop, s.synthetic, backgrounds, rng) if self.synthetic else None
            pairs = None
            if self.pairs:
                pairs = PairSamples(s.mesh, s.corners, s.crop, s.real, s.synthetic.viewpoints, s.views, s.colours, backgrounds, rng)
            for batch in batches(synthetic, pairs, self.synthetic, self.pairs):
                yield {name: torch.from_numpy(values) for name, values in batch.items()}


def load(source: Source, synthetic: int, pairs: int, seed: tuple[int, ...], workers: int) -> Iterator[dict[str, Any]]:
    """Batches from `workers` processes (0: from this one). `seed`: numbers that make this stream different from every other
    (the experiment's seed, the rank, the step at which it starts)."""
    dataset = Batches(source, synthetic, pairs, seed)
    if workers == 0:
        return iter(dataset)
    context = "spawn"  # a forked child would inherit this process's OpenGL and OpenMP state
    return iter(DataLoader(dataset, batch_size=None, num_workers=workers, multiprocessing_context=context, prefetch_factor=3))
