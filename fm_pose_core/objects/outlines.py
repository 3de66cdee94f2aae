"""Where the outline of an object is in an image, by the colours on its two sides.

What lies inside of a drawn outline, and what lies around it, have each their colours. Along the outline's normals these
say where the one ends and the other begins (Tjaden et al., A Region-based Gauss-Newton Approach to Real-Time Monocular
Multiple Object Tracking, PAMI 2018; Stoiber et al., SRT3D, IJCV 2022, section 3). An edge nearby makes it more precise.
Only colours of the image itself are compared, so neither light nor the model's paint matter.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fm_pose_core.geometry import Array

Image = NDArray[np.uint8]
Field = NDArray[np.float32]
Mask = NDArray[np.bool_]

BITS = 4  # of a colour channel that a histogram tells apart
FAINT = 0.02 / 2 ** (2 * BITS)  # share of pixels: rarer colours than this say nothing
CERTAIN = 1.5  # logarithm of the most that one pixel's colour says for one side
POINTS = 200  # of the outline
SOFT = 1.5  # pixels: by so much the drawn shape is blurred, to find its outline finer than a pixel
REACH, STEP = 5.0, 0.5  # pixels: how far an outline is looked for, and of the search
BEYOND = 3.0  # pixels of each side that are compared beyond the reach
ALIKE = 2.0  # steps of the search that say the same: neighbouring pixels are blurred into each other
NOISE = 2.0  # grey values a pixel: an edge weaker than this is none
LEAST_DEVIATION = 0.4  # pixels: no point is known better
UNSURE = 9.0  # pixels²: a larger variance says nothing
WITHIN = 2.0  # pixels inside of the outline that is found: there the object's colours must be, or something hides it


class Outline(NamedTuple):
    """Of a drawn object: pixels (N, 2), finer than a pixel; unit normals (N, 2), outwards; depth (N,), metres; shape
    (H, W), the pixels inside."""

    pixels: Array
    normals: Array
    depth: Array
    shape: Mask


@dataclass(frozen=True)
class Found:
    """Of each point of an outline: its distance along the normal (N,), pixels, the variance of that (N,), and whether
    the image shows it (N,)."""

    distances: Array
    variances: Array
    seen: Mask


def colour_bins(pixels: Image, inside: Mask) -> NDArray[np.int32]:
    """(H, W, 3) -> (H, W): the number of each pixel's colour; -1 outside of the camera's image."""
    coarse = (pixels >> (8 - BITS)).astype(np.int32)
    bins = (coarse[..., 0] << 2 * BITS) | (coarse[..., 1] << BITS) | coarse[..., 2]
    return np.where(inside, bins, np.int32(-1))


def border(shape: Mask) -> Mask:
    """The pixels (H, W) of a shape (H, W) next to its outside."""
    return shape & (cv2.erode(shape.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0)


def outline_of(depth: Field, hidden: Mask) -> Outline | None:
    """Of what is drawn (H, W), metres, 0 where nothing is, but for what is hidden (H, W). None where nothing is."""
    shape = depth > 0
    soft = cv2.GaussianBlur(shape.astype(np.float32), (0, 0), SOFT)
    slope = np.stack([cv2.Sobel(soft, cv2.CV_32F, *order, ksize=3) for order in ((1, 0), (0, 1))], -1) / 8
    v, u = np.nonzero(border(shape) & ~hidden)
    chosen = np.random.default_rng(0).permutation(len(u))[:POINTS]
    v, u = v[chosen], u[chosen]
    if not len(u):
        return None
    steepness = np.hypot(slope[v, u, 0], slope[v, u, 1]).astype(np.float64)
    normals = -slope[v, u] / (steepness[:, None] + 1e-6)
    outwards = np.clip((soft[v, u] - 0.5) / (steepness + 1e-3), -SOFT, SOFT)
    pixels = np.column_stack([u, v]) + outwards[:, None] * normals
    return Outline(pixels, normals, depth[v, u].astype(np.float64), shape)


def likelihood_ratio(bins: NDArray[np.int32], shape: Mask, margin: int) -> Field:
    """(H, W): by how much likelier a pixel's colour is inside of a shape (H, W) than around it, as a logarithm; 0 where
    `bins` know no colour, and everywhere if they know none inside or none around. margin: pixels next to the outline
    that tell nothing, as it may not be exact."""
    drawn = shape.astype(np.uint8)
    inner = cv2.erode(drawn, np.ones((2 * margin + 1,) * 2, np.uint8)) > 0
    outer = cv2.dilate(drawn, np.ones((2 * margin + 3,) * 2, np.uint8)) == 0
    known = [bins[part & (bins >= 0)] for part in (inner, outer)]
    if not all(len(x) for x in known):
        return np.zeros(bins.shape, np.float32)
    a, b = (_histogram(x) for x in known)
    ratio = np.clip(np.log((a + FAINT) / (b + FAINT)), -CERTAIN, CERTAIN).ravel()[bins]
    return np.where(bins >= 0, ratio, np.float32(0.0))


def _histogram(bins: NDArray[np.int32]) -> Field:
    """Shares of colours, smoothed along each channel."""
    side = 1 << BITS
    found = np.bincount(bins, minlength=side**3).reshape(side, side, side).astype(np.float32)
    for axis in range(3):
        x = np.moveaxis(found, axis, 0)
        smooth = 0.5 * x
        smooth[1:] += 0.25 * x[:-1]
        smooth[:-1] += 0.25 * x[1:]
        found = np.moveaxis(smooth, 0, axis)
    return np.asarray(found / max(float(found.sum()), 1e-9), np.float32)


def find_outline(ratio: Field, edges: Field, pixels: Array, normals: Array) -> Found:
    """Where the points of an outline (N, 2) are, by a `likelihood_ratio` and by the strength of the image's edges
    (H, W), grey values a pixel."""
    along = np.arange(-REACH - BEYOND, REACH + BEYOND + STEP / 2, STEP)
    u, v = ((pixels[:, None, k] + along * normals[:, None, k]).astype(np.float32) for k in (0, 1))
    sides = cv2.remap(ratio, u, v, cv2.INTER_LINEAR).astype(np.float64)  # 0 beyond the border
    inside = np.cumsum(sides, axis=1) - 0.5 * sides
    reached = slice(round(BEYOND / STEP), len(along) - round(BEYOND / STEP))
    total = sides.sum(1, keepdims=True)
    edge = cv2.remap(edges, u, v, cv2.INTER_LINEAR)[:, reached]
    score = (2 * inside - total)[:, reached] * (STEP / ALIKE) + np.log1p(edge / NOISE)
    p = np.exp(score - score.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    distances = p @ along[reached]
    variances = p @ np.square(along[reached]) - np.square(distances) + LEAST_DEVIATION**2
    within = np.rint((distances - WITHIN - along[0]) / STEP).astype(int)[:, None] + np.arange(-2, 3)
    hidden = np.take_along_axis(sides, np.clip(within, 0, len(along) - 1), 1).mean(1) <= CERTAIN / 3
    seen = (np.abs(distances) < REACH - WITHIN + STEP) & (variances < UNSURE) & ~hidden
    return Found(distances, variances, seen)


def agreement(ratio: Field, shape: Mask) -> float:
    """How well a shape (H, W) explains a `likelihood_ratio`: larger is better."""
    return float(np.where(shape, ratio, -ratio).sum())
