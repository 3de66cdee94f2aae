"""From a depth map to the network's window, as in the pipeline of DeepPrior (Oberweger et al. 2015), which section 4.2
uses: a metric cube around the hand's centre of mass, resized, depth normalised to [-1, 1]."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fm_pose_core.config import knob
from fm_pose_core.errors import expect
from fm_pose_core.geometry import Array, view_offsets
from fm_pose_core.types import Camera

Depth = NDArray[np.float32]


@dataclass(frozen=True)
class HandCropConfig:
    size: int = knob(128, "Side of the network's window, pixels; a multiple of 16.", 32, 1024)
    cube: float = knob(0.30, "Side of the cube around the hand, metres.", 0.05, 2.0)


class HandCrop:
    """Cuts windows out of depth maps (H, W) float32 in metres, in which 0 and NaN are holes."""

    def __init__(self, config: HandCropConfig | None = None) -> None:
        self.config = config or HandCropConfig()
        self.size, self.half = self.config.size, self.config.cube / 2

    def views(self, count: int) -> list[tuple[Array, float]]:
        """Of `count` cubes about a centre: by how much each is displaced (3,), metres, and turned about the optical
        axis, radians; see `view_offsets`."""
        return [(2 * self.half * np.array([u, v, 0.0]), turn) for u, v, turn in view_offsets(count)]

    def cut(self, depth: Depth, camera: Camera, center: Array, turn: float = 0.0) -> Depth:
        """-> (size, size) float32 in [-1, 1]: depth relative to `center` (3,) metres, in half cubes; 1 for what is
        behind the cube, in front of it, or a hole. turn: of the picture about its middle, radians."""
        M = self.turning(turn) @ np.vstack([self.affine(camera, center), [0, 0, 1]])
        return self.normalise(warped(depth, camera, M, self.size), center[2])

    def normalise(self, depth: Depth, z: float, scale: float = 1.0) -> Depth:
        """Depth (…) metres -> [-1, 1] about `z`; holes and what lies outside the cube are background, 1. scale: of the
        hand, when it shall look larger than it is."""
        relative = (depth - np.float32(z)) * np.float32(scale / self.half)
        outside = ~(np.abs(relative) < 1.0) | (depth <= 0)  # NaN compares false
        relative[outside] = 1.0
        return relative

    def affine(self, camera: Camera, center: Array) -> Array:
        """(2, 3): pixels of the image, without its distortion, -> pixels of the window, in which the cube's front view
        at depth z fills the window."""
        expect(center[2] > 0, "the hand's centre", "in front of the camera", center)
        u, v = (camera.K[k, k] * center[k] / center[2] + camera.K[k, 2] for k in (0, 1))
        sx, sy = (self.size * center[2] / (2 * self.half * camera.K[k, k]) for k in (0, 1))
        middle = (self.size - 1) / 2
        return np.array([[sx, 0.0, middle - sx * u], [0.0, sy, middle - sy * v]])

    def turning(self, angle: float, scale: float = 1.0) -> Array:
        """(2, 3): turns (and scales) the window about its middle."""
        c, n, middle = scale * np.cos(angle), scale * np.sin(angle), (self.size - 1) / 2
        A = np.array([[c, -n], [n, c]])
        return np.column_stack([A, middle - A @ [middle, middle]])

    def turned(self, points: Array, angle: float, scale: float = 1.0) -> Array:
        """Points (…, 3) relative to the cube's centre as `turning` moves them."""
        c, n = np.cos(angle), np.sin(angle)
        return scale * points @ np.array([[c, -n, 0.0], [n, c, 0.0], [0.0, 0.0, 1.0]]).T


def warped(depth: Depth, camera: Camera, M: Array, size: int) -> Depth:
    """(size, size) float32 metres: the depth map (H, W) of `camera`, resampled; 0 outside of it. M (2 or 3, 3): takes
    the pixels that the image would have without the camera's distortion to pixels of the result."""
    if not camera.distortion.size:
        return cv2.warpAffine(
            depth, M[:2], (size, size), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0
        )
    to_window = np.vstack([M[:2] @ camera.K, [0, 0, 1]])  # from rays with z = 1
    xy = camera.lookup(np.linalg.inv(to_window), size)
    return cv2.remap(depth, xy, None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
