"""Triangle meshes: read, simplified, written. The only file that knows plyfile."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.errors import InputError, expect
from fm_pose_core.geometry import Array


@dataclass(frozen=True)
class Mesh:
    """vertices (V, 3) float64 in metres, normals (V, 3) unit, colours (V, 3) uint8 RGB, faces (F, 3) int."""

    vertices: Array
    normals: Array
    colours: NDArray[np.uint8]
    faces: NDArray[np.int64]

    @property
    def box(self) -> tuple[Array, Array]:
        """(minimum, maximum), each (3,), metres."""
        return self.vertices.min(0), self.vertices.max(0)

    def simplified(self, faces: int) -> "Mesh":
        """About `faces` triangles, by quadric edge collapse; colours and normals from the nearest vertex. Itself if it
        has no more."""
        if len(self.faces) <= faces:
            return self
        import fast_simplification
        from scipy.spatial import cKDTree

        vertices, triangles = fast_simplification.simplify(
            self.vertices.astype(np.float32), self.faces.astype(np.int32), target_count=faces
        )
        nearest = cKDTree(self.vertices).query(vertices)[1]
        return Mesh(
            vertices.astype(np.float64), self.normals[nearest], self.colours[nearest], triangles.astype(np.int64)
        )

    @property
    def diameter(self) -> float:
        """Largest distance between two vertices, metres; exact, over the convex hull."""
        import trimesh

        hull = trimesh.Trimesh(self.vertices, self.faces, process=False).convex_hull.vertices
        return float(max(np.linalg.norm(hull - v, axis=1).max() for v in hull))


def load_mesh(path: str | Path, unit: float = 1.0) -> Mesh:
    """Read a mesh (PLY, OBJ, STL, GLB …); `unit` is the file's unit in metres (BOP: 1e-3). A texture becomes vertex
    colours; a mesh without colour is grey. Raises InputError if the file holds no triangles."""
    import trimesh

    path = Path(path)
    expect(path.is_file(), str(path), "a mesh file", "nothing there")
    try:
        mesh = trimesh.load(path, force="mesh", process=False)
    except Exception as error:
        raise InputError(f"{path}: expected a mesh that trimesh reads, got {type(error).__name__}: {error}") from error
    expect(isinstance(mesh, trimesh.Trimesh) and len(mesh.faces) > 0, str(path), "a mesh with triangles", "none")
    visual = mesh.visual if mesh.visual.kind != "texture" else mesh.visual.to_color()
    colours = np.asarray(visual.vertex_colors)[:, :3] if visual.kind else np.full((len(mesh.vertices), 3), 128)
    return Mesh(
        np.asarray(mesh.vertices) * unit,
        np.asarray(mesh.vertex_normals),
        colours.astype(np.uint8),
        np.asarray(mesh.faces),
    )


def read_vertices(path: str | Path) -> Array:
    """(N, 3) vertices of a PLY file, in the file's unit, without a mesh library: evaluating needs no more. Raises
    InputError for anything else."""
    vertex = _read_ply(path)["vertex"]
    try:
        vertices = np.stack([vertex[axis] for axis in "xyz"], axis=1).astype(np.float64)
    except ValueError as error:
        raise InputError(f"{path}: expected x, y, z per vertex, got {error}") from None
    expect(bool(np.isfinite(vertices).all()), str(path), "finite vertices", "others")
    return vertices


def read_triangles(path: str | Path) -> NDArray[np.int64]:
    """(M, 3) vertex numbers of a PLY file, without a mesh library; M = 0 in a file of vertices alone. Raises InputError
    for anything else."""
    ply = _read_ply(path)
    faces = ply["face"].data[ply["face"].properties[0].name] if "face" in ply else []
    triangles = [(f[0], f[k], f[k + 1]) for f in faces for k in range(1, len(f) - 1)]
    return np.array(triangles, dtype=np.int64).reshape(-1, 3)


def _read_ply(path: str | Path) -> Any:
    from plyfile import PlyData, PlyParseError

    expect(Path(path).is_file(), str(path), "a PLY file", "nothing there")
    try:
        ply = PlyData.read(path)
        expect("vertex" in ply, str(path), "a PLY file with vertices", "none")
    except (PlyParseError, ValueError) as error:
        raise InputError(f"{path}: expected a whole PLY file, got {error}") from None
    return ply


def ply_file(mesh: Mesh, unit: float) -> bytes:
    """The mesh as binary PLY with normals and colours per vertex, in units of `unit` metres."""
    from plyfile import PlyData, PlyElement

    names = ("x", "y", "z", "nx", "ny", "nz", "red", "green", "blue")
    kinds = ["<f4"] * 6 + ["u1"] * 3
    vertices = np.empty(len(mesh.vertices), list(zip(names, kinds, strict=True)))
    for name, column in zip(names, np.hstack([mesh.vertices / unit, mesh.normals, mesh.colours]).T, strict=True):
        vertices[name] = column
    faces = np.empty(len(mesh.faces), [("vertex_indices", "<i4", 3)])
    faces["vertex_indices"] = mesh.faces
    out = io.BytesIO()
    PlyData([PlyElement.describe(vertices, "vertex"), PlyElement.describe(faces, "face")], byte_order="<").write(out)
    return out.getvalue()


def mesh_file(mesh: Mesh) -> bytes:
    """The mesh as binary PLY with vertex colours, metres (for RViz)."""
    import trimesh

    out: bytes = trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_colors=mesh.colours, process=False).export(
        file_type="ply"
    )
    return out
