"""Renders one mesh into a window with pyrender. The only file that knows pyrender.

Rendering is unlit ("we do not simulate lighting as the object textures already exhibit lighting effects", section 4.1);
what light does to a surface is added afterwards by `appearance`, from the normals that a second pass draws.
"""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.errors import expect
from fm_pose_core.geometry import Array, project
from fm_pose_core.rendering.mesh import Mesh

_open: "set[Renderer | DepthRenderer]" = set()  # keeps what has not been closed


class Renderer:
    """Draws coloured variants of one geometry with a pinhole camera K (3, 3) into (height, width) pixels.

    Make it in the process that uses it, and `close` it there. Vertex colours are interpolated; edges are antialiased by
    4 samples a pixel.
    """

    def __init__(self, mesh: Mesh, K: Array, width: int, height: int) -> None:
        pyrender = _import_pyrender()
        _open.add(self)
        self.mesh = mesh
        self._pyrender = pyrender
        self._renderer = pyrender.OffscreenRenderer(width, height)
        self._scene = pyrender.Scene(bg_color=[0.0, 0.0, 0.0, 0.0], ambient_light=[1.0, 1.0, 1.0])
        near = 0.02
        self._camera = pyrender.IntrinsicsCamera(1.0, 1.0, 0.0, 0.0, znear=near, zfar=10.0)
        self.look_through(K)
        # OpenGL's camera looks along -z with y up; ours along +z with y down.
        self._scene.add(self._camera, pose=np.diag([1.0, -1.0, -1.0, 1.0]))
        self._nodes = [self._scene.add(self._coloured(mesh.colours), name="variant0")]
        self._shown = 0
        self._normals: int | None = None
        # pyrender sorts all meshes by distance at every frame; only one is ever shown here.
        self._renderer._renderer._sorted_mesh_nodes = lambda scene: [self._nodes[self._shown]]

    def _coloured(self, colours: NDArray[np.uint8]) -> object:
        m = self.mesh
        material = self._pyrender.MetallicRoughnessMaterial(baseColorFactor=(1.0, 1.0, 1.0, 1.0), doubleSided=True)
        primitive = self._pyrender.Primitive(
            positions=m.vertices,
            normals=m.normals,
            indices=m.faces,
            mode=4,
            material=material,
            color_0=np.column_stack([colours, np.full(len(colours), 255, np.uint8)]).astype(np.float32) / 255.0,
        )
        return self._pyrender.Mesh([primitive])

    def look_through(self, K: Array) -> None:
        """Another camera K (3, 3) from now on."""
        c = self._camera
        c.fx, c.fy, c.cx, c.cy = K[0, 0], K[1, 1], K[0, 2] + 0.5, K[1, 2] + 0.5

    def add_variant(self, colours: NDArray[np.uint8]) -> int:
        """Another colouring (V, 3) uint8 of the same geometry; returns the number that `render` takes."""
        expect(colours.shape == self.mesh.vertices.shape, "colours", str(self.mesh.vertices.shape), colours.shape)
        self._nodes.append(self._scene.add(self._coloured(colours), name=f"variant{len(self._nodes)}"))
        return len(self._nodes) - 1

    def render(self, T_camera_object: Array, variant: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """-> (height, width, 4) uint8 RGBA, colour premultiplied by the antialiased alpha; (height, width) float32
        depth in metres, 0 where there is nothing. Take masks from the alpha: the depth buffer is not antialiased."""
        self._shown = variant
        self._scene.set_pose(self._nodes[variant], T_camera_object)
        flags = self._pyrender.RenderFlags.FLAT | self._pyrender.RenderFlags.RGBA
        colour, depth = self._renderer.render(self._scene, flags=flags)
        return colour, depth

    def render_normals(self, T_camera_object: Array) -> NDArray[np.float32]:
        """(height, width, 3) unit normals in the camera frame; undefined where the object is not."""
        if self._normals is None:
            self._normals = self.add_variant(
                np.clip(np.rint(self.mesh.normals * 127.0 + 128.0), 0, 255).astype(np.uint8)
            )
        colour, _ = self.render(T_camera_object, self._normals)
        alpha = np.maximum(colour[..., 3:].astype(np.float32), 1.0)
        normals = (colour[..., :3] * (255.0 / alpha) - 128.0) / 127.0 @ T_camera_object[:3, :3].T.astype(np.float32)
        return normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-6)

    def visible_vertices(
        self, T_camera_object: Array, depth: NDArray[np.float32], K: Array, tolerance: float = 2e-3
    ) -> NDArray[np.bool_]:
        """(V,) whether each vertex is seen in `depth` (a depth map of the whole scene, metres) within `tolerance`
        metres."""
        points = self.mesh.vertices @ T_camera_object[:3, :3].T + T_camera_object[:3, 3]
        uv = np.rint(project(K, points)).astype(int)
        height, width = depth.shape
        inside = (points[:, 2] > 0) & (uv >= 0).all(1) & (uv[:, 0] < width) & (uv[:, 1] < height)
        seen = np.zeros(len(points), bool)
        seen[inside] = np.abs(depth[uv[inside, 1], uv[inside, 0]] - points[inside, 2]) < tolerance
        return seen

    def close(self) -> None:
        """Free the OpenGL context."""
        _close(self)


class DepthRenderer:
    """Draws the depth of a surface whose vertices move, with a camera that may change, into (height, width) pixels."""

    def __init__(self, vertices: int, faces: NDArray[np.int64], width: int, height: int) -> None:
        """vertices: how many; faces: (F, 3)."""
        self._pyrender = pyrender = _import_pyrender()
        _open.add(self)
        self._renderer = pyrender.OffscreenRenderer(width, height)
        self._scene = pyrender.Scene()
        self._camera = pyrender.IntrinsicsCamera(1.0, 1.0, 0.0, 0.0, znear=0.05, zfar=10.0)
        self._scene.add(self._camera, pose=np.diag([1.0, -1.0, -1.0, 1.0]))
        self._primitive = pyrender.Primitive(positions=np.zeros((vertices, 3), np.float32), indices=faces, mode=4)
        self._node = self._scene.add(pyrender.Mesh([self._primitive]))
        self._renderer._renderer._sorted_mesh_nodes = lambda scene: [self._node]
        self._on_card = False

    def render(self, vertices: NDArray[np.float32], K: Array) -> NDArray[np.float32]:
        """vertices (V, 3) metres in the camera's frame; K (3, 3) -> depth (height, width) metres, 0 where there is
        nothing."""
        from OpenGL.GL import GL_ARRAY_BUFFER, glBindBuffer, glBufferSubData

        c = self._camera
        c.fx, c.fy, c.cx, c.cy = K[0, 0], K[1, 1], K[0, 2] + 0.5, K[1, 2] + 0.5
        if self._on_card:
            self._renderer._platform.make_current()
            glBindBuffer(GL_ARRAY_BUFFER, self._primitive._buffers[0])
            data = np.ascontiguousarray(vertices, np.float32)
            glBufferSubData(GL_ARRAY_BUFFER, 0, data.nbytes, data)
        else:  # pyrender loads the mesh at the first frame
            self._primitive.positions = np.ascontiguousarray(vertices, np.float32)
            self._on_card = True
        flags = self._pyrender.RenderFlags
        depth: NDArray[np.float32] = self._renderer.render(
            self._scene, flags=flags.DEPTH_ONLY | flags.FLAT | flags.SKIP_CULL_FACES
        )
        return depth

    def close(self) -> None:
        """Free the OpenGL context."""
        _close(self)


def _import_pyrender() -> Any:
    os.environ.setdefault("PYOPENGL_PLATFORM", "egl")
    if not hasattr(np, "infty"):
        setattr(np, "infty", np.inf)  # noqa: B010 pyrender 0.1.45 on NumPy 2
    import pyrender

    # pyrender's finalisers run in whatever OpenGL context is current then, and end EGL for all: only `close` may free.
    pyrender.OffscreenRenderer.__del__ = lambda self: None
    return pyrender


def _close(renderer: "Renderer | DepthRenderer") -> None:
    """Free the OpenGL context. pyrender's own way would end EGL for every renderer of the process."""
    if renderer._renderer is None:
        return
    from OpenGL.EGL import eglDestroyContext

    platform = renderer._renderer._platform
    platform.make_current()
    renderer._renderer._renderer.delete()
    eglDestroyContext(platform._egl_display, platform._egl_context)
    platform._egl_display = platform._egl_context = None
    renderer._renderer = None
    _open.discard(renderer)
