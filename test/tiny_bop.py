"""Writes a BOP dataset of four small frames: the toy box (object 1, see toy_bundle.py) and a brick (object 2) that
looks the same after half a turn about z. In frame 5 the toy's blob is blue, so that the toy network finds nothing."""

import json
from pathlib import Path

import cv2
import numpy as np
import toy_bundle as toy

from fm_pose_core import Camera
from fm_pose_core.geometry import Array, box_corners, exp_so3, transform

CAMERA = Camera(np.array([[300.0, 0.0, 160.0], [0.0, 305.0, 118.0], [0.0, 0.0, 1.0]]), 320, 240)
FRAMES = {2: (160.0, 118.0), 3: (90.5, 70.25), 4: (230.0, 150.0), 5: (140.0, 100.0)}  # image id -> pixel of the toy box
HIDDEN = 4  # the frame in which both objects are 5 % visible
BLUE = 5
BRICK = np.array([0.04, 0.03, 0.02])  # half size, metres
HALF_TURN = transform(exp_so3(np.array([0.0, 0.0, np.pi])), np.zeros(3))


def brick_pose(im_id: int) -> Array:
    """T_camera_object (4, 4) of object 2."""
    return transform(exp_so3(np.array([0.3, 0.1 * im_id, -0.4])), np.array([0.05, 0.02 * im_id - 0.05, 0.7]))


def truth(im_id: int, object_id: int) -> Array:
    """T_camera_object (4, 4)."""
    return toy.toy_pose(CAMERA, *FRAMES[im_id]) if object_id == 1 else brick_pose(im_id)


def ply(half: Array) -> bytes:
    """An ASCII PLY with the 8 vertices of a box, millimetres."""
    return _ply(box_corners(-half, half))


def _ply(vertices: Array) -> bytes:
    lines = [
        "ply",
        "format ascii 1.0",
        f"element vertex {len(vertices)}",
        *(f"property float {a}" for a in "xyz"),
        "end_header",
    ]
    return ("\n".join(lines + [" ".join(f"{1e3 * x:.6f}" for x in v) for v in vertices]) + "\n").encode()


def write_tiny_bop(root: Path, targets: bool = True, gt_info: bool = True) -> Path:
    """The dataset in `root`. Targets: all but the hidden ones."""
    models = root / "models"
    models.mkdir(parents=True)
    (models / "obj_000001.ply").write_bytes(_ply(box_corners(toy.MINIMUM, toy.MAXIMUM)))
    (models / "obj_000002.ply").write_bytes(ply(BRICK))
    info = {"1": _model_info(toy.MINIMUM, toy.MAXIMUM), "2": _model_info(-BRICK, BRICK)}
    info["2"]["symmetries_discrete"] = [HALF_TURN.ravel().tolist()]
    _write(models / "models_info.json", info)

    scene = root / "test" / "000001"
    (scene / "rgb").mkdir(parents=True)
    for im_id, (u, v) in FRAMES.items():
        image = toy.toy_image(CAMERA, u, v, (30, 40, 255) if im_id == BLUE else (255, 40, 40))
        cv2.imwrite(str(scene / "rgb" / f"{im_id:06d}.png"), image[..., ::-1])
    _write(
        scene / "scene_camera.json", {str(i): {"cam_K": CAMERA.K.ravel().tolist(), "depth_scale": 1.0} for i in FRAMES}
    )
    _write(scene / "scene_gt.json", {str(i): [_gt(i, 2), _gt(i, 1)] for i in FRAMES})
    if gt_info:
        _write(
            scene / "scene_gt_info.json", {str(i): [{"visib_fract": 0.05 if i == HIDDEN else 0.9}] * 2 for i in FRAMES}
        )
    if targets:
        chosen = [
            {"scene_id": 1, "im_id": i, "obj_id": o, "inst_count": 1} for i in FRAMES if i != HIDDEN for o in (1, 2)
        ]
        _write(root / "test_targets_bop19.json", chosen)
    return root


def _gt(im_id: int, object_id: int) -> dict[str, object]:
    T = truth(im_id, object_id)
    return {"obj_id": object_id, "cam_R_m2c": T[:3, :3].ravel().tolist(), "cam_t_m2c": (1e3 * T[:3, 3]).tolist()}


def _model_info(minimum: Array, maximum: Array) -> dict[str, object]:
    lo, size = 1e3 * minimum, 1e3 * (maximum - minimum)
    names = dict(
        zip(("min_x", "min_y", "min_z", "size_x", "size_y", "size_z"), [*lo.tolist(), *size.tolist()], strict=True)
    )
    return {"diameter": float(np.linalg.norm(size)), **names}


def _write(path: Path, values: object) -> None:
    path.write_text(json.dumps(values))
