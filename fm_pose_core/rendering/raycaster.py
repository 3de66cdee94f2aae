"""Renders one mesh by casting rays, with Embree on the CPU: for robots, which need no OpenGL for it."""

import itertools
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.errors import InputError
from fm_pose_core.geometry import Array, apply, project
from fm_pose_core.rendering.mesh import Mesh

NEAR = 0.02  # metres: what is nearer is not seen
GRID = 2  # rays along each side of a pixel


class Raycaster:
    """Draws a coloured mesh with a pinhole camera K (3, 3) into (height, width) pixels, unlit, as `Renderer` does; four
    rays a pixel. Raises InputError if embreex is not installed."""

    def __init__(self, mesh: Mesh, K: Array, width: int, height: int) -> None:
        scene, triangles = _import_embree()
        self.mesh, self.K, self.width, self.height = mesh, K, width, height
        self._scene = scene.EmbreeScene()
        faces = np.ascontiguousarray(mesh.faces, np.int32)
        self._geometry = triangles.TriangleMesh(self._scene, np.ascontiguousarray(mesh.vertices, np.float32), faces)
        self._faces, self._colours = faces, mesh.colours.astype(np.float32)
        self._box = np.array(list(itertools.product(*zip(*mesh.box, strict=True))))

    def render(self, T_camera_object: Array) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """-> (height, width, 4) uint8 RGBA, colour premultiplied by the antialiased alpha; (height, width) float32
        depth in metres, the mean of a pixel's rays that meet the object, 0 where fewer than half of them do."""
        rgba = np.zeros((self.height, self.width, 4), np.uint8)
        depth = np.zeros((self.height, self.width), np.float32)
        left, top, right, bottom = self._region(T_camera_object)
        if right <= left or bottom <= top:
            return rgba, depth
        region = (bottom - top, right - left)
        colour, hit, far = self._cast(T_camera_object, left, top, *region)
        count = hit.sum(-1)
        rgba[top:bottom, left:right] = np.rint(colour.sum(2) / GRID**2)
        mean = far.sum(-1) / np.maximum(count, 1)
        depth[top:bottom, left:right] = np.where(2 * count >= GRID**2, mean, 0.0)
        return rgba, depth

    def _region(self, T_camera_object: Array) -> tuple[int, int, int, int]:
        """The pixels (left, top, right, bottom) that the object's box covers; all, where it reaches the camera."""
        corners = apply(T_camera_object, self._box)
        if corners[:, 2].min() < NEAR:
            return 0, 0, self.width, self.height
        uv = project(self.K, corners)
        size = np.array([self.width, self.height])
        low = np.clip(np.floor(uv.min(0)) - 1, 0, size).astype(int)
        high = np.clip(np.ceil(uv.max(0)) + 2, 0, size).astype(int)
        return int(low[0]), int(low[1]), int(high[0]), int(high[1])

    def _cast(
        self, T_camera_object: Array, left: int, top: int, height: int, width: int
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]:
        """Of each ray of each pixel of a region: colour and alpha (h, w, GRID², 4), whether it meets the object, and
        how far away, along z (h, w, GRID²)."""
        inner = (np.arange(GRID) + 0.5) / GRID - 0.5
        u = (left + np.arange(width)[None, :, None, None] + inner[None, None, None, :] - self.K[0, 2]) / self.K[0, 0]
        v = (top + np.arange(height)[:, None, None, None] + inner[None, None, :, None] - self.K[1, 2]) / self.K[1, 1]
        rays = np.empty((height, width, GRID, GRID, 3))
        rays[..., 0], rays[..., 1], rays[..., 2] = u, v, 1.0
        T_object_camera = np.linalg.inv(T_camera_object)  # which may change the object's size
        directions = (rays.reshape(-1, 3) @ T_object_camera[:3, :3].T).astype(np.float32)
        origins = np.tile(T_object_camera[:3, 3].astype(np.float32), (len(directions), 1))
        found = self._scene.run(origins, directions, output=True)
        hit = (found["primID"] >= 0) & (found["tfar"] > NEAR)
        colour = np.zeros((len(hit), 4), np.float32)
        a, b = found["u"][hit, None], found["v"][hit, None]
        faces = self._faces[found["primID"][hit]]
        first, second, third = (self._colours[faces[:, k]] for k in range(3))
        colour[hit, :3] = first + a * (second - first) + b * (third - first)
        colour[hit, 3] = 255.0
        shape = (height, width, GRID**2)
        return colour.reshape(*shape, 4), hit.reshape(shape), np.where(hit, found["tfar"], 0.0).reshape(shape)

    def close(self) -> None:
        """Nothing is held that Python would not free."""


def raycaster_installed() -> bool:
    """Whether embreex is, and trimesh, which reads the meshes."""
    return all(find_spec(package) is not None for package in ("embreex", "trimesh"))


def _import_embree() -> tuple[Any, Any]:
    try:
        from embreex import mesh_construction, rtcore_scene
    except ImportError as error:
        raise InputError(
            f"refine: expected the Python packages embreex and trimesh, got {error}; try: pip install embreex trimesh"
        ) from None
    return rtcore_scene, mesh_construction
