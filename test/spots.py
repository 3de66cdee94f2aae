"""A made-up task that is learned in seconds: a round spot in a window of 32 pixels, whose place says where the corners
are. Renderings are bright on black; real images are dimmer, bluish and noisy."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fm_pose_core.config import from_dict
from fm_pose_core.contract import Contract, object_contract
from fm_pose_core.learning.experiment import Experiment
from fm_pose_core.learning.loader import load

SIZE, CELLS = 32, 4
OFFSETS = 6.0 * np.stack(np.meshgrid([-1.0, 1.0], [-1.0, 0.0, 1.0, 0.5], indexing="ij"), -1).reshape(8, 2)  # pixels


def picture(at: np.ndarray, rng: np.random.Generator, real: bool) -> np.ndarray:
    """(32, 32, 3) uint8 with the spot at pixel `at` (u, v)."""
    v, u = np.mgrid[:SIZE, :SIZE]
    spot = np.exp(-((u - at[0]) ** 2 + (v - at[1]) ** 2) / 18.0)[..., None]
    colour = np.array([90.0, 110.0, 170.0] if real else [230.0, 200.0, 60.0])
    image = spot * colour + (rng.normal(25.0, 12.0, (SIZE, SIZE, 3)) if real else 0.0)
    return np.clip(image, 0, 255).astype(np.uint8)


@dataclass
class Spots:
    """T^S or T^M."""

    rng: np.random.Generator
    paired: bool

    @property
    def names(self) -> tuple[str, ...]:
        """As objects.samples has them."""
        return ("x_r", "x_m", "y_r", "k_r", "p_r", "p_m") if self.paired else ("x_s", "y_s", "k_s", "p_s")

    def draw(self) -> tuple[np.ndarray, ...]:
        """Images, corners (1, 8, 2), the object's index, points (4, 3): every other cell shows the object."""
        at = self.rng.uniform(9.0, 22.0, 2)
        label = (at + OFFSETS).astype(np.float32)[None], np.array(0)
        points = np.full((CELLS, 3), np.nan, np.float32)
        points[::2] = [0.01, -0.02, 0.03]
        if not self.paired:
            return picture(at, self.rng, real=False), *label, points
        images = picture(at, self.rng, real=True), picture(at, self.rng, real=False)
        return *images, *label, points, points.copy()

    def close(self) -> None:
        """There is nothing to let go of."""


@dataclass(frozen=True)
class SpotSource:
    def open(self, synthetic: bool, pairs: bool, rng: np.random.Generator) -> tuple[Spots | None, Spots | None]:
        """See loader.Source."""
        return Spots(rng, False) if synthetic else None, Spots(rng, True) if pairs else None


@dataclass(frozen=True)
class SpotData:
    source: SpotSource

    def validator(self) -> None:
        """There is nothing to validate with."""


@dataclass(frozen=True)
class SpotExperiment(Experiment):
    def contract(self) -> Contract:
        return object_contract(SIZE)

    def read_data(self) -> SpotData:
        return SpotData(SpotSource())


def spot_experiment(method: str, loss: dict[str, Any] | None = None, **schedule: object) -> SpotExperiment:
    """With a tiny network, on the CPU, in fp32."""
    small = {"batch_synthetic": 4, "batch_pairs": 4, "workers": 0, "precision": "fp32", "checkpoint_seconds": 1e6}
    values = {"method": method, "network": {"width": 8, "features": 16}, "loss": loss or {}}
    return from_dict(SpotExperiment, {**values, "schedule": {**small, **schedule}})


def spot_batches(synthetic: int = 4, pairs: int = 4, seed: int = 0) -> Iterator[dict[str, torch.Tensor]]:
    """Endless batches, without a trainer."""
    return load(SpotSource(), synthetic, pairs, (seed,), 0)
