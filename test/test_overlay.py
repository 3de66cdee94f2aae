import numpy as np
import pytest

from fm_pose_core.errors import InputError
from fm_pose_core.geometry import apply, box_corners, transform
from fm_pose_core.objects.overlay import BLUE, draw_pose
from fm_pose_core.types import Camera

CAMERA = Camera(np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]]), 320, 240)
BOX = box_corners(np.array([-0.05, -0.04, -0.03]), np.array([0.05, 0.04, 0.03]))
BLACK = np.zeros((240, 320, 3), np.uint8)


def test_the_box_is_drawn_where_it_projects() -> None:
    T = transform(np.eye(3), np.array([0.02, -0.03, 0.6]))
    drawn = draw_pose(BLACK, CAMERA, T, BOX, axes=False)
    assert not BLACK.any()  # the input stays
    v, u = np.nonzero(drawn.any(-1))
    expected = CAMERA.pixels(apply(T, BOX))
    np.testing.assert_allclose([u.min(), v.min(), u.max(), v.max()], [*expected.min(0), *expected.max(0)], atol=1.5)
    assert (drawn[..., 2] >= drawn[..., 0]).all() and drawn[..., 2].max() == BLUE[2]


def test_axes_and_dots() -> None:
    T = transform(np.eye(3), np.array([0.0, 0.0, 0.6]))
    drawn = draw_pose(BLACK, CAMERA, T, BOX, corners=np.array([[20.0, 30.0], [np.nan, 0.0], [1e9, 0.0]]))
    assert drawn[120, 170, 0] > 200 and drawn[130, 160, 1] > 150  # x to the right is red, y down is green
    assert tuple(drawn[30, 20]) == BLUE


@pytest.mark.parametrize("z", [0.0, 0.02, -1.0, np.nan])
def test_what_lies_behind_the_camera_is_cut_off(z: float) -> None:
    drawn = draw_pose(BLACK, CAMERA, transform(np.eye(3), np.array([0.0, 0.0, z])), BOX)
    assert drawn.any() == (z in (0.0, 0.02))


@pytest.mark.parametrize("image", [BLACK[..., 0], BLACK.astype(np.float32), BLACK[..., :2]])
def test_bad_images_are_named(image: np.ndarray) -> None:
    with pytest.raises(InputError, match="image: expected uint8"):
        draw_pose(image, CAMERA, np.eye(4), BOX)
