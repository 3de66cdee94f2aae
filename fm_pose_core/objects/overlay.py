"""Draws a pose into an image: the object's box and axes, as in Fig. 5 of the paper (truth green, estimate blue)."""

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.errors import expect
from fm_pose_core.geometry import BOX_EDGES, Array, apply
from fm_pose_core.types import Camera

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]

GREEN: Colour = (0, 200, 0)
BLUE: Colour = (40, 90, 255)
AXES: tuple[Colour, ...] = ((230, 30, 30), (30, 200, 30), (50, 80, 255))  # x red, y green, z blue, as in RViz

NEAR = 0.01  # metres; what is closer to the camera's plane is cut off
SHIFT = 4  # fractional bits of OpenCV's pixel coordinates
CLOSEUP = 220  # pixels, the size of a closeup
LIMIT = 1e5  # pixels; lines that reach farther out are left out, OpenCV counts in 32 bits


def draw_pose(
    image: Image,
    camera: Camera,
    T_camera_object: Array,
    box_corners: Array,
    colour: Colour = BLUE,
    axes: bool = True,
    thickness: int = 1,
    corners: Array | None = None,
    axis_length: float | None = None,
) -> Image:
    """A copy of `image` (H, W, 3) uint8 RGB with the box, and the object's axes from its origin.

    T_camera_object: (4, 4), metres. box_corners: (8, 3) as of geometry.box_corners, object frame, metres. thickness:
    pixels. axis_length: metres, half the box by default. corners: (8, 2) image pixels, drawn as dots (what the network
    predicted). What lies behind the camera is cut off. Raises InputError for an image that isn't (H, W, 3) uint8.
    """
    import cv2

    expect(
        image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3,
        "image",
        "uint8 (H, W, 3)",
        f"{image.dtype} {image.shape}",
    )
    canvas = np.ascontiguousarray(image).copy()
    box = apply(T_camera_object, np.asarray(box_corners, dtype=np.float64))  # (8, 3) camera frame
    for a, b in BOX_EDGES:
        _segment(canvas, camera, box[a], box[b], colour, thickness)
    if axes:
        length = axis_length or 0.5 * float(np.linalg.norm(box[7] - box[0])) / np.sqrt(3.0)
        origin, *tips = apply(T_camera_object, np.vstack([np.zeros(3), length * np.eye(3)]))
        for tip, axis_colour in zip(tips, AXES, strict=True):
            _segment(canvas, camera, origin, tip, axis_colour, thickness + 1)
    for pixel in [] if corners is None else np.asarray(corners, dtype=np.float64):
        if np.isfinite(pixel).all() and np.abs(pixel).max() < LIMIT:
            cv2.circle(canvas, _fixed(pixel), (2 * thickness) << SHIFT, colour, -1, cv2.LINE_AA, SHIFT)
    return canvas


def draw_contour(
    image: Image,
    camera: Camera,
    T_camera_object: Array,
    vertices: Array,
    triangles: NDArray[np.integer],
    colour: Colour,
) -> Image:
    """A copy of `image` (H, W, 3) uint8 RGB with the outline of a mesh.

    vertices: (N, 3), object frame, metres. triangles: (M, 3); without any (M = 0) it is the vertices' convex hull. A
    mesh that reaches behind the camera is not drawn."""
    import cv2

    canvas = np.ascontiguousarray(image).copy()
    points = apply(T_camera_object, vertices)
    if points[:, 2].min() <= NEAR:
        return canvas
    pixels = camera.pixels(points)
    if not np.isfinite(pixels).all() or np.abs(pixels).max() >= LIMIT:
        return canvas
    polygons = pixels[triangles] if len(triangles) else cv2.convexHull(pixels.astype(np.float32)).swapaxes(0, 1)
    mask = np.zeros(canvas.shape[:2], np.uint8)
    for polygon in np.rint(polygons * (1 << SHIFT)).astype(np.int32):
        cv2.fillConvexPoly(mask, polygon, 255, shift=SHIFT)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, colour, 1, cv2.LINE_AA)
    return canvas


def closeup(image: Image, camera: Camera, pixels: Array, size: int = CLOSEUP) -> tuple[Image, Camera]:
    """The surroundings of (N, 2) pixels as an image of size x size, and its camera: lines drawn with it are sharp."""
    import cv2

    widest = 4.0 * max(image.shape)  # of what is beside the camera
    extent = float(np.clip(np.ptp(pixels, axis=0).max(), 4.0, widest))
    center, scale = pixels.mean(0), size / (1.7 * extent)
    shift = (size - 1) / 2 - scale * center
    M = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    view: Image = cv2.warpAffine(image, M, (size, size))
    K = np.vstack([M, [0, 0, 1]]) @ camera.K
    return view, Camera(K, size, size, camera.distortion, camera.distortion_model)


def _segment(canvas: Image, camera: Camera, a: Array, b: Array, colour: Colour, thickness: int) -> None:
    """Line between two points of the camera frame, cut at the near plane; distortion moves its ends only."""
    import cv2

    if a[2] < b[2]:
        a, b = b, a
    if not np.isfinite([a, b]).all() or a[2] <= NEAR:
        return
    if b[2] < NEAR:
        b = a + (b - a) * (a[2] - NEAR) / (a[2] - b[2])
    p, q = camera.pixels(np.array([a, b]))
    if np.isfinite([p, q]).all() and np.abs([p, q]).max() < LIMIT:
        cv2.line(canvas, _fixed(p), _fixed(q), colour, thickness, cv2.LINE_AA, SHIFT)


def _fixed(pixel: Array) -> tuple[int, int]:
    u, v = np.rint(pixel * (1 << SHIFT)).astype(int)
    return int(u), int(v)
