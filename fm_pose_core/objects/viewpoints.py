"""Where the virtual camera stands (section 4.1): viewpoint uniform on the upper hemisphere, in-plane rotation in
[-45°, 45°], distance 65–115 cm. All configurable."""

from dataclasses import dataclass

import numpy as np

from fm_pose_core.config import knob
from fm_pose_core.geometry import Array, exp_so3, transform

SLACK = 15.0  # degrees


@dataclass(frozen=True)
class ViewpointConfig:
    distance: tuple[float, float] = knob(
        (0.65, 1.15), "Nearest and farthest distance of the object, metres.", 0.01, 100.0
    )
    in_plane: float = knob(45.0, "Largest in-plane rotation to either side, degrees.", 0.0, 180.0)
    sphere: str = knob(
        "upper", "Viewpoints on the upper hemisphere (object's z up) or on the full sphere.", choices=("upper", "full")
    )
    lowest_elevation: float = knob(
        0.0, "Lowest viewpoint of the upper hemisphere, degrees above the object's xy plane.", -90.0, 90.0
    )


def random_viewpoint(rng: np.random.Generator, config: ViewpointConfig, center: Array) -> Array:
    """T_camera_object (4, 4): the camera looks straight at `center` (3,) of the object, upright (no in-plane rotation),
    from a direction that is uniform on the sphere's part that `config` names."""
    lowest = -1.0 if config.sphere == "full" else np.sin(np.radians(config.lowest_elevation))
    z = rng.uniform(lowest, 1.0)  # uniform in height is uniform on the sphere (Archimedes)
    azimuth = rng.uniform(0.0, 2.0 * np.pi)
    r = np.sqrt(max(0.0, 1.0 - z * z))
    return look_at(np.array([r * np.cos(azimuth), r * np.sin(azimuth), z]), rng.uniform(*config.distance), center)


def reaches(config: ViewpointConfig, T_camera_object: Array) -> bool:
    """Whether viewpoints and in-plane turns come within SLACK of a pose (4, 4) of a camera that looks straight at the
    object: whether it is upright enough there, and not seen from below."""
    R = T_camera_object[:3, :3]
    elevation = np.arcsin(np.clip(-R[2, 2], -1.0, 1.0))
    if config.sphere == "upper" and elevation < np.radians(config.lowest_elevation - SLACK):
        return False
    turn = R @ look_at(-R[2], 1.0, np.zeros(3))[:3, :3].T
    overhead = abs(elevation) > np.radians(90.0 - SLACK)  # a turn is another azimuth there
    return bool(overhead or abs(np.arctan2(turn[1, 0], turn[0, 0])) <= np.radians(config.in_plane + SLACK))


def look_at(direction: Array, distance: float, center: Array) -> Array:
    """T_camera_object (4, 4) of an upright camera at `center` + `distance` (metres) × unit `direction` (3,) that looks
    at `center`."""
    forward = -direction
    right = np.array([-direction[1], direction[0], 0.0])  # e_z × direction: horizontal
    norm = np.linalg.norm(right)
    right = right / norm if norm > 1e-9 else np.array([1.0, 0.0, 0.0])
    R_camera_object = np.stack([right, np.cross(forward, right), forward])
    return transform(R_camera_object, np.array([0.0, 0.0, distance]) - R_camera_object @ center)


def window_rotation(rng: np.random.Generator, focal: float, in_plane: float, displacement: float) -> Array:
    """R_window_view (3, 3): turns the camera about its own centre, in-plane by up to `in_plane` degrees and so that the
    object's centre leaves the window's centre by up to `displacement` pixels. An exact homography of the image."""
    roll = np.radians(rng.uniform(-in_plane, in_plane))
    radius, angle = displacement * np.sqrt(rng.uniform()), rng.uniform(0.0, 2.0 * np.pi)
    dx, dy = radius * np.cos(angle) / focal, radius * np.sin(angle) / focal
    turn = np.hypot(dx, dy)
    tilt = exp_so3(np.array([-dy, dx, 0.0]) * (np.arctan(turn) / turn)) if turn > 0 else np.eye(3)
    return tilt @ exp_so3(np.array([0.0, 0.0, roll]))


def random_rotation(rng: np.random.Generator, largest: float) -> Array:
    """Rotation (3, 3) about a uniformly random axis by an angle uniform in [0, `largest`] degrees."""
    axis = rng.normal(size=3)
    return exp_so3(axis / np.linalg.norm(axis) * np.radians(rng.uniform(0.0, largest)))
