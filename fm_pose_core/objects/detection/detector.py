"""From a whole image to the windows in which objects are expected."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.geometry import Array
from fm_pose_core.objects.crop import Crop
from fm_pose_core.objects.solver import Infer
from fm_pose_core.types import Camera, Window

BORDER = 17  # points along each side of an image
WIDEST = 1.4  # tangent of half the largest angle of view, 109°: beyond, objects would become too small
NEAR = 1.5  # cells: two centres of the same object that are nearer are one
NEAREST_LOG = -1.0  # of a depth: an object would be much larger than the image


@dataclass(frozen=True)
class Found:
    """window: at the centre of an object, which it names, and whose distance it tells, if the network does. score: in
    [0, 1]."""

    window: Window
    score: float


@dataclass(frozen=True)
class Detector:
    """boxes: of the objects by their names, corners (8, 3) each, metres, in the order of the network's outputs. size:
    of its image, pixels. infer: runs it."""

    boxes: Mapping[str, Array]
    size: int
    infer: Infer

    def detect(self, image: NDArray[np.uint8], camera: Camera, least: float) -> list[Found]:
        """All objects in an image (H, W, 3) uint8 RGB, the likeliest first; any number of each. least: score from which
        on it is one. Raises InputError for an image that does not fit the camera."""
        crop, R_camera_view = whole_image(camera, self.size)
        pixels = crop.cut_all(image, camera, [R_camera_view])
        outputs = self.infer(pixels)
        found = peaks(outputs["heat"][0], outputs["centre"][0].astype(np.float64), self.size, least)
        if not found:
            return []
        names, centres = list(self.boxes), np.array([x.centre for x in found])
        places = crop.to_image(centres, camera, R_camera_view)
        distances = self._distances(crop, found, outputs["depth"][0]) if "depth" in outputs else np.zeros(len(found))
        return [
            Found(Window(float(u), float(v), names[x.object], float(distance)), x.score)
            for x, (u, v), distance in zip(found, places, distances, strict=True)
        ]

    def _distances(self, crop: Crop, found: "Sequence[Peak]", depth: NDArray[np.float32]) -> Array:
        """(N,) of the centres, metres; 0 where the network's answer makes no sense. depth (G, L): of its cells."""
        boxes, rays = list(self.boxes.values()), crop.rays(np.array([x.centre for x in found]))
        logs = depth[[x.object for x in found], [x.cell for x in found]].astype(np.float64)
        known = (logs > NEAREST_LOG) & (logs < np.log(self.size))  # beyond, it would be smaller than a pixel
        units = np.array([crop.unit_distance(boxes[x.object]) for x in found])
        metres = np.exp(np.where(known, logs, 0.0)) * units * np.linalg.norm(rays, axis=1)
        return np.where(known, metres, 0.0)


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


class Peak(NamedTuple):
    """object: its number. cell: its number. centre (2,): pixels."""

    object: int
    cell: int
    centre: Array
    score: float


def peaks(heat: NDArray[np.float32], centre: Array, size: int, least: float) -> list[Peak]:
    """The cells whose heat is the highest around them, best first. heat (G, L), centre (G, L, 2) pixels of a square
    image with sides of `size`."""
    import cv2

    side = math.isqrt(heat.shape[1])
    maps = np.nan_to_num(heat).reshape(-1, side, side)
    kernel = np.ones((3, 3), np.uint8)
    highest = np.stack([cv2.dilate(x, kernel) for x in maps])
    k, row, column = np.nonzero((maps >= highest) & (maps >= least))
    scores, cells = maps[k, row, column], row * side + column
    kept: list[Peak] = []
    for i in np.argsort(-scores):
        one = Peak(int(k[i]), int(cells[i]), centre[k[i], cells[i]], float(min(scores[i], 1.0)))
        same = (x.centre for x in kept if x.object == one.object)
        apart = all(np.linalg.norm(other - one.centre) > NEAR * size / side for other in same)
        if apart and bool(np.isfinite(one.centre).all()):
            kept.append(one)
    return kept
