"""Poses to render: given ones with random articulation added (section 4.2), and ones of the model's own prior."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from fm_pose_core.config import knob
from fm_pose_core.geometry import Array
from fm_pose_core.hands.model.skeleton import FINGERS, RIGID, Skeleton

FADING = 0.8  # of the cosine: from `facing` on ever fewer are drawn, until there are none


@dataclass(frozen=True)
class PoseConfig:
    given: float = knob(0.5, "Share of poses that begin with a given one, if any are given.", 0.0, 1.0)
    articulation: float = knob(
        15.0, "Standard deviation of what is added to a given pose's angles, degrees.", 0.0, 90.0
    )
    turn: float = knob(25.0, "Standard deviation of the rotation added to a given pose, degrees.", 0.0, 180.0)
    distance: tuple[float, float] = knob((0.4, 1.1), "Nearest and farthest hand, metres.", 0.1, 10.0)
    aside: float = knob(20.0, "Largest angle between the hand and the optical axis, degrees.", 0.0, 60.0)
    facing: float = knob(
        0.0,
        "How far the fingers may point at the camera or away from it, as the size of the cosine between them and the "
        "optical axis: up to here all are drawn alike, beyond ever fewer, none from 0.8 farther on; 1: all alike.",
        0.0,
        1.0,
    )


class PosePrior:
    """Draws poses (6 + A,) of a skeleton. given: (N, 6 + A), possibly none."""

    def __init__(self, skeleton: Skeleton, config: PoseConfig, given: Array | None = None) -> None:
        self.skeleton, self.config = skeleton, config
        self.given = given if given is not None and len(given) else None
        index = skeleton.angles.index
        self._flexion = {
            finger: [
                index(f"{finger}_{bone}_x")
                for bone in ("proximal", "middle", "distal")
                if f"{finger}_{bone}_x" in skeleton.angles
            ]
            for finger in FINGERS
        }

    def draw(self, rng: np.random.Generator) -> Array:
        """One pose in the camera's frame."""
        c, pose = self.config, np.zeros(self.skeleton.size)
        if self.given is not None and rng.uniform() < c.given:
            start = self.given[int(rng.integers(len(self.given)))]
            pose[:] = start
            pose[RIGID:] += rng.normal(scale=np.radians(c.articulation), size=len(self.skeleton.angles)) * (
                rng.uniform() < 0.9
            )
            turn = rng.normal(scale=np.radians(c.turn), size=3)
            pose[:3] = (Rotation.from_rotvec(turn) * Rotation.from_rotvec(start[:3])).as_rotvec()
        else:
            pose[RIGID:] = self._articulation(rng)
            pose[:3] = self._orientation(rng)
        pose[RIGID:] = np.clip(pose[RIGID:], self.skeleton.least, self.skeleton.largest)
        aside, around = np.radians(c.aside) * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
        z = rng.uniform(*c.distance)
        at = np.array([np.tan(aside) * np.cos(around), np.tan(aside) * np.sin(around), 1.0]) * z
        middle = Rotation.from_rotvec(pose[:3]).apply([0.0, 0.07, 0.0])  # of the hand, from the wrist
        pose[3:6] = at - middle
        return pose

    def _articulation(self, rng: np.random.Generator) -> Array:
        """Fingers bend together or apart, each joint of a finger about as far as its neighbours."""
        s = self.skeleton
        angles = rng.uniform(s.least, s.largest) * 0.5 + 0.25 * (s.least + s.largest)  # the middle half of each range
        together = rng.uniform(0, 1)
        how = rng.uniform(0.0, 1.0)  # how much the fingers agree
        for finger in FINGERS:
            bend = how * together + (1 - how) * rng.uniform(0, 1)
            if rng.uniform() < 0.25:
                bend = float(rng.integers(2))  # straight or closed
            for k in self._flexion[finger]:
                share = np.clip(bend + rng.normal(scale=0.13), 0, 1)
                low = max(s.least[k], np.radians(-10))
                angles[k] = low + share * (s.largest[k] - low)
        return angles

    def _orientation(self, rng: np.random.Generator) -> Array:
        """A random rotation vector (3,). Where the fingers point along the optical axis by less than `facing`, all are
        alike; from there on their density falls by a straight line to 0 at `facing` + FADING."""
        while True:
            rotation = Rotation.from_quat(np.roll(rng.normal(size=4), -1))
            if abs(rotation.as_matrix()[2, 1]) <= self.config.facing + rng.uniform(0, 1) * FADING:
                return rotation.as_rotvec()
