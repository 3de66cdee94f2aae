"""What goes in and out of the estimators: Camera, Window, Detection, Visible, ObjectPose. Plain data; pixels follow
OpenCV: the centre of the top-left pixel is (0, 0)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.errors import expect
from fm_pose_core.geometry import Array, project

WIDEST = 0.04  # of the image's side: a shorter focal length would mean a view wider than 170°
LARGEST = 1e5  # pixels: no camera has a focal length or a principal point beyond
EXACT = 3, 100, 1e-6  # OpenCV's criteria: at the most 100 rounds, until less than 1e-6 pixels is missing
STEP = 1e-4  # of a direction's x and y, for its derivatives
LOOKUP_STEP = 4  # pixels between two nodes of Camera.lookup
DISTORTION_SIZES = {"plumb_bob": (0, 4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}


@dataclass(frozen=True)
class Camera:
    """Intrinsics of the image as it comes.

    K: (3, 3) pixels. width, height: pixels. distortion: (n,) OpenCV coefficients, empty for none.
    distortion_model: plumb_bob, rational_polynomial (OpenCV's pinhole models) or equidistant (OpenCV's fisheye).
    """

    K: Array
    width: int
    height: int
    distortion: Array = field(default_factory=lambda: np.zeros(0))
    distortion_model: str = "plumb_bob"

    def __post_init__(self) -> None:
        K = np.asarray(self.K, dtype=np.float64)
        expect(K.shape == (3, 3) and bool(np.isfinite(K).all()), "K", "a finite (3, 3) matrix", K.tolist())
        expect(self.width > 0 and self.height > 0, "image size", "positive", f"{self.width}x{self.height}")
        _check_intrinsics(K, self.width, self.height)
        d = np.asarray(self.distortion, dtype=np.float64).reshape(-1)
        expect(
            self.distortion_model in DISTORTION_SIZES,
            "distortion_model",
            f"one of {sorted(DISTORTION_SIZES)}",
            self.distortion_model,
        )
        expect(bool(np.isfinite(d).all()), "distortion", "finite numbers", d.tolist())
        if d.any():
            sizes = DISTORTION_SIZES[self.distortion_model]
            expect(d.size in sizes, "distortion", f"{sizes} coefficients for {self.distortion_model}", d.size)
        else:
            d = np.zeros(4 if self.distortion_model == "equidistant" and d.size else 0)  # f-theta is no pinhole
        object.__setattr__(self, "K", K)
        object.__setattr__(self, "distortion", d)

    def restricted(
        self, x_offset: int, y_offset: int, width: int, height: int, binning_x: int, binning_y: int
    ) -> "Camera":
        """Camera of the image that remains after a region of interest (in full-resolution pixels) and binning (at
        least 1 per axis), as ROS's image_geometry reads them: pixel (0, 0) keeps its centre, as in sub-sampling."""
        K = self.K.copy()
        K[0, 2] -= x_offset
        K[1, 2] -= y_offset
        # The centre of pixel (0, 0) stays at (0, 0), as ROS's image_geometry does it.
        K[0] /= binning_x
        K[1] /= binning_y
        return Camera(K, width // binning_x, height // binning_y, self.distortion, self.distortion_model)

    def rays(self, pixels: Array) -> Array:
        """(N, 2) image pixels -> (N, 3) directions in the camera frame with z = 1, distortion removed (OpenCV
        iterates)."""
        pixels = np.asarray(pixels, dtype=np.float64).reshape(-1, 2)
        if not self.distortion.size:
            xy = (pixels - self.K[:2, 2]) / np.diag(self.K)[:2]
        else:
            import cv2

            # cv2.undistortPoints stops after 5 rounds: up to a pixel off at the border of a wide lens.
            fisheye = self.distortion_model == "equidistant"
            undistort = cv2.fisheye.undistortPoints if fisheye else cv2.undistortPointsIter
            xy = undistort(pixels[:, None], self.K, self.distortion, R=None, P=None, criteria=EXACT).reshape(-1, 2)
        return np.column_stack([xy, np.ones(len(xy))])

    def pixels(self, points_camera: Array) -> Array:
        """(N, 3) camera-frame points (z > 0) -> (N, 2) image pixels, distortion applied."""
        points_camera = np.asarray(points_camera, dtype=np.float64)
        if not self.distortion.size:
            return project(self.K, points_camera)
        import cv2

        zero = np.zeros(3)
        if self.distortion_model == "equidistant":
            return cv2.fisheye.projectPoints(points_camera.reshape(-1, 1, 3), zero, zero, self.K, self.distortion)[
                0
            ].reshape(-1, 2)
        return cv2.projectPoints(points_camera, zero, zero, self.K, self.distortion)[0].reshape(-1, 2)

    def magnification(self, rays: Array) -> Array:
        """(N, 3) directions in the camera frame with z = 1 -> (N, 2, 2): the derivatives of the image's pixels by x and
        y of the direction; pixels."""
        steps = STEP * np.eye(3)[:2, None]
        beside = np.concatenate([*(rays + steps), *(rays - steps)])
        plus, minus = self.pixels(beside).reshape(2, 2, len(rays), 2)  # (by x and y, of each ray, u and v)
        return np.asarray((plus - minus).transpose(1, 2, 0) / (2 * STEP))

    def lookup(self, M: Array, size: int) -> NDArray[np.float32]:
        """Where the pixels of a square window lie in the image, (size, size, 2): pixel (u, v) of the window looks
        along M (3, 3) · (u, v, 1) in the camera frame. Computed for every fourth pixel, and in between by straight
        lines: within the image less than 0.06 pixels of the window off (tested)."""
        import cv2

        # Resized, pixel i of the nodes comes to lie at 4 i + 1.5.
        nodes = LOOKUP_STEP * np.arange(-1.0, size // LOOKUP_STEP + 2) + (LOOKUP_STEP - 1) / 2
        v, u = np.meshgrid(nodes, nodes, indexing="ij")
        rays = np.stack([u, v, np.ones_like(u)], -1).reshape(-1, 3) @ M.T
        coarse = self.pixels(rays).astype(np.float32).reshape(len(nodes), len(nodes), 2)
        fine = cv2.resize(coarse, None, fx=LOOKUP_STEP, fy=LOOKUP_STEP, interpolation=cv2.INTER_LINEAR)
        inner = slice(LOOKUP_STEP, LOOKUP_STEP + size)
        return np.ascontiguousarray(fine[inner, inner])


def _check_intrinsics(K: Array, width: int, height: int) -> None:
    """Raise InputError for a matrix (3, 3) that is no camera's."""
    focal, principal = np.diag(K)[:2], K[:2, 2]
    form = np.array([[focal[0], 0, principal[0]], [0, focal[1], principal[1]], [0, 0, 1]])
    expect(bool((form == K).all()), "K", "[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]", K.tolist())
    shortest = WIDEST * np.array([width, height])
    possible = bool((focal >= shortest).all() and (focal <= LARGEST).all())
    expect(possible, "K", f"focal lengths from {shortest.tolist()} to {LARGEST:g} pixels", focal.tolist())
    inside = bool((np.abs(principal) <= LARGEST).all())
    expect(inside, "K", f"a principal point within {LARGEST:g} pixels", principal.tolist())


@dataclass(frozen=True)
class Window:
    """Where to look: the centre (u, v) of the square window, in image pixels. Its size follows from the bundle's crop
    rule and the camera's focal length, so that the apparent size of the object keeps its metric meaning.

    object: name of the object that is expected there; empty for the only one that the bundle knows. distance: of the
    centre of its box from the camera, metres, where it is known about (as from the last image): a network that looks
    twice then looks once, at the window of its second look, and again only if that was far off. 0: unknown.
    """

    u: float
    v: float
    object: str = ""
    distance: float = 0.0

    def __post_init__(self) -> None:
        expect(bool(np.isfinite([self.u, self.v]).all()), "window", "a finite centre (u, v)", (self.u, self.v))
        known = 0.0 <= self.distance < np.inf
        expect(known, "window", "a distance in metres, or 0 for an unknown one", self.distance)


ANY_CLASS = "*"  # of a detection


@dataclass(frozen=True)
class Detection:
    """What a 2D detector says: a box with its centre (u, v) and size (width, height), pixels, and the score of each
    class that it may be."""

    u: float
    v: float
    width: float
    height: float
    scores: Mapping[str, float]

    def score(self, wanted: str) -> float | None:
        """Of the class `wanted`, or of the likeliest one for ANY_CLASS; None for a class that it is not."""
        if wanted == ANY_CLASS:
            return max(self.scores.values(), default=None)
        return self.scores.get(wanted)

    def __post_init__(self) -> None:
        numbers = (self.u, self.v, self.width, self.height, *self.scores.values())
        expect(bool(np.isfinite(numbers).all()), "detection", "a box and scores of finite numbers", numbers)


SHOWN = 0.5  # probability from which on a pixel shows the object


@dataclass(frozen=True)
class Visible:
    """Where an object can be seen, as the network says it. presence (V, n, n): the probability that a cell of each of V
    windows shows it. K (3, 3) of a window, `size` pixels wide. R_camera_window (V, 3, 3)."""

    presence: NDArray[np.float32]
    K: Array
    size: int
    R_camera_window: Array

    def mask(self, camera: Camera) -> NDArray[np.bool_]:
        """(H, W): the pixels of the camera's image that show the object, as finely as the cells tell it; the mean over
        the windows that see there."""
        found = np.zeros((camera.height, camera.width), bool)
        edge = np.linspace(-0.5, self.size - 0.5, 9)
        border = np.stack(np.meshgrid(edge, edge, [1.0]), -1).reshape(-1, 3) @ np.linalg.inv(self.K).T
        edges = np.concatenate([border @ R.T for R in self.R_camera_window])
        edges = edges[edges[:, 2] > 0]
        if not len(edges):
            return found
        pixels = camera.pixels(edges)
        size = np.array([camera.width, camera.height])
        left, top = np.clip(np.floor(pixels.min(0)), 0, size).astype(int)
        right, bottom = np.clip(np.ceil(pixels.max(0)) + 1, 0, size).astype(int)
        if right <= left or bottom <= top:
            return found
        v, u = np.mgrid[top:bottom, left:right]
        rays = camera.rays(np.stack([u, v], -1).reshape(-1, 2)).reshape(*u.shape, 3)
        found[top:bottom, left:right] = self.probability(rays) > SHOWN  # nor NaN
        return found

    def probability(self, rays: Array) -> NDArray[np.float32]:
        """(H, W): that the camera sees the object along each ray (H, W, 3) of its frame, the mean over the windows that
        see there; NaN where none does."""
        import cv2

        cells, total, count = self.presence.shape[1], np.zeros(rays.shape[:2], np.float32), np.zeros(rays.shape[:2])
        for presence, R in zip(self.presence, self.R_camera_window, strict=True):
            seen = rays @ R
            ahead = seen[..., 2] > 0
            seen[~ahead] = 0.0, 0.0, 1.0  # anything that can be projected
            at = (project(self.K, seen) + 0.5) * (cells / self.size) - 0.5
            inside = ahead & (np.abs(at - (cells - 1) / 2) <= cells / 2).all(-1)
            x, y = np.where(inside[..., None], at, 0.0).astype(np.float32).transpose(2, 0, 1)
            values = cv2.remap(np.float32(presence), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            total += np.where(inside, values, np.float32(0.0))
            count += inside
        return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


@dataclass(frozen=True)
class ObjectPose:
    """One estimate.

    T_camera_object: (4, 4), metres. corners: (8, 2) predicted projections of the box corners in image pixels, in the
    order of geometry.box_corners. reprojection_error: RMS distance in image pixels between `corners` and the corners
    of PnP's pose, which the plane and a refinement may have moved since. covariance: (6, 6) of (x, y, z, rotX, rotY,
    rotZ), metres and radians, rotations about the fixed axes of the camera frame (REP 103). score: in [0, 1], 0.5
    where a 2D projection error of 5 px is expected (pnp.score). accepted: False if a gate refused the pose; `reason`
    then says which one. visible: what of the object is seen, where there is a pose and the network tells
    (`network.surface`); else None.
    """

    T_camera_object: Array
    corners: Array
    reprojection_error: float
    covariance: Array
    score: float
    accepted: bool
    reason: str = ""
    visible: Visible | None = None
