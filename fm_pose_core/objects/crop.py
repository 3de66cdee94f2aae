"""The window that the network sees: a virtual pinhole camera that looks along the window's centre.

A rotation of the camera is an exact homography of the image, K_v R K⁻¹, so a crop made this way shows the object as a
camera that looks straight at it would, and labels stay exact. BB8 (Rad and Lepetit, ICCV 2017) cuts an axis-aligned
square instead, which agrees with this to first order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.errors import expect
from fm_pose_core.geometry import Array, exp_so3, inverse_intrinsics, project, rotation_looking_along, view_offsets
from fm_pose_core.types import Camera, Window

PATCH = 1.75  # windows across a patch


@dataclass(frozen=True)
class Crop:
    """Crop rule. size: side of the window that the network sees, pixels. focal: the virtual camera's focal length,
    pixels."""

    size: int
    focal: float

    def __post_init__(self) -> None:
        expect(self.size > 0 and self.focal > 0, "crop", "positive size and focal length", (self.size, self.focal))

    @classmethod
    def around(cls, diameter: float, nearest: float, margin: float = 1.15, size: int = 128) -> "Crop":
        """The rule whose window is `margin` times an object of `diameter` at its `nearest` distance (metres)."""
        return cls(size, size * nearest / (margin * diameter))

    def unit_distance(self, box_corners: Array) -> float:
        """At which the diagonal of a box (8, 3) would cover the whole width of the window; in the corners' unit."""
        return float(self.focal / self.size * np.linalg.norm(np.ptp(box_corners, axis=0)))

    def zoomed(self, factor: float) -> "Crop":
        """The rule of a window that is `factor` times finer, and shows as much less."""
        return Crop(self.size, self.focal * factor)

    def patch(self, finer: float = 1.0) -> "Crop":
        """The rule of a part of an image that windows can be cut from which are moved and turned, and up to `finer`
        times finer without a loss."""
        return Crop(int(self.size * PATCH * finer), self.focal * finer)

    @cached_property
    def K(self) -> Array:
        """(3, 3) intrinsics of the virtual camera."""
        middle = (self.size - 1) / 2
        K = np.array([[self.focal, 0.0, middle], [0.0, self.focal, middle], [0.0, 0.0, 1.0]])
        K.flags.writeable = False
        return K

    @cached_property
    def _K_inverse(self) -> Array:
        return inverse_intrinsics(self.K)

    def rotation(self, camera: Camera, window: Window) -> Array:
        """R_camera_window (3, 3): orientation of the virtual camera in the camera frame."""
        return rotation_looking_along(camera.rays(np.array([[window.u, window.v]]))[0])

    def views(self, count: int) -> list[Array]:
        """R_window_view (3, 3) of `count` virtual cameras about the window's, see `view_offsets`."""
        f = self.focal / self.size
        return [
            rotation_looking_along(np.array([u / f, v / f, 1.0])) @ exp_so3(np.array([0.0, 0.0, t]))
            for u, v, t in view_offsets(count)
        ]

    def cut(
        self, image: NDArray[np.uint8], camera: Camera, window: Window, view: Array | None = None
    ) -> tuple[NDArray[np.uint8], Array]:
        """Resample `image` (H, W) or (H, W, C) into the window. view: R_window_view (3, 3), for another than the
        window's own.

        Returns the window's pixels (size, size[, C]), zero outside of the image, and R_camera_window (3, 3), or
        R_camera_view.
        """
        R_camera_window = self.rotation(camera, window)
        if view is not None:
            R_camera_window = R_camera_window @ view
        return self.cut_all(image, camera, [R_camera_window])[0], R_camera_window

    def cut_all(self, image: NDArray[np.uint8], camera: Camera, rotations: Sequence[Array]) -> NDArray[np.uint8]:
        """As `cut`, the windows (N, size, size[, C]) of virtual cameras with the orientations R_camera_view (3, 3),
        which look at much the same."""
        import cv2

        fits = image.shape[:2] == (camera.height, camera.width)
        expect(
            fits, "image", f"{camera.width}x{camera.height} as the camera says", f"{image.shape[1]}x{image.shape[0]}"
        )
        image, offset, factor = self._reduced(image, camera, rotations)
        windows = np.empty((len(rotations), self.size, self.size, *image.shape[2:]), np.uint8)
        to_reduced = np.array([[1.0, 0.0, -offset[0]], [0.0, 1.0, -offset[1]], [0.0, 0.0, factor]])
        for window, R in zip(windows, rotations, strict=True):
            from_window = R @ self._K_inverse
            if camera.distortion.size:
                xy = camera.lookup(from_window, self.size)
                xy = (xy - offset.astype(np.float32)) / np.float32(factor) if factor > 1 else xy
                cv2.remap(image, xy, None, cv2.INTER_LINEAR, dst=window)
            else:
                H = to_reduced @ camera.K @ from_window  # window pixels -> image pixels
                flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
                cv2.warpPerspective(image, H, (self.size, self.size), dst=window, flags=flags)
        return windows

    def _reduced(
        self, image: NDArray[np.uint8], camera: Camera, rotations: Sequence[Array]
    ) -> tuple[NDArray[np.uint8], Array, int]:
        """The part of `image` that the windows show, halved as often as the image is finer than a window by a factor of
        two, since bilinear sampling would skip pixels: the part, the image pixel of its first one, and the factor."""
        import cv2

        levels = int(np.log2(max(1.0, camera.K[0, 0] / self.focal)) + 1e-6)
        if levels == 0:
            return image, np.zeros(2), 1
        factor, edge = 2**levels, np.array([-8.0, self.size / 2, self.size + 8.0])
        border = np.stack(np.meshgrid(edge, edge), -1).reshape(-1, 2)
        pixels = np.concatenate([self.to_image(border, camera, R) for R in rotations])
        low = (np.clip(pixels.min(0), 0, [camera.width - 1, camera.height - 1]) // factor * factor).astype(int)
        high = np.clip(pixels.max(0) + 1, low + factor, [camera.width, camera.height]).astype(int)
        part = image[low[1] : high[1], low[0] : high[0]]
        for _ in range(levels):
            part = cv2.pyrDown(part)  # pixel (u, v) of the half is (2 u, 2 v) of the whole
        return part, low.astype(np.float64), factor

    def view_to_window(self, pixels: Array, R_window_view: Array) -> Array:
        """(…, N, 2) pixels of views -> pixels of the window. R_window_view: (…, 3, 3)."""
        return project(self.K, self.rays(pixels) @ np.swapaxes(R_window_view, -1, -2))

    def to_window(self, points_camera: Array, R_camera_window: Array) -> Array:
        """(N, 3) camera-frame points -> (N, 2) window pixels."""
        return project(self.K, points_camera @ R_camera_window)

    def to_image(self, pixels: Array, camera: Camera, R_camera_window: Array) -> Array:
        """(N, 2) window pixels -> (N, 2) image pixels, distortion applied."""
        return camera.pixels(self.rays(pixels) @ R_camera_window.T)

    def rays(self, pixels: Array) -> Array:
        """(…, 2) pixels of the window -> (…, 3) directions with z = 1, window frame."""
        rays = np.ones((*pixels.shape[:-1], 3))
        rays[..., :2] = (pixels - self.K[:2, 2]) / self.focal
        return rays


@cache
def cell_middles(size: int, side: int) -> Array:
    """Middles (side², 2) of the square cells of a window, row by row, pixels."""
    middles = (np.arange(side) + 0.5) * (size / side) - 0.5
    return np.stack(np.meshgrid(middles, middles), -1).reshape(-1, 2)
