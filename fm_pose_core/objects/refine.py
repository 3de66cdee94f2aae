"""The place for a refinement of poses: what comes after PnP, before the gates."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.geometry import Array
from fm_pose_core.types import Camera, Visible

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Look:
    """A window of an image. pixels: (V, S, S, 3) uint8 RGB of its V views, for the network. R_camera_window (3, 3).
    image: gives the whole image (H, W, 3), for a refiner."""

    pixels: Image
    camera: Camera
    R_camera_window: Array
    image: Callable[[], Image]


@dataclass(frozen=True)
class Solution:
    """T_camera_object (4, 4), metres. corners (8, 2): predicted, image pixels. reprojection_error: RMS image pixels
    between them and the corners of PnP's pose, infinite without a pose. covariance (6, 6) as in ObjectPose.
    expected_error: the 2D projection error to expect, image pixels. reason: why there is no pose; empty if there is
    one. visible: as in ObjectPose."""

    T_camera_object: Array
    corners: Array
    reprojection_error: float
    covariance: Array
    expected_error: float
    reason: str = ""
    visible: Visible | None = None

    @property
    def accepted(self) -> bool:
        """Whether there is a pose."""
        return not self.reason


class Refiner(Protocol):
    """Improves poses by another look at the image, one at a time."""

    def refine(self, look: Look, solution: Solution) -> Solution:
        """look: what the network saw, and the whole image. solution: an accepted one. Returns a better one, or the same
        where it finds none; pose, covariance and errors belong together."""
        ...


@dataclass(frozen=True)
class InTurn:
    """One after the other: what the first says of the pose, with its covariance, is where the next one begins."""

    refiners: tuple[Refiner, ...]

    def refine(self, look: Look, solution: Solution) -> Solution:
        """See Refiner."""
        for refiner in self.refiners:
            solution = refiner.refine(look, solution)
        return solution
