"""Random backgrounds: crops of the images of a folder, or procedural ones where no folder is given."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fm_pose_core.errors import expect
from fm_pose_core.files import read_image

Image = NDArray[np.uint8]
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".webp")


class Backgrounds:
    """Endless `size` × `size` RGB backgrounds: each a random rotation, scale, flip and gain of a part of a source
    image.

    images: photographs (H, W, 3) uint8 to cut from; procedural: share of backgrounds made by `procedural_image`
    (all of them where there are no photographs), from a bank that is renewed while it is used.
    """

    def __init__(
        self, images: list[Image], size: int, rng: np.random.Generator, procedural: float = 0.0, bank: int = 64
    ) -> None:
        self._images, self._size, self._rng = [_at_least(image, 2 * size) for image in images], size, rng
        self._procedural = procedural if images else 1.0
        self._bank = [procedural_image(rng, 2 * size) for _ in range(bank)] if self._procedural > 0 else []

    def draw(self) -> Image:
        """(size, size, 3) uint8 RGB."""
        rng, size = self._rng, self._size
        if rng.uniform() < self._procedural:
            index = int(rng.integers(len(self._bank)))
            if rng.uniform() < 0.02:
                self._bank[index] = procedural_image(rng, 2 * size)
            source = self._bank[index]
        else:
            source = self._images[int(rng.integers(len(self._images)))]
        height, width = source.shape[:2]
        scale, angle = rng.uniform(0.6, 1.6), rng.uniform(-np.pi, np.pi)
        c, s = np.cos(angle) / scale, np.sin(angle) / scale
        cx, cy = rng.uniform(0.25, 0.75) * width, rng.uniform(0.25, 0.75) * height
        half = size / 2
        M = np.array([[c, -s, cx - c * half + s * half], [s, c, cy - s * half - c * half]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        image = cv2.warpAffine(source, M, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT)
        return cv2.convertScaleAbs(image, alpha=rng.uniform(0.7, 1.2))


def read_folder(folder: str | Path, at_most: int = 400) -> list[Image]:
    """Up to `at_most` images of `folder` and its subfolders, evenly chosen. Raises InputError if it holds none."""
    folder = Path(folder)
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES) if folder.is_dir() else []
    expect(bool(paths), str(folder), f"a folder with images ({', '.join(_SUFFIXES)})", "none")
    return [_at_most(read_image(p), 800) for p in paths[:: max(1, len(paths) // at_most)][:at_most]]


def procedural_image(rng: np.random.Generator, size: int) -> Image:
    """(size, size, 3) uint8: smooth colour noise at several scales, with random shapes and some grain."""
    image = np.zeros((size, size, 3), np.float32)
    for octave in (2, 4, 9, 24, 64):
        noise = rng.normal(size=(octave, octave, 3)).astype(np.float32) * rng.uniform(0.2, 1.0) / np.sqrt(octave)
        image += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    image = image * 90.0 + rng.uniform(30.0, 220.0, 3).astype(np.float32)
    canvas = np.clip(image, 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(3, 25))):
        _draw_shape(canvas, rng)
    if rng.uniform() < 0.5:
        canvas = cv2.GaussianBlur(canvas, (0, 0), float(rng.uniform(0.4, 2.5)))
    grain = rng.normal(scale=rng.uniform(0.5, 8.0), size=canvas.shape).astype(np.float32)
    return np.clip(canvas + grain, 0, 255).astype(np.uint8)


def _draw_shape(canvas: Image, rng: np.random.Generator) -> None:
    """An ellipse, a polygon, a line or a chessboard, drawn into the square `canvas`."""
    size = len(canvas)
    colour = tuple(int(x) for x in rng.integers(0, 256, 3))
    x, y, r = (int(v) for v in (*rng.integers(0, size, 2), rng.integers(3, size // 3)))
    kind = rng.integers(4)
    if kind == 0:
        axes = (r, int(r * rng.uniform(0.3, 1.0)) + 1)
        cv2.ellipse(canvas, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    elif kind == 1:
        polygon = (np.array([x, y]) + rng.normal(scale=r, size=(int(rng.integers(3, 7)), 2))).astype(np.int32)
        cv2.fillPoly(canvas, [polygon], colour, cv2.LINE_AA)
    elif kind == 2:
        end = (int(rng.integers(0, size)), int(rng.integers(0, size)))
        cv2.line(canvas, (x, y), end, colour, int(rng.integers(1, 12)), cv2.LINE_AA)
    else:
        step, w = int(rng.integers(4, 24)), int(r * rng.uniform(0.3, 1.0)) + 1
        patch = canvas[max(0, y - w) : y + w, max(0, x - r) : x + r]
        rows, columns = np.mgrid[: patch.shape[0], : patch.shape[1]]
        patch[(rows // step + columns // step) % 2 == 0] = colour


def _at_most(image: Image, size: int) -> Image:
    factor = min(1.0, size / max(image.shape[:2]))
    return image if factor == 1.0 else cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


def _at_least(image: Image, size: int) -> Image:
    factor = max(1.0, size / min(image.shape[:2]))
    return image if factor == 1.0 else cv2.resize(image, None, fx=factor, fy=factor)
