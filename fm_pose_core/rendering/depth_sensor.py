"""What a depth camera makes of exact depth: the domain gap between rendered and real depth maps, where no real ones can
be had.

Structured light (such as Kinect and SR305): the projector's shadow beside near edges, noise and steps in disparity,
ragged edges, dropped pixels on slanted surfaces. Time of flight: flying pixels between near and far, noise that grows
with distance. After Khoshelham and Elberink (2012) and Handa et al. (2014).
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fm_pose_core.config import knob

Depth = NDArray[np.float32]


@dataclass(frozen=True)
class DepthSensorConfig:
    kind: str = knob("structured_light", "How it measures.", choices=("structured_light", "time_of_flight"))
    baseline: float = knob(0.075, "From the projector to the camera, metres (structured light).", 0.0, 1.0)
    disparity_noise: float = knob(0.12, "Standard deviation of the disparity, pixels.", 0.0, 10.0)
    disparity_step: float = knob(0.125, "Disparities are multiples of this, pixels.", 0.0, 10.0)
    edge_jitter: float = knob(0.9, "Standard deviation of where an edge is seen, pixels.", 0.0, 20.0)
    slant: float = knob(0.15, "Below this cosine between view and surface normal most pixels are dropped.", 0.0, 1.0)
    dropped: float = knob(0.01, "Share of the surface dropped at random, in patches.", 0.0, 1.0)
    noise: float = knob(0.0025, "Standard deviation relative to the depth (time of flight).", 0.0, 1.0)
    flying: float = knob(0.5, "Share of the edge pixels that lie between near and far (time of flight).", 0.0, 1.0)


def sense(depth: Depth, K: NDArray[np.float64], config: DepthSensorConfig, rng: np.random.Generator) -> Depth:
    """depth (H, W) float32 metres, 0 where nothing is -> what the sensor reports, 0 where it reports nothing."""
    depth = _jittered(depth, config.edge_jitter, rng)
    lost = (_cosine(depth, K) < config.slant * rng.uniform(0.5, 1.5, depth.shape)) & (depth > 0)
    lost |= _patches(depth.shape, config.dropped, rng)
    if config.kind == "structured_light":
        lost |= _shadow(depth, K[0, 0] * config.baseline)
        measured = _disparity(depth, K[0, 0] * config.baseline, config, rng)
    else:
        measured = _flying(depth, config.flying, rng)
        measured = measured * (1.0 + config.noise * rng.standard_normal(depth.shape, np.float32))
    return np.where(lost | (measured <= 0), 0.0, measured).astype(np.float32)


def _jittered(depth: Depth, amount: float, rng: np.random.Generator) -> Depth:
    """Each pixel looks a little beside itself, in a pattern that is smooth over a few pixels: edges become ragged."""
    if amount == 0:
        return depth
    height, width = depth.shape
    shift = rng.standard_normal((2, height, width), np.float32)
    # The blur leaves 1 / 2.4 of the deviation.
    shift = np.stack([cv2.GaussianBlur(s, (0, 0), 0.7) for s in shift]) * (amount * 2.4)
    u, v = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(depth, u + shift[0], v + shift[1], cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)


def _cosine(depth: Depth, K: NDArray[np.float64]) -> Depth:
    """Between the optical axis and the surface's normal, from the depth's gradient."""
    smooth = cv2.blur(depth, (3, 3))
    near = np.maximum(smooth, 1e-3)
    gu = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=1 / 8) * np.float32(K[0, 0]) / near
    gv = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=1 / 8) * np.float32(K[1, 1]) / near
    return 1.0 / np.sqrt(1.0 + gu * gu + gv * gv)


def _patches(shape: tuple[int, ...], share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    if share == 0:
        return np.zeros(shape, bool)
    height, width = shape
    field = cv2.resize(
        rng.standard_normal((height // 4 + 1, width // 4 + 1), np.float32),
        (width, height),
        interpolation=cv2.INTER_CUBIC,
    )
    return field > np.quantile(field[::3, ::3], 1.0 - share)


def _shadow(depth: Depth, focal_baseline: float) -> NDArray[np.bool_]:
    """Where the projector, to the camera's right, is hidden by something nearer: along a row, going left to right, a
    ray from the projector may not cross an earlier one."""
    u = np.arange(depth.shape[1], dtype=np.float32)
    far = np.where(depth > 0, depth, 10.0)
    seen_from_projector = u - focal_baseline / far
    # A point is hidden if a point further right lands at or left of it in the projector's image.
    least = np.minimum.accumulate(seen_from_projector[:, ::-1], axis=1)[:, ::-1]
    return seen_from_projector > least + 0.5


def _disparity(depth: Depth, focal_baseline: float, config: DepthSensorConfig, rng: np.random.Generator) -> Depth:
    disparity = focal_baseline / np.maximum(depth, 1e-3)
    # As wide as the matching window.
    noise = cv2.GaussianBlur(rng.standard_normal(depth.shape, np.float32), (0, 0), 0.8) * 2.8
    disparity = disparity + config.disparity_noise * noise
    if config.disparity_step > 0:
        disparity = np.rint(disparity / config.disparity_step) * config.disparity_step
    return np.where(depth > 0, focal_baseline / np.maximum(disparity, 1e-3), 0.0).astype(np.float32)


def _flying(depth: Depth, share: float, rng: np.random.Generator) -> Depth:
    """At an edge some pixels see both sides and report something between."""
    far = np.where(depth > 0, depth, np.float32(depth.max(initial=0.0)))
    low, high = cv2.erode(far, np.ones((3, 3))), cv2.dilate(far, np.ones((3, 3)))
    edge = (high - low > 0.015) & (rng.uniform(size=depth.shape) < share)
    mix = rng.uniform(size=depth.shape).astype(np.float32)
    return np.where(edge, low + mix * (high - low), depth)
