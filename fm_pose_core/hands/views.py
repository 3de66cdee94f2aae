"""Views of a hand, or of none, and the windows that are cut out of them for the training.

A hand is rendered (or a depth map read) once and serves several samples: turning the camera about its optical axis
turns the window about its middle and leaves the depth as it is, and another centre of the cube is another cut; labels
stay exact.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.config import knob
from fm_pose_core.geometry import Array
from fm_pose_core.hands.crop import HandCrop, warped
from fm_pose_core.types import Camera

Depth = NDArray[np.float32]
PATCH = 1.6  # width of what is rendered, relative to the cube: room for other centres and for turning


@dataclass(frozen=True)
class HandWindowsConfig:
    """How windows are cut: those of T^R and T^M, and with poses those of T^S."""

    in_plane: float = knob(180.0, "Largest turn of the camera about its axis, degrees.", 0.0, 180.0)
    displacement: float = knob(
        0.015, "Standard deviation of the cube's centre from the centre of mass, metres, in each direction.", 0.0, 0.2
    )
    astray: float = knob(
        0.15, "Share of windows whose centre is four times as far off: h learns to expect large errors there.", 0.0, 1.0
    )
    rescale: float = knob(0.1, "Hands are larger or smaller by a factor in [1 - x, 1 + x].", 0.0, 0.5)
    absent: float = knob(
        0.25, "Share of windows without a hand, of which h learns to say so; for network.presence.", 0.0, 0.9
    )
    uses_per_view: int = knob(6, "Samples made of each hand that is rendered, or depth map that is read.", 1, 1000)


@dataclass
class HandView:
    """layers: depth patches (P, P) metres of one camera; center (3,): the hand's centre; joints (J, 3), NaN where there
    is no hand; all metres, in that camera's frame."""

    layers: list[Depth]
    camera: Camera
    center: Array
    joints: Array


def draw_window(
    view: HandView, crop: HandCrop, config: HandWindowsConfig, rng: np.random.Generator
) -> tuple[list[Depth], Array]:
    """Windows (S, S) in [-1, 1] of each layer, cut at one random centre and turned by one angle; and the joints (J, 3)
    relative to the cube's centre, metres."""
    far = 4.0 if rng.uniform(0, 1) < config.astray else 1.0
    center = view.center + rng.normal(scale=far * config.displacement, size=3)
    center[2] = max(center[2], crop.half)
    angle = np.radians(rng.uniform(-config.in_plane, config.in_plane))
    s = 1.0 + rng.uniform(-config.rescale, config.rescale)
    # A larger hand is a hand in a smaller cube.
    M = crop.turning(angle, s) @ np.vstack([crop.affine(view.camera, center), [0, 0, 1]])
    windows = [crop.normalise(warped(layer, view.camera, M, crop.size), center[2], s) for layer in view.layers]
    return windows, crop.turned(view.joints - center, angle, s)


def patch_camera(crop: HandCrop, center: Array) -> Camera:
    """A camera whose patch around `center` (3,), metres, is PATCH cubes wide."""
    pixels, f = round(PATCH * crop.size), crop.size * center[2] / (2 * crop.half)
    u, v = f * center[:2] / center[2]
    middle = (pixels - 1) / 2
    return Camera(np.array([[f, 0, middle - u], [0, f, middle - v], [0, 0, 1]]), pixels, pixels)
