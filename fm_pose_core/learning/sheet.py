"""A picture of a training batch with its labels: wrong units, mirrored hands or shifted corners are seen here first."""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fm_pose_core.contract import Contract

Image = NDArray[np.uint8]
ROWS = {"x_s": ("y_s", "T^S"), "x_r": ("y_r", "T^R"), "x_m": ("y_r", "T^M, rendered")}
TILE = 192
DOT, LINE = (255, 140, 0), (0, 200, 0)


def draw_batch(
    batch: Mapping[str, NDArray[Any]], contract: Contract, edges: Sequence[tuple[int, int]] = (), count: int = 8
) -> Image:
    """The first `count` samples of each kind in `batch` (names as in learning/loader.py), a row each, (H, W, 3) uint8
    RGB. Columns of T^R and T^M belong together. edges: pairs of points to join by lines. Points in 3D are drawn as if
    seen from afar."""
    rows = []
    for images, (labels, title) in ROWS.items():
        if images in batch:
            pairs = zip(batch[images][:count], batch[labels][:count], strict=False)
            tiles = [_tile(x, y, contract, edges) for x, y in pairs]
            tiles += [np.zeros_like(tiles[0])] * (count - len(tiles))
            cv2.putText(tiles[0], title, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 3, cv2.LINE_AA)
            cv2.putText(tiles[0], title, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
            rows.append(np.hstack(tiles))
    return np.vstack(rows)


def _pair(window: NDArray[Any]) -> Image:
    """What is seen, above what is drawn over it."""
    halves = (np.ascontiguousarray(x) for x in np.split(window, 2, axis=-1))
    return np.vstack([cv2.resize(x, (TILE, TILE), interpolation=cv2.INTER_NEAREST) for x in halves])


def _tile(window: NDArray[Any], label: NDArray[Any], contract: Contract, edges: Sequence[tuple[int, int]]) -> Image:
    if contract.channels == 6:
        return _pair(window)
    if contract.channels == 1:  # near is bright, background black
        window = np.repeat(np.uint8(120 - 110 * window) * np.uint8(window < 1), 3, -1)
    tile = cv2.resize(np.ascontiguousarray(window), (TILE, TILE), interpolation=cv2.INTER_NEAREST)
    answer = contract.outputs[0]
    label = np.asarray(label, dtype=np.float64)
    label = label[0] if label.ndim > 2 else label  # the first of equivalent ones
    scaled = (label[~np.isnan(label[:, 0]), :2] - answer.shift) / answer.scale
    points = [(round(u), round(v)) for u, v in (scaled + 1) * TILE / 2 - 0.5]
    for a, b in edges:
        cv2.line(tile, points[a], points[b], LINE, 1, cv2.LINE_AA)
    for point in points:
        cv2.circle(tile, point, 2, DOT, -1, cv2.LINE_AA)
    return tile
