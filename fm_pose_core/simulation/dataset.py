"""A BOP dataset of simulated photographs: training photos from scattered viewpoints, and a sequence.

fm-pose simulate OUTPUT_DIR        # writes the splits train_real and test
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fm_pose_core.files import write_atomically
from fm_pose_core.geometry import Array, apply, exp_so3, transform
from fm_pose_core.objects.bop import MM
from fm_pose_core.objects.models import write_model
from fm_pose_core.objects.viewpoints import look_at
from fm_pose_core.rendering.mesh import Mesh
from fm_pose_core.simulation.studio import CAMERA, CENTER, Photo, Studio
from fm_pose_core.simulation.tugboat import demo_object
from fm_pose_core.types import Camera

OBJECT_ID = 1
SPLITS = ("train_real", "test")


def scattered_pose(rng: np.random.Generator) -> Array:
    """T_camera_object (4, 4) as someone takes who walks around the object: 10–80° above the table, 0.65–1.1 m away."""
    z, azimuth = rng.uniform(np.sin(np.radians(10)), np.sin(np.radians(80))), rng.uniform(0, 2 * np.pi)
    r = np.sqrt(1 - z * z)
    T = look_at(np.array([r * np.cos(azimuth), r * np.sin(azimuth), z]), rng.uniform(0.65, 1.1), CENTER)
    aim = np.array([rng.uniform(-0.16, 0.16), rng.uniform(-0.11, 0.11), np.radians(rng.uniform(-20, 20))])
    return transform(exp_so3(aim), np.zeros(3)) @ T


def sequence_poses(frames: int, azimuth: float = 0.6) -> list[Array]:
    """T_camera_object of a hand-held camera that goes around the object and comes nearer, from 1.08 m to 0.67 m."""
    poses = []
    for k in range(frames):
        t = k / max(1, frames - 1)
        a = azimuth + 2 * np.pi * 0.85 * t
        elevation = np.radians(36 + 15 * np.sin(2 * np.pi * 0.9 * t + 0.6))
        direction = np.array([np.cos(a) * np.cos(elevation), np.sin(a) * np.cos(elevation), np.sin(elevation)])
        distance = 0.875 + 0.205 * np.cos(np.pi * t) + 0.012 * np.sin(9 * t)
        T = look_at(direction, distance, CENTER)
        aim = [
            0.07 * np.sin(2 * np.pi * 1.3 * t + 0.4),
            0.10 * np.sin(2 * np.pi * 0.8 * t),
            0.14 * np.sin(2 * np.pi * 0.7 * t),
        ]
        poses.append(transform(exp_so3(np.array(aim) + 0.0015 * np.sin(np.array([47, 59, 53]) * t)), np.zeros(3)) @ T)
    return poses


def photos_of_training(mesh: Mesh, count: int, seed: int, setups: int = 6) -> list[Photo]:
    """`count` photos from scattered viewpoints, in `setups` set-ups one after the other; a view that shows less than
    55 % of the object, or does not contain it, is taken again from elsewhere."""
    photos: list[Photo] = []
    for setup in range(setups):
        rng = np.random.default_rng([seed, 1, setup])
        studio = Studio(mesh, int(rng.integers(2**31)))
        until = round(count * (setup + 1) / setups)
        while len(photos) < until:
            T = scattered_pose(rng)
            if _contained(mesh, T, studio.camera):
                photo = studio.photograph(T, rng)
                if photo.visible_fraction > 0.55:
                    photos.append(photo)
        studio.close()
    return photos


def photos_of_sequence(mesh: Mesh, frames: int, seed: int) -> list[Photo]:
    """The `frames` photos of the sequence, in a set-up of its own."""
    rng = np.random.default_rng([seed, 2])
    studio = Studio(mesh, int(rng.integers(2**31)))
    photos = [studio.photograph(T, rng) for T in sequence_poses(frames)]
    studio.close()
    return photos


def _contained(mesh: Mesh, T: Array, camera: Camera, margin: float = 4.0) -> bool:
    uv = camera.pixels(apply(T, mesh.vertices))
    return bool((uv.min(0) > margin).all() and (uv.max(0) < np.array([camera.width, camera.height]) - 1 - margin).all())


def simulate(output: Path, photos: int = 120, frames: int = 90, seed: int = 0, quality: int = 82) -> Path:
    """Write the BOP dataset: `photos` in split train_real, a sequence of `frames` in split test, the model in
    millimetres.

    quality: of the JPEG files, 0–100.
    """
    mesh = demo_object()
    write_model(output, OBJECT_ID, mesh)
    write_split(output / SPLITS[0], photos_of_training(mesh, photos, seed) if photos else [], CAMERA, quality)
    write_split(output / SPLITS[1], photos_of_sequence(mesh, frames, seed) if frames else [], CAMERA, quality)
    targets = [{"im_id": i, "inst_count": 1, "obj_id": OBJECT_ID, "scene_id": 1} for i in range(frames)]
    write_atomically(output / "test_targets_bop19.json", json.dumps(targets).encode())
    return output


def write_split(folder: Path, photos: Sequence[Photo], camera: Camera, quality: int) -> None:
    """One scene, 000001, with the images rgb/000000.jpg …, scene_camera.json, scene_gt.json and scene_gt_info.json.
    More such images, of an older simulation, are removed."""
    scene = folder / "000001"
    cameras, truths, infos = {}, {}, {}
    for i, photo in enumerate(photos):
        content = cv2.imencode(".jpg", photo.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        write_atomically(scene / "rgb" / f"{i:06d}.jpg", content.tobytes())
        T = photo.T_camera_object
        R, t = T[:3, :3].ravel().tolist(), (T[:3, 3] / MM).tolist()
        world = {"cam_R_w2c": R, "cam_t_w2c": t}  # the object stands in the world's origin
        cameras[str(i)] = {"cam_K": camera.K.ravel().tolist(), "depth_scale": 1.0, **world}
        truths[str(i)] = [{"cam_R_m2c": R, "cam_t_m2c": t, "obj_id": OBJECT_ID}]
        infos[str(i)] = [
            {
                "bbox_obj": bounding_box(photo.silhouette),
                "bbox_visib": bounding_box(photo.visible),
                "px_count_all": int((photo.silhouette > 0.5).sum()),
                "px_count_valid": int((photo.silhouette > 0.5).sum()),
                "px_count_visib": int((photo.visible > 0.5).sum()),
                "visib_fract": photo.visible_fraction,
            }
        ]
    for name, values in (("scene_camera", cameras), ("scene_gt", truths), ("scene_gt_info", infos)):
        lines = ",\n".join(f'  "{key}": {json.dumps(value)}' for key, value in values.items())
        write_atomically(scene / f"{name}.json", f"{{\n{lines}\n}}\n".encode())
    for file in (scene / "rgb").glob("*.jpg"):
        if re.fullmatch(r"\d{6}", file.stem) and int(file.stem) >= len(photos):
            file.unlink()


def bounding_box(mask: NDArray[np.float32]) -> list[int]:
    """BOP's [x, y, width, height] of what a mask covers by more than half."""
    rows, columns = np.nonzero(mask > 0.5)
    if not len(rows):
        return [-1, -1, -1, -1]
    return [int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
