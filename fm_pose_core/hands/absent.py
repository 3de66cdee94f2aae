"""Views without a hand, from which h learns to say so (`network.presence`, beyond the paper). T^M's rendering shows the
hand that is there; where there is none it is empty."""

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.hands.crop import HandCrop, warped
from fm_pose_core.hands.frames import HandFrames
from fm_pose_core.hands.locate import centre_of_mass, hand_near
from fm_pose_core.hands.views import HandView, patch_camera
from fm_pose_core.rendering.depth_sensor import DepthSensorConfig, sense
from fm_pose_core.rendering.solids import Solids

Depth = NDArray[np.float32]
SENSORS = tuple(DepthSensorConfig(kind=kind) for kind in ("structured_light", "time_of_flight"))
DISTANCES = (0.3, 1.3)  # metres
TRIES = 20


class Absent:
    """Random solids and walls. joints: how many are not there."""

    def __init__(self, crop: HandCrop, joints: int, rng: np.random.Generator) -> None:
        self.crop, self.rng = crop, rng
        self.nowhere = np.full((joints, 3), np.nan)
        self.size = patch_camera(crop, np.array([0.0, 0.0, 1.0])).width
        self.solids = Solids(self.size)

    def rendered(self) -> HandView:
        """As they are. The joints are NaN."""
        at = np.array([*self.rng.uniform(-0.2, 0.2, 2), 1.0]) * self.rng.uniform(*DISTANCES)
        camera = patch_camera(self.crop, at)
        depth = self.solids.draw(at, camera.K, self.rng)
        rows, columns = np.nonzero(depth > 0)
        center = at
        if len(rows):
            k = int(self.rng.integers(len(rows)))
            ray = camera.rays(np.array([[columns[k], rows[k]]], np.float64))[0]
            start = ray * float(depth[rows[k], columns[k]])
            found = centre_of_mass(depth, camera, start, 2 * self.crop.half)
            center = at if found is None or np.abs(found - at)[:2].max() > self.crop.half / 2 else found
        return HandView([depth], camera, center, self.nowhere)

    def seen(self) -> HandView:
        """As a sensor sees them, a rough one or an exact one too, and nothing."""
        view, kind = self.rendered(), self.rng.uniform()
        (depth,) = view.layers
        if kind < 0.2:
            seen = depth
        elif kind < 0.4:
            seen = self._rough(depth)
        else:
            seen = sense(depth, view.camera.K, SENSORS[int(self.rng.integers(len(SENSORS)))], self.rng)
        return HandView([seen, np.zeros_like(seen)], view.camera, view.center, view.joints)

    def _rough(self, depth: Depth) -> Depth:
        """Noise of 1 to 50 mm, and holes."""
        noise = self.rng.standard_normal(depth.shape, np.float32) * np.float32(10 ** self.rng.uniform(-3.0, -1.3))
        holes = self.rng.uniform(size=depth.shape) < self.rng.uniform(0.0, 0.4)
        return np.where(holes | (depth <= 0), np.float32(0.0), depth + noise)

    def close(self) -> None:
        """Free the OpenGL context."""
        self.solids.close()


def elsewhere(frames: HandFrames, i: int, crop: HandCrop, rng: np.random.Generator) -> HandView | None:
    """A view of frame `i` beside its annotated hand, of the arm, say, cut out as a hand is; and nothing. No joint is in
    the cube about its centre; windows, which are displaced a little, may show a wrist. None where there seems to be no
    such place. A second hand in a frame would be taken for none."""
    depth, camera, joints = frames.depth(i), frames.camera, frames.joints[i]
    near, far = DISTANCES[0], DISTANCES[1] + crop.half
    if rng.uniform() < 0.5:  # what is as far away as the hand
        near, far = joints[:, 2].min() - crop.half, joints[:, 2].max() + crop.half
    rows, columns = np.nonzero((depth > max(near, 0.0)) & (depth < far))
    for k in rng.integers(len(rows), size=TRIES) if len(rows) else ():
        ray = camera.rays(np.array([[columns[k], rows[k]]], np.float64))[0]
        start = ray * float(depth[rows[k], columns[k]])
        if (np.abs(joints - start).max(1) <= crop.half).any():
            continue
        found = hand_near(depth, camera, start[None], 2 * crop.half)
        if found is not None and (np.abs(joints - found.center).max(1) > crop.half).all():
            patch = patch_camera(crop, found.center)
            seen = warped(found.depth, camera, patch.K @ np.linalg.inv(camera.K), patch.width)
            return HandView([seen, np.zeros_like(seen)], patch, found.center, np.full_like(joints, np.nan))
    return None
