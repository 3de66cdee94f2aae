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


class Raycaster:
    """Draws a coloured mesh with a pinhole camera K (3, 3) into (height, width) pixels, as `Renderer` does. rays: along
    each side of a pixel. Raises InputError if embreex is not installed."""

    def __init__(self, mesh: Mesh, K: Array, width: int, height: int, rays: int = 2) -> None:
        scene, triangles = _import_embree()
        self.mesh, self.K, self.width, self.height, self.rays = mesh, K, width, height, rays
        self._scene = scene.EmbreeScene()
        faces = np.ascontiguousarray(mesh.faces, np.int32)
        self._geometry = triangles.TriangleMesh(self._scene, np.ascontiguousarray(mesh.vertices, np.float32), faces)
        self._colours = _along(mesh.colours.astype(np.float32)[faces.T])
        self._box = np.array(list(itertools.product(*zip(*mesh.box, strict=True))))

    def render(self, T_camera_object: Array) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """-> (height, width, 4) uint8 RGBA, colour premultiplied by the antialiased alpha; (height, width) float32
        depth in metres, the mean of a pixel's rays that meet the object, 0 where fewer than half of them do."""
        rgba = np.zeros((self.height, self.width, 4), np.uint8)
        depth = np.zeros((self.height, self.width), np.float32)
        left, top, right, bottom = self._region(T_camera_object)
        if right <= left or bottom <= top:
            return rgba, depth
        colour, hit, far = self._cast(T_camera_object, left, top, bottom - top, right - left)
        count = hit.sum(0)
        rgba[top:bottom, left:right, :3] = np.rint(colour.sum(0) / self.rays**2)
        rgba[top:bottom, left:right, 3] = np.rint(count * (255.0 / self.rays**2))
        depth[top:bottom, left:right] = np.where(2 * count >= self.rays**2, far.sum(0) / np.maximum(count, 1), 0.0)
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
        """Of each ray of each pixel of a region: colour (rays², h, w, 3), whether it meets the object, and how far
        away, along z (rays², h, w)."""
        T_object_camera = np.linalg.inv(T_camera_object)  # which may change the object's size
        inner = (np.arange(self.rays) + 0.5) / self.rays - 0.5
        u = (left + np.arange(width) + inner[:, None] - self.K[0, 2]) / self.K[0, 0]  # (rays, w)
        v = (top + np.arange(height) + inner[:, None] - self.K[1, 2]) / self.K[1, 1]
        R = T_object_camera[:3, :3].astype(np.float32)
        across, down = u[..., None].astype(np.float32) * R[:, 0], v[..., None].astype(np.float32) * R[:, 1]
        directions = (across[None, :, None] + (down + R[:, 2])[:, None, :, None]).reshape(-1, 3)
        origins = np.empty_like(directions)
        origins[:] = T_object_camera[:3, 3]
        found = self._scene.run(origins, directions, output=True)
        hit = (found["primID"] >= 0) & (found["tfar"] > NEAR)
        at = np.flatnonzero(hit)
        colour, far = np.zeros((len(hit), 3), np.float32), np.zeros(len(hit), np.float32)
        colour[at] = _there(self._colours, found, at)
        far[at] = found["tfar"][at]
        shape = (self.rays**2, height, width)
        return colour.reshape(*shape, 3), hit.reshape(shape), far.reshape(shape)

    def close(self) -> None:
        """Nothing is held that Python would not free."""


def _along(corners: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of triangles' corners (3, F, C): values at a corner, and their change along two edges."""
    return np.concatenate([corners[:1], corners[1:] - corners[0]])


def _there(values: NDArray[np.float32], found: Any, at: NDArray[np.intp]) -> NDArray[np.float32]:
    """(len(at), C): values `_along` where rays meet the mesh."""
    corner, first, second = values[:, found["primID"][at]]
    return np.asarray(corner + found["u"][at, None] * first + found["v"][at, None] * second)


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
