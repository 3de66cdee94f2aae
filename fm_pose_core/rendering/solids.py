"""The depth of heaps of random solids, and of walls: what a depth camera sees where nobody is."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from fm_pose_core.geometry import Array
from fm_pose_core.rendering.renderer import DepthRenderer

COUNT = 10  # solids, at most
ALONE = 0.3  # how often there is but one, as large as a fist
BEHIND = np.array([0.0, 0.0, -1.0])  # the camera, where nothing is seen


class Solids:
    """Draws ellipsoids, boxes, cylinders, cones and capsules, and a wall, into (size, size) pixels."""

    def __init__(self, size: int) -> None:
        parts = [*_primitives() * (COUNT // 5), _primitives()[1]]  # the last is the wall
        first = np.cumsum([0] + [len(vertices) for vertices, _ in parts])
        self._corners = [vertices for vertices, _ in parts]
        faces = np.concatenate([faces + k for (_, faces), k in zip(parts, first, strict=False)])
        self._renderer = DepthRenderer(int(first[-1]), faces, size, size)

    def draw(self, at: Array, K: Array, rng: np.random.Generator) -> NDArray[np.float32]:
        """Depth (size, size), metres, 0 where there is nothing: a few solids about the point `at` (3,), metres in the
        frame of the camera K (3, 3)."""
        walled, alone = rng.uniform() < 0.6, rng.uniform() < ALONE
        shown = set(rng.permutation(COUNT)[: 1 if alone else int(rng.integers(0 if walled else 1, COUNT + 1))])
        together, spread = not alone and rng.uniform() < 0.4, 0.01 if alone else rng.uniform(0.01, 0.15)
        usual = rng.uniform(0.02, 0.07) if alone else np.exp(rng.normal(np.log(0.02), 0.5))  # metres: half its size
        placed = []
        for k, corners in enumerate(self._corners[:-1]):
            if k not in shown:
                placed.append(np.broadcast_to(BEHIND, corners.shape))
                continue
            half = np.clip(usual * np.exp(rng.normal(0, 0.25 if alone else 0.5, 3)), 0.003, 0.2)
            if together:  # fingers, branches, legs: long ones that begin at one place
                half[2] *= rng.uniform(1.5, 4.0)
                half[:2] *= 0.6
            R = Rotation.random(random_state=rng).as_matrix()
            middle = at + (0.9 * half[2] * R[:, 2] if together else 0.0) + rng.normal(0, spread, 3) / (1 + 3 * together)
            placed.append((corners * half) @ R.T + middle)
        placed.append(self._wall(at, rng) if walled else np.broadcast_to(BEHIND, self._corners[-1].shape))
        return self._renderer.render(np.concatenate(placed).astype(np.float32), K)

    def _wall(self, at: Array, rng: np.random.Generator) -> Array:
        """Large and slanted, through what is there or up to a metre behind it."""
        tilt = Rotation.from_euler("xyz", [*rng.normal(0, np.radians(25), 2), rng.uniform(0, np.pi)])
        half = np.array([*np.exp(rng.uniform(np.log(0.05), np.log(3.0), 2)), 0.005])
        behind = rng.choice([0.0, np.exp(rng.uniform(np.log(0.02), 0.0))])
        return (self._corners[-1] * half) @ tilt.as_matrix().T + at + [0.0, 0.0, behind]

    def close(self) -> None:
        """Free the OpenGL context."""
        self._renderer.close()


def _primitives() -> list[tuple[Array, NDArray[np.int64]]]:
    """Vertices and faces of solids between -1 and 1 along each axis."""
    from trimesh import creation

    made: list[Any] = [
        creation.icosphere(2),
        creation.box((2, 2, 2)),
        creation.cylinder(1, 2, sections=20),
        creation.cone(1, 2, sections=20),
        creation.capsule(1, 1, count=(12, 12)),
    ]
    parts = []
    for mesh in made:
        low, high = mesh.bounds
        parts.append((2 * (np.asarray(mesh.vertices) - low) / (high - low) - 1, np.asarray(mesh.faces, np.int64)))
    return parts
