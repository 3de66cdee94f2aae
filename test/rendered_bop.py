"""Writes a BOP dataset with rendered photographs of a box whose six faces differ in colour, and on request of a second
one that looks the same after half a turn about z: small enough to train on in a test."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fm_pose_core.geometry import Array
from fm_pose_core.objects.viewpoints import ViewpointConfig, random_viewpoint
from fm_pose_core.rendering.mesh import Mesh
from fm_pose_core.rendering.renderer import Renderer
from fm_pose_core.types import Camera

HALF = np.array([0.05, 0.035, 0.025])  # metres: half the size of object 1
BRICK = np.array([0.03, 0.04, 0.02])  # of object 2
HALF_TURN = np.diag([-1.0, -1.0, 1.0, 1.0])
CAMERA = Camera(np.array([[280.0, 0.0, 158.0], [0.0, 281.0, 121.0], [0.0, 0.0, 1.0]]), 320, 240)


def box_mesh(divisions: int = 8, half: Array = HALF, symmetric: bool = False) -> Mesh:
    """A box with coloured faces, each cut into 2 · divisions² triangles. symmetric: opposite faces are alike, but for
    top and bottom."""
    vertices, normals, colours, faces = [], [], [], []
    grid = np.linspace(-1.0, 1.0, divisions + 1)
    for axis in range(3):
        for sign in (-1.0, 1.0):
            start = sum(len(v) for v in vertices)
            a, b = np.meshgrid(grid, grid, indexing="ij")
            points = np.zeros((a.size, 3))
            points[:, axis], points[:, (axis + 1) % 3], points[:, (axis + 2) % 3] = sign, a.ravel(), b.ravel()
            bright = sign > 0 or (symmetric and axis < 2)
            colour = np.full(3, 40)
            colour[axis] = 230 if bright else 140
            colour[(axis + 1) % 3] = 40 if bright else 200
            vertices.append(points * half)
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


def ply(mesh: Mesh) -> str:
    """As BOP has meshes: millimetres."""
    rows = [
        " ".join(f"{x:.5f}" for x in 1e3 * v) + " " + " ".join(f"{x:.4f}" for x in n) + " " + " ".join(map(str, c))
        for v, n, c in zip(mesh.vertices, mesh.normals, mesh.colours, strict=True)
    ]
    header = ["ply", "format ascii 1.0", f"element vertex {len(mesh.vertices)}"]
    header += [f"property float {p}" for p in ("x", "y", "z", "nx", "ny", "nz")]
    header += [f"property uchar {p}" for p in ("red", "green", "blue")]
    header += [f"element face {len(mesh.faces)}", "property list uchar int vertex_indices", "end_header"]
    return "\n".join(header + rows + [f"3 {a} {b} {c}" for a, b, c in mesh.faces]) + "\n"


def model_info(half: Array, symmetric: bool) -> dict[str, Any]:
    """An object's entry in models_info.json."""
    low, size = -1e3 * half, 2e3 * half
    names = ("min_x", "min_y", "min_z", "size_x", "size_y", "size_z")
    info = {"diameter": float(np.linalg.norm(size)), **dict(zip(names, [*low, *size], strict=True))}
    return info | ({"symmetries_discrete": [HALF_TURN.ravel().tolist()]} if symmetric else {})


def photograph(
    renderers: dict[int, Renderer], rng: np.random.Generator, centers: dict[int, Array]
) -> tuple[np.ndarray, dict[int, Array]]:
    """(H, W, 3) uint8 RGB with the objects before a random background, and their poses. centers (2,): metres, about
    where each is."""
    poses = {}
    for k in renderers:
        poses[k] = random_viewpoint(rng, ViewpointConfig(distance=(0.3, 0.45)), np.zeros(3))
        poses[k][:2, 3] += centers[k] + rng.uniform(-0.04, 0.04, 2) / len(renderers)
    image = cv2.resize(rng.integers(0, 255, (6, 8, 3)).astype(np.uint8), (CAMERA.width, CAMERA.height))
    for k, renderer in renderers.items():
        rgba, _ = renderer.render(poses[k])
        image = (image * (1.0 - rgba[..., 3:] / 255.0) + 0.8 * rgba[..., :3]).astype(np.uint8)
    return image, poses


def write_scene(folder: Path, renderers: dict[int, Renderer], frames: int, rng: np.random.Generator) -> None:
    """Frame ids 0 … frames - 1."""
    (folder / "rgb").mkdir(parents=True)
    side = {1: np.zeros(2)} if len(renderers) == 1 else {1: np.array([-0.08, 0.0]), 2: np.array([0.08, 0.0])}
    truth: dict[str, list[dict[str, Any]]] = {}
    for i in range(frames):
        image, poses = photograph(renderers, rng, side)
        cv2.imwrite(str(folder / "rgb" / f"{i:06d}.png"), image[..., ::-1])
        truth[str(i)] = [
            {"obj_id": k, "cam_R_m2c": T[:3, :3].ravel().tolist(), "cam_t_m2c": (1e3 * T[:3, 3]).tolist()}
            for k, T in poses.items()
        ]
    visible = {k: [{"visib_fract": 1.0}] * len(entries) for k, entries in truth.items()}
    camera = {k: {"cam_K": CAMERA.K.ravel().tolist(), "depth_scale": 1.0} for k in truth}
    for name, values in (("scene_gt", truth), ("scene_gt_info", visible), ("scene_camera", camera)):
        (folder / f"{name}.json").write_text(json.dumps(values))


def write_rendered_bop(root: Path, frames: int = 8, objects: int = 1, scenes: int = 1) -> Path:
    """The dataset in `root`, split test, scenes 1 …; objects 1 and, if there are two, 2, side by side in each frame."""
    meshes = {1: box_mesh(), 2: box_mesh(half=BRICK, symmetric=True)}
    info = {1: model_info(HALF, False), 2: model_info(BRICK, True)}
    known = range(1, objects + 1)
    (root / "models").mkdir(parents=True)
    (root / "models" / "models_info.json").write_text(json.dumps({str(k): info[k] for k in known}))
    for k in known:
        (root / "models" / f"obj_{k:06d}.ply").write_text(ply(meshes[k]))
    rng = np.random.default_rng(3)
    renderers = {k: Renderer(meshes[k], CAMERA.K, CAMERA.width, CAMERA.height) for k in known}
    for scene in range(1, scenes + 1):
        write_scene(root / "test" / f"{scene:06d}", renderers, frames, rng)
    for renderer in renderers.values():
        renderer.close()
    return root
