"""What the paper leaves out of its renderings, as named options: light on diffuse and specular materials, occluders,
colour jitter, blur and noise (section 4.1: "we do not simulate lighting … also do not add blur, nor Gaussian noise").
The defaults are the paper's: all off."""

import math
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from fm_pose_core.config import knob

Image = NDArray[np.uint8]
MOVED = 0.5  # share of the images that motion blurs, if any


@dataclass(frozen=True)
class AppearanceConfig:
    light: float = knob(
        0.0, "Probability that a rendering is lit: 1–3 lights, diffuse and specular, random material.", 0.0, 1.0
    )
    repaint: float = knob(
        0.0,
        "Probability that a rendering's colours are changed (tint, contrast, smooth random colour fields).",
        0.0,
        1.0,
    )
    occluders: float = knob(0.0, "Probability of each of up to two occluders in front of the object.", 0.0, 1.0)
    cutouts: float = knob(
        0.0, "Share of occluders that are other objects of the same network, rendered or photographed.", 0.0, 1.0
    )
    large: float = knob(
        0.0, "Share of occluders that are as large as the object, and hide a side of it, or more.", 0.0, 1.0
    )
    border: float = knob(0.0, "Probability that the camera's image ends within the window: black beyond.", 0.0, 1.0)
    colour: float = knob(
        0.0, "Strength of brightness, contrast, gamma and white-balance jitter of the whole image.", 0.0, 1.0
    )
    blur: float = knob(0.0, "Largest Gaussian blur, standard deviation in pixels.", 0.0, 10.0)
    motion: float = knob(0.0, "Largest blur by motion, which half of the images have, length in pixels.", 0.0, 50.0)
    coarse: float = knob(
        1.0,
        "Largest side of the camera's own pixels, in those of the window: a window is often finer than its photograph.",
        1.0,
        10.0,
    )
    noise: float = knob(0.0, "Largest Gaussian noise, standard deviation in grey levels.", 0.0, 100.0)


def shade(rgba: Image, normals: NDArray[np.float32], rng: np.random.Generator) -> Image:
    """Light a view: ambient, 1–3 directional lights, Lambert and Blinn–Phong with a random material.

    rgba: (H, W, 4) uint8, premultiplied. normals: (H, W, 3) unit, camera frame. Returns (H, W, 4) uint8.
    """
    inside = rgba[..., 3] > 0
    n = normals[inside]  # (P, 3)
    ambient = rng.uniform(0.25, 0.9)
    diffuse = np.full((len(n), 3), ambient, np.float32)
    specular = np.zeros(len(n), np.float32)
    strength, shininess = rng.uniform(0.0, 0.5) ** 1.5, np.exp(rng.uniform(np.log(4.0), np.log(120.0)))
    for _ in range(int(rng.integers(1, 4))):
        direction = rng.normal(size=3)
        direction[2] = -abs(direction[2])  # from the camera's side
        direction[1] -= 0.6  # lamps hang above more often than not
        direction /= np.linalg.norm(direction)
        intensity = rng.uniform(0.2, 0.9) * (1.0 + 0.15 * rng.normal(size=3))
        lambert = np.clip(n @ direction.astype(np.float32), 0.0, None)
        diffuse += lambert[:, None] * intensity.astype(np.float32)
        half = direction + np.array([0.0, 0.0, -1.0])
        specular += np.clip(n @ (half / np.linalg.norm(half)).astype(np.float32), 0.0, None) ** shininess * (
            lambert > 0
        )
    out = rgba.copy()
    alpha = rgba[inside, 3:].astype(np.float32)
    lit = rgba[inside, :3] * diffuse + (strength * specular)[:, None] * alpha
    out[inside, :3] = np.minimum(lit, alpha)
    return out


def repaint(rgba: Image, rng: np.random.Generator) -> Image:
    """Change a view's own colours: a random linear map of the channels, contrast, and a smooth multiplicative field, so
    that no colour of the mesh can be relied on. rgba: (H, W, 4) uint8, premultiplied."""
    height, width = rgba.shape[:2]
    M = np.eye(3) * rng.uniform(0.5, 1.2) + rng.normal(scale=0.12, size=(3, 3))
    alpha = rgba[..., 3:].astype(np.float32)
    field = cv2.resize(
        rng.normal(1.0, rng.uniform(0.0, 0.3), size=(4, 4, 3)).astype(np.float32),
        (width, height),
        interpolation=cv2.INTER_CUBIC,
    )
    colour = (rgba[..., :3].astype(np.float32) @ M.T.astype(np.float32) + rng.uniform(-30, 30) * alpha / 255.0) * field
    return np.dstack([np.clip(colour, 0.0, alpha), alpha]).astype(np.uint8)


def occluder_shape(rng: np.random.Generator, size: int, large: bool = False) -> Image:
    """(size, size) uint8, 255 within a random shape that hides a part of what is in the middle. large: see
    AppearanceConfig."""
    mask = np.zeros((size, size), np.uint8)
    angle = rng.uniform(0.0, 2.0 * np.pi)
    offset = rng.uniform(*((0.2, 0.55) if large else (0.1, 0.45))) * size
    x, y = size / 2 + offset * np.cos(angle), size / 2 + offset * np.sin(angle)
    r = rng.uniform(*((0.3, 0.5) if large else (0.08, 0.32))) * size
    if rng.uniform() < 0.5:
        axes = (int(r), int(r * rng.uniform(0.4, 1.0)) + 1)
        cv2.ellipse(mask, (int(x), int(y)), axes, float(rng.uniform(0, 180)), 0, 360, 255, -1, cv2.LINE_AA)
    else:
        angles = np.sort(rng.uniform(0.0, 2.0 * np.pi, int(rng.integers(4, 9))))
        radii = r * rng.uniform(0.5, 1.4, len(angles))
        points = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], -1)
        cv2.fillPoly(mask, [points.astype(np.int32)], 255, cv2.LINE_AA)
    return mask


def jitter(image: Image, rng: np.random.Generator, config: AppearanceConfig) -> Image:
    """Colour, blur and noise of the whole image, (H, W, 3) uint8, each up to what `config` allows. As in a camera: blur
    by lens and motion, then its pixels, then noise of each of them."""
    if config.colour > 0:
        k = config.colour
        gamma = np.exp(rng.uniform(-0.4, 0.4) * k)
        gain = np.exp(rng.uniform(-0.4, 0.4) * k + 0.12 * k * rng.normal(size=3))
        offset = rng.uniform(-25.0, 25.0) * k
        levels = 255.0 * (np.arange(256)[:, None] / 255.0) ** gamma * gain + offset  # (256, 3)
        image = cv2.LUT(image, np.clip(levels, 0, 255).astype(np.uint8)[None])
    if config.blur > 0:
        sigma = rng.uniform(0.0, config.blur)
        if sigma > 0.3:
            image = cv2.GaussianBlur(image, (0, 0), sigma)
    if config.motion > 0 and rng.uniform() < MOVED:
        image = cv2.filter2D(image, -1, streak(rng.uniform(0.0, config.motion), rng.uniform(0.0, np.pi)))
    height, width = image.shape[:2]
    if config.coarse > 1.0:
        side = rng.uniform(1.0, config.coarse)
        image = cv2.resize(image, (round(width / side), round(height / side)), interpolation=cv2.INTER_AREA)
    if config.noise > 0:
        noise = _noise(max(image.shape[:2]), int(rng.uniform(0.0, config.noise) * 4.0), rng)
        image = cv2.add(image, noise[: image.shape[0], : image.shape[1]], dtype=cv2.CV_8U)
    return image if image.shape[:2] == (height, width) else cv2.resize(image, (width, height))


def streak(length: float, angle: float) -> NDArray[np.float32]:
    """The kernel (K, K) of a motion by `length` pixels, half of it to either side; it sums to one. angle: radians, from
    the rows' direction."""
    reach = math.ceil(length / 2)
    v, u = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along, across = np.abs(u * np.cos(angle) + v * np.sin(angle)), v * np.cos(angle) - u * np.sin(angle)
    beyond = np.clip(along - max(0.0, length - 1.0) / 2, 0.0, None)  # it ends half a pixel farther out
    kernel = np.clip(1.0 - np.hypot(beyond, across), 0.0, None)
    return np.asarray(kernel / kernel.sum(), np.float32)


_NOISE_SIZE = 512


@cache
def _noise_field(quarters: int) -> NDArray[np.int8]:
    field = np.random.default_rng(quarters).normal(scale=quarters / 4.0, size=(_NOISE_SIZE, _NOISE_SIZE, 3))
    return np.clip(np.rint(field), -128, 127).astype(np.int8)


def _noise(size: int, quarters: int, rng: np.random.Generator) -> NDArray[np.int8]:
    """(size, size, 3) int8 Gaussian noise with a standard deviation of `quarters` / 4: a random part of a larger field,
    since drawing 49,000 normal numbers costs more than all the rest of a sample. In an image larger than the field, the
    field repeats."""
    field = _noise_field(quarters)
    if size > _NOISE_SIZE:
        y, x = rng.integers(0, _NOISE_SIZE, 2)
        rows, columns = (np.arange(start, start + size) % _NOISE_SIZE for start in (y, x))
        return field[np.ix_(rows, columns)]
    y, x = rng.integers(0, _NOISE_SIZE - size + 1, 2)
    return field[y : y + size, x : x + size]
