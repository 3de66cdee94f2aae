"""Writes a BOP dataset with rendered photographs of a box whose six faces differ in colour: small enough to train on in
a test."""

import json
from pathlib import Path

import cv2
import numpy as np

from fm_pose_core.objects.viewpoints import ViewpointConfig, random_viewpoint
from fm_pose_core.rendering.mesh import Mesh
from fm_pose_core.rendering.renderer import Renderer
from fm_pose_core.types import Camera

HALF = np.array([0.05, 0.035, 0.025])  # metres
CAMERA = Camera(np.array([[280.0, 0.0, 158.0], [0.0, 281.0, 121.0], [0.0, 0.0, 1.0]]), 320, 240)


def box_mesh(divisions: int = 8) -> Mesh:
    """A box with coloured faces, each cut into 2 · divisions² triangles."""
    vertices, normals, colours, faces = [], [], [], []
    grid = np.linspace(-1.0, 1.0, divisions + 1)
    for axis in range(3):
        for sign in (-1.0, 1.0):
            start = sum(len(v) for v in vertices)
            a, b = np.meshgrid(grid, grid, indexing="ij")
            points = np.zeros((a.size, 3))
            points[:, axis], points[:, (axis + 1) % 3], points[:, (axis + 2) % 3] = sign, a.ravel(), b.ravel()
            colour = np.full(3, 40)
            colour[axis] = 230 if sign > 0 else 140
            colour[(axis + 1) % 3] = 40 if sign > 0 else 200
            vertices.append(points * HALF)
            normals.append(np.tile(np.eye(3)[axis] * sign, (a.size, 1)))
            colours.append(np.tile(colour, (a.size, 1)))
            n = divisions + 1
            for i in range(divisions):
                for j in range(divisions):
                    k = start + i * n + j
                    quad = [(k, k + n, k + 1), (k + 1, k + n, k + n + 1)]
                    faces += quad if sign > 0 else [t[::-1] for t in quad]
    return Mesh(
        np.concatenate(vertices), np.concatenate(normals), np.concatenate(colours).astype(np.uint8), np.array(faces)
    )


def write_rendered_bop(root: Path, frames: int = 8) -> Path:
    """The dataset in `root`, split test, scene 1, object 1; frame ids 0 … frames - 1."""
    mesh, rng = box_mesh(), np.random.default_rng(3)
    models, scene = root / "models", root / "test" / "000001"
    models.mkdir(parents=True)
    (scene / "rgb").mkdir(parents=True)
    rows = [
        " ".join(f"{x:.5f}" for x in 1e3 * v) + " " + " ".join(f"{x:.4f}" for x in n) + " " + " ".join(map(str, c))
        for v, n, c in zip(mesh.vertices, mesh.normals, mesh.colours, strict=True)
    ]
    header = ["ply", "format ascii 1.0", f"element vertex {len(mesh.vertices)}"]
    header += [f"property float {p}" for p in ("x", "y", "z", "nx", "ny", "nz")] + [
        f"property uchar {p}" for p in ("red", "green", "blue")
    ]
    header += [f"element face {len(mesh.faces)}", "property list uchar int vertex_indices", "end_header"]
    (models / "obj_000001.ply").write_text(
        "\n".join(header + rows + [f"3 {a} {b} {c}" for a, b, c in mesh.faces]) + "\n"
    )
    lo, size = -1e3 * HALF, 2e3 * HALF
    info = {
        "diameter": float(np.linalg.norm(size)),
        **dict(zip(("min_x", "min_y", "min_z", "size_x", "size_y", "size_z"), [*lo, *size], strict=True)),
    }
    (models / "models_info.json").write_text(json.dumps({"1": info}))
    renderer = Renderer(mesh, CAMERA.K, CAMERA.width, CAMERA.height)
    truth = {}
    for i in range(frames):
        T = random_viewpoint(rng, ViewpointConfig(distance=(0.3, 0.45)), np.zeros(3))
        T[:2, 3] += rng.uniform(-0.04, 0.04, 2)
        rgba, _ = renderer.render(T)
        background = cv2.resize(rng.integers(0, 255, (6, 8, 3)).astype(np.uint8), (CAMERA.width, CAMERA.height))
        image = (background * (1.0 - rgba[..., 3:] / 255.0) + 0.8 * rgba[..., :3]).astype(np.uint8)
        cv2.imwrite(str(scene / "rgb" / f"{i:06d}.png"), image[..., ::-1])
        truth[str(i)] = [{"obj_id": 1, "cam_R_m2c": T[:3, :3].ravel().tolist(), "cam_t_m2c": (1e3 * T[:3, 3]).tolist()}]
    renderer.close()
    (scene / "scene_gt.json").write_text(json.dumps(truth))
    (scene / "scene_gt_info.json").write_text(json.dumps({k: [{"visib_fract": 1.0}] for k in truth}))
    (scene / "scene_camera.json").write_text(
        json.dumps({k: {"cam_K": CAMERA.K.ravel().tolist(), "depth_scale": 1.0} for k in truth})
    )
    return root
