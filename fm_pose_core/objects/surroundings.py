"""What is around the object in a training window: a background, occluders, and the border of the camera's image."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from fm_pose_core.rendering.appearance import AppearanceConfig, jitter, occluder_shape
from fm_pose_core.rendering.backgrounds import Backgrounds

Image = NDArray[np.uint8]
KEPT = 64  # views of each object
LEAST = 0.1  # share of the object that occluders leave visible: a window without any says nothing about it


class Surroundings:
    """What the samples of all objects share: backgrounds, and views of the objects, which occlude each other."""

    def __init__(self, backgrounds: Backgrounds) -> None:
        self.backgrounds = backgrounds
        self._views: dict[int, list[Image]] = {}
        self._added = 0

    def add(self, index: int, rgba: Image) -> None:
        """A view (S, S, 4) of object `index`, premultiplied; it replaces an older one."""
        views = self._views.setdefault(index, [])
        if len(views) < KEPT:
            views.append(rgba)
        else:
            views[self._added % KEPT] = rgba
        self._added += 1

    def finish(
        self, image: Image, points: NDArray[np.float32], index: int, config: AppearanceConfig, rng: np.random.Generator
    ) -> Image:
        """Occluders, jitter, and the border of the camera's image. Points that are hidden become NaN. An occluder or a
        border that would leave less than a tenth of what the image shows of the object is left out. index: of the
        object."""
        whole = _shown(points)
        for _ in range(2):
            if rng.uniform() < config.occluders:
                image = self._occlude(image, points, whole, index, config, rng)
        image = jitter(image, rng, config)
        if config.border > 0 and rng.uniform() < config.border:
            beyond = beyond_border(len(image), rng)
            if hide(points, beyond, whole):
                image[beyond] = 0
        return image

    def _occlude(
        self,
        image: Image,
        points: NDArray[np.float32],
        whole: int,
        index: int,
        config: AppearanceConfig,
        rng: np.random.Generator,
    ) -> Image:
        """whole: of how many cells the object was visible without occluders."""
        large = config.large > 0 and rng.uniform() < config.large
        if config.cutouts > 0 and rng.uniform() < config.cutouts:
            other = self._other(index, len(image), rng, large)
            if other is not None:
                return over(other, image) if hide(points, other[..., 3] > 127, whole) else image
        mask, texture = occluder_shape(rng, len(image), large), self.backgrounds.draw()
        return blend(texture, mask, image) if hide(points, mask > 127, whole) else image

    def _other(self, index: int, size: int, rng: np.random.Generator, large: bool) -> Image | None:
        """Any other object than `index`, turned, of 0.6 to 1.3 times its size, or larger, off the middle of a window:
        (size, size, 4), premultiplied. None where there is no other yet."""
        others = [views for k, views in self._views.items() if k != index]
        if not others:
            return None
        views = others[int(rng.integers(len(others)))]
        view = views[int(rng.integers(len(views)))]
        scales = (1.2, 2.2) if large else (0.6, 1.3)
        middle, where = (len(view) - 1) / 2, rng.uniform(0.0, 2.0 * np.pi)
        M = cv2.getRotationMatrix2D((middle, middle), rng.uniform(-180.0, 180.0), rng.uniform(*scales))
        M[:, 2] += (size - 1) / 2 - middle + rng.uniform(0.2, 0.6) * size * np.array([np.cos(where), np.sin(where)])
        return cv2.warpAffine(view, M, (size, size), flags=cv2.INTER_LINEAR)


def hide(points: NDArray[np.float32], mask: NDArray[np.bool_], whole: int) -> bool:
    """Points (L, 3) of the cells whose centre lies in the mask (S, S) become NaN; unless the object, visible in `whole`
    cells, would be visible in less than a tenth of them: then False, and all stays."""
    cell = len(mask) // math.isqrt(len(points))
    hidden = mask[cell // 2 :: cell, cell // 2 :: cell].ravel()
    if _shown(points[~hidden]) < LEAST * whole:
        return False
    points[hidden] = np.nan
    return True


def _shown(points: NDArray[np.float32]) -> int:
    """How many cells' points (L, 3) are visible."""
    return int(np.isfinite(points[:, 0]).sum())


def beyond_border(size: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(size, size): the part of a window that lies outside of the camera's image, up to 0.4 of the window's side deep
    and from any direction: the window may be turned against the image."""
    angle, depth = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(0.0, 0.4)
    v, u = np.mgrid[:size, :size] / (size - 1) - 0.5
    return u * np.cos(angle) + v * np.sin(angle) > 0.5 - depth


def over(rgba: Image, background: Image) -> Image:
    """Premultiplied (H, W, 4) over (H, W, 3)."""
    keep = cv2.cvtColor(255 - rgba[..., 3], cv2.COLOR_GRAY2RGB)
    colour = cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB)  # many times as quick as numpy's copy of three of four channels
    return cv2.add(cv2.multiply(background, keep, scale=1.0 / 255.0), colour)


def blend(image: Image, mask: Image, background: Image) -> Image:
    """image where the mask (H, W) uint8 is 255, background where it is 0."""
    m = cv2.cvtColor(mask, cv2.COLOR_GRAY2RGB)
    return cv2.add(cv2.multiply(image, m, scale=1.0 / 255.0), cv2.multiply(background, 255 - m, scale=1.0 / 255.0))
