"""What of an object is seen: from the cells of windows to the pixels of the camera."""

import numpy as np
import pytest

from fm_pose_core.geometry import Array
from fm_pose_core.objects.crop import Crop
from fm_pose_core.types import Camera, Visible, Window

K = np.array([[600.0, 0.0, 320.0], [0.0, 590.0, 240.0], [0.0, 0.0, 1.0]])
CAMERAS = {
    "ideal": Camera(K, 640, 480),
    "plumb_bob": Camera(K, 640, 480, np.array([-0.25, 0.08, 0.001, -0.0005, 0.0])),
    "fisheye": Camera(K * [[0.6], [0.6], [1.0]], 640, 480, np.array([0.02, -0.01, 0.003, 0.0]), "equidistant"),
}
CROP, CELLS = Crop(128, 700.0), 16
ANGLE = np.radians(3.0)  # of a ball's outline about the line of sight


def near(rays: Array, axis: Array) -> np.ndarray:
    return rays @ axis / np.linalg.norm(rays, axis=-1) > np.cos(ANGLE)


def ball(camera: Camera, window: Window, views: int) -> tuple[Visible, Array]:
    """As seen in the middle of a window, and its direction."""
    R = CROP.rotation(camera, window)
    turned = R @ np.array(CROP.views(views))
    centres = (np.arange(CELLS) + 0.5) * (CROP.size / CELLS) - 0.5
    pixels = np.stack([*np.meshgrid(centres, centres), np.ones((CELLS, CELLS))], -1)
    rays = pixels @ np.linalg.inv(CROP.K).T
    presence = np.stack([near(rays @ T.T, R[:, 2]) for T in turned]).astype(np.float32)
    return Visible(presence, CROP.K, CROP.size, turned), R[:, 2]


@pytest.mark.parametrize("name", CAMERAS)
@pytest.mark.parametrize("where", [(320.0, 240.0), (250.0, 130.0), (8.0, 240.0), (400.0, 476.0)])
@pytest.mark.parametrize("views", [1, 4])
def test_the_mask_is_where_the_ball_is(name: str, where: tuple[float, float], views: int) -> None:
    camera = CAMERAS[name]
    visible, axis = ball(camera, Window(*where), views)
    v, u = np.mgrid[: camera.height, : camera.width]
    truth = near(camera.rays(np.stack([u, v], -1).reshape(-1, 2)), axis).reshape(u.shape)
    mask = visible.mask(camera)
    assert mask.shape == truth.shape and mask.dtype == bool
    assert (mask & truth).sum() / (mask | truth).sum() > 0.87  # a cell is a sixth of the ball


def test_what_no_window_shows_is_not_seen() -> None:
    visible, _ = ball(CAMERAS["ideal"], Window(-300.0, 240.0), 1)
    assert not visible.mask(CAMERAS["ideal"]).any()
    nothing = Visible(np.zeros((1, 16, 16), np.float32), CROP.K, CROP.size, np.eye(3)[None])
    assert not nothing.mask(CAMERAS["ideal"]).any()
