"""From an estimated pose to a better one, as h_Δ tells it: in numbers that do not depend on the object's size and
distance, with rotation and translation apart (Li et al., DeepIM, ECCV 2018, section 3.3)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.geometry import Array, apply, exp_so3, log_so3, skew, transform
from fm_pose_core.objects.crop import Crop
from fm_pose_core.objects.refine import Look
from fm_pose_core.objects.surroundings import over
from fm_pose_core.types import Window

# What one unit of an update is; about the deviations of the poses that are to be refined.
TURN = 0.1  # radians
SHIFT = 0.08  # of half the window's width
APPROACH = 0.04  # of the distance
UNITS = np.array([TURN, TURN, TURN, SHIFT, SHIFT, APPROACH])
Image = NDArray[np.uint8]


def window_at(T_camera_object: Array, center: Array, crop: Crop, fill: float) -> Crop:
    """The rule of the window in which the object at this pose (4, 4) fills the image as in a second look. center (3,):
    of its box. fill: see ObjectEntry; 0: the window is `crop`'s."""
    if not fill:
        return crop
    return crop.zoomed(float(np.linalg.norm(apply(T_camera_object, center[None]))) / fill)


@dataclass(frozen=True)
class Sighting:
    """What the camera sees where a pose has the object: a window (S, S, 3) of the rule `crop`, and T_window_camera
    (4, 4), a rotation."""

    window: Image
    crop: Crop
    T_window_camera: Array


def seen_at(look: Look, T_camera_object: Array, center: Array, crop: Crop, fill: float) -> Sighting | None:
    """At a pose (4, 4); see `window_at`. None where the camera does not see the object."""
    at = apply(T_camera_object, center[None])
    pixels = look.camera.pixels(at)[0] if at[0, 2] > 0 else np.full(2, np.nan)
    if not np.isfinite(pixels).all():
        return None
    crop = window_at(T_camera_object, center, crop, fill)
    window, R_camera_window = crop.cut(look.image(), look.camera, Window(*pixels))
    return Sighting(window, crop, transform(R_camera_window.T, np.zeros(3)))


def compared(image: Image, rgba: Image) -> Image:
    """What the network sees: a window (S, S, 3), and the same with a rendering (S, S, 4), premultiplied, drawn over it,
    as in T^M: (S, S, 6)."""
    return np.concatenate([image, over(rgba, image)], axis=-1)


def update_between(T_estimate: Array, T: Array, center: Array, crop: Crop) -> Array:
    """(6,): turn about the axes of the window's camera, shift of the centre in the window, and the logarithm of how
    much farther away it is; in UNITS. Both poses (4, 4) in the frame of the window's camera."""
    a, b = apply(T_estimate, center[None])[0], apply(T, center[None])[0]
    turn = log_so3(T[:3, :3] @ T_estimate[:3, :3].T)
    shift = (b[:2] / b[2] - a[:2] / a[2]) * crop.focal / (crop.size / 2)
    return np.concatenate([turn, shift, [np.log(b[2] / a[2])]]) / UNITS


def updated(T_estimate: Array, update: Array, center: Array, crop: Crop) -> Array:
    """The pose (4, 4) that an update (6,) leads to, in the frame of the window's camera."""
    e = update * UNITS
    a = apply(T_estimate, center[None])[0]
    R = exp_so3(e[:3]) @ T_estimate[:3, :3]
    z = a[2] * np.exp(e[5])
    c = np.append(a[:2] / a[2] + e[3:5] * (crop.size / 2) / crop.focal, 1.0) * z
    return transform(R, c - R @ center)


def motion(T: Array, center: Array, crop: Crop) -> Array:
    """(6, 6): how a pose T (4, 4) in the frame of the window's camera moves, along and about fixed axes as in
    ObjectPose, with each number of a small update."""
    turn, (x, y, z) = T[:3, :3] @ center, apply(T, center[None])[0]
    A = np.zeros((6, 6))  # from (turn, shift, log distance) to (translation of the origin, turn)
    A[:3, :3], A[3:, :3] = skew(turn), np.eye(3)
    A[:3, 3:5] = z * (crop.size / 2) / crop.focal * np.eye(3)[:, :2]
    A[:3, 5] = x, y, z
    return np.asarray(A * UNITS)
