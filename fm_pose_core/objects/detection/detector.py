"""From a whole image to the windows in which objects are expected."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.geometry import Array
from fm_pose_core.objects.crop import Crop
from fm_pose_core.objects.solver import Infer
from fm_pose_core.types import Camera, Window

BORDER = 17  # points along each side of an image
WIDEST = 1.4  # tangent of half the largest angle of view, 109°: beyond, objects would become too small
NEAR = 1.5  # cells: two centres of the same object that are nearer are one


@dataclass(frozen=True)
class Found:
    """window: at the centre of an object, which it names. score: in [0, 1]."""

    window: Window
    score: float


@dataclass(frozen=True)
class Detector:
    """names: of the objects, in the order of the network's outputs. size: of its image, pixels. infer: runs it."""

    names: Sequence[str]
    size: int
    infer: Infer

    def detect(self, image: NDArray[np.uint8], camera: Camera, least: float = 0.3) -> list[Found]:
        """All objects in an image (H, W, 3) uint8 RGB, the likeliest first; any number of each. least: score from which
        on it is one. Raises InputError for an image that does not fit the camera."""
        crop, R_camera_view = whole_image(camera, self.size)
        pixels = crop.cut_all(image, camera, [R_camera_view])
        outputs = self.infer(pixels)
        found = peaks(outputs["heat"][0], outputs["centre"][0].astype(np.float64), self.size, least)
        if not found:
            return []
        places = crop.to_image(np.array([place for _, place, _ in found]), camera, R_camera_view)
        windows = [Window(float(u), float(v), self.names[k]) for (k, _, _), (u, v) in zip(found, places, strict=True)]
        return [Found(w, score) for w, (_, _, score) in zip(windows, found, strict=True)]


def whole_image(camera: Camera, size: int) -> tuple[Crop, Array]:
    """The virtual camera of `size` × `size` pixels that sees a camera's whole image, whatever its lens, and
    R_camera_view (3, 3). Of a view wider than WIDEST, the middle."""
    right, low = camera.width - 0.5, camera.height - 0.5
    u, v = np.linspace(-0.5, right, BORDER), np.linspace(-0.5, low, BORDER)
    sides = [np.column_stack(np.broadcast_arrays(*side)) for side in ((u, -0.5), (u, low), (-0.5, v), (right, v))]
    R = Crop(size, 1.0).rotation(camera, Window((camera.width - 1) / 2, (camera.height - 1) / 2))
    rays = camera.rays(np.concatenate(sides)) @ R
    seen = np.isfinite(rays).all(1) & (rays[:, 2] > 0)
    tangents = np.abs(rays[seen, :2] / rays[seen, 2:])
    return Crop(size, float(size / 2 / min(tangents.max(initial=1e-3), WIDEST))), R


def peaks(heat: NDArray[np.float32], centre: Array, size: int, least: float) -> list[tuple[int, Array, float]]:
    """The cells whose heat is the highest around them: (object, centre (2,), score), best first. heat (G, L), centre
    (L, 2) pixels of a square image with sides of `size`."""
    import cv2

    side = math.isqrt(heat.shape[1])
    maps = np.nan_to_num(heat).reshape(-1, side, side)
    kernel = np.ones((3, 3), np.uint8)
    highest = np.stack([cv2.dilate(x, kernel) for x in maps])
    k, row, column = np.nonzero((maps >= highest) & (maps >= least))
    scores, places = maps[k, row, column], centre[row * side + column]
    kept: list[tuple[int, Array, float]] = []
    for i in np.argsort(-scores):
        finite = bool(np.isfinite(places[i]).all())
        same = (place for other, place, _ in kept if other == k[i])
        if finite and all(np.linalg.norm(place - places[i]) > NEAR * size / side for place in same):
            kept.append((int(k[i]), places[i], float(min(scores[i], 1.0))))
    return kept
