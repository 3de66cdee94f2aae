"""The picture of a training batch: each label stands where the image shows it."""

import numpy as np

from fm_pose_core.contract import hand_contract, object_contract
from fm_pose_core.learning.sheet import DOT, TILE, draw_batch


def reddish(picture: np.ndarray) -> np.ndarray:
    """Pixels of the dots' colour, (N, 2) as u, v."""
    return np.argwhere((np.abs(picture.astype(int) - DOT) < 30).all(-1))[:, ::-1]


def test_labels_stand_where_they_are() -> None:
    corners = np.full((1, 8, 2), 20.0, np.float32)
    corners[0, 7] = [63.5, 31.5]  # window pixels, of 128
    batch = {"x_s": np.zeros((1, 128, 128, 3), np.uint8), "y_s": corners}
    picture = draw_batch(batch, object_contract(128), count=2)
    assert picture.shape == (TILE, 2 * TILE, 3) and not picture[:, TILE:].any()  # room for the second that is not there
    found = reddish(picture)
    for u, v in ((20.0, 20.0), (63.5, 31.5)):
        place = (np.array([u, v]) + 0.5) * TILE / 128 - 0.5
        assert np.abs(found - place).max(1).min() <= 1.0

    joints = np.zeros((2, 14, 3), np.float32)
    joints[1, 0] = [0.075, -0.075, 0.02]  # metres, of a cube of 0.3
    batch = {
        "x_r": np.ones((2, 128, 128, 1), np.float32),
        "x_m": np.full((1, 128, 128, 1), -0.5, np.float32),
        "y_r": joints,
    }
    picture = draw_batch(batch, hand_contract(14, 128, 0.3), count=2)
    assert picture.shape == (2 * TILE, 2 * TILE, 3)  # a row of T^R, a row of renderings with one of two
    assert np.abs(reddish(picture[:TILE, TILE:]) - [0.75 * TILE - 0.5, 0.25 * TILE - 0.5]).max(1).min() <= 1.0
    assert picture[TILE + 40, 40].tolist() == [175] * 3 and not picture[TILE:, TILE:].any()  # near is bright
