"""The locators of hands: what each takes from a depth map, and that the estimator asks the one it is given."""

from pathlib import Path

import numpy as np
import pytest
import toy_hand

from fm_pose_core import HandEstimatorConfig
from fm_pose_core.hands.crop import HandCrop
from fm_pose_core.hands.estimator import HandEstimator
from fm_pose_core.hands.locate import Detected, Locator, Near, Search, SearchConfig, centre_of_mass
from fm_pose_core.types import Camera, Detection

CAMERA = Camera(np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]]), 320, 240)
CLOSE, FAR = np.array([0.1, -0.05, 0.6]), np.array([-0.2, 0.1, 0.9])
DEPTH = np.minimum(toy_hand.toy_depth(CAMERA, CLOSE), toy_hand.toy_depth(CAMERA, FAR, radius=0.06))


def detection(point: np.ndarray, **scores: float) -> Detection:
    u, v = CAMERA.pixels(point[None])[0]
    return Detection(u, v, 40.0, 40.0, scores)


def centers(locator: Locator) -> list[np.ndarray]:
    return [c.center for c in locator.locate(DEPTH, CAMERA)]


def test_search_takes_the_nearest_in_its_range() -> None:
    (near,), (far,) = centers(Search()), centers(Search(SearchConfig(nearest=0.75)))
    np.testing.assert_allclose([near[:2], far[:2]], [CLOSE[:2], FAR[:2]], atol=0.012)
    assert centers(Search(SearchConfig(farthest=0.3))) == []


def test_near_takes_what_is_about_the_points() -> None:
    for points in (FAR, FAR[None] + [[0.02, 0, 0], [-0.02, 0, 0]]):
        (center,) = centers(Near(points))
        np.testing.assert_allclose(center[:2], FAR[:2], atol=0.012)
    assert centers(Near(np.array([0.0, 0.0, 0.3]))) == []


def test_detected_takes_the_best_detection_of_its_class() -> None:
    hand, foot = detection(FAR, hand=0.7), detection(CLOSE, foot=0.9, hand=0.2)
    for locator, place in (
        (Detected([hand, foot], "hand"), FAR),
        (Detected([hand, foot], "foot"), CLOSE),
        (Detected([hand, foot]), CLOSE),
        (Detected([foot, hand], "hand", 0.5), FAR),
    ):
        (center,) = centers(locator)
        np.testing.assert_allclose(center[:2], place[:2], atol=0.012)
    assert centers(Detected([hand], "hand", 0.8)) == centers(Detected([hand], "cup")) == centers(Detected([])) == []
    assert centers(Detected([foot], search=SearchConfig(nearest=0.75))) == []  # in the box nothing is that far
    beside = Detection(-500.0, 900.0, 10.0, 10.0, {"hand": 1.0})
    assert centers(Detected([beside])) == []


def test_the_estimator_asks_the_locator(tmp_path: Path) -> None:
    config = HandEstimatorConfig(backend="onnxruntime", threads=1, views=1)
    estimator = HandEstimator.load(toy_hand.write_toy_hand(tmp_path / "toy"), config)
    for locator, place in ((None, CLOSE), (Near(FAR), FAR), (Detected([detection(FAR, hand=1.0)]), FAR)):
        pose = estimator.estimate(DEPTH, CAMERA, locator)
        assert pose is not None
        np.testing.assert_allclose(pose.center[:2], place[:2], atol=0.012)
    assert estimator.estimate(DEPTH, CAMERA, Detected([])) is None


# Distortion

DISTORTED = {
    "plumb_bob": np.array([-0.25, 0.06, 0.001, -0.002, 0.0]),
    "equidistant": np.array([0.05, -0.02, 0.004, 0.0]),
}


def distorted(model: str) -> Camera:
    return Camera(CAMERA.K, CAMERA.width, CAMERA.height, DISTORTED[model], model)


@pytest.mark.parametrize("model", list(DISTORTED))
def test_a_camera_with_distortion_sees_the_same_places(model: str) -> None:
    """Of a ball near the border, where the lens bends most."""
    ball, camera = np.array([0.22, -0.14, 0.6]), distorted(model)
    straight, bent = (toy_hand.toy_depth(c, ball) for c in (CAMERA, camera))
    (near,) = Search().locate(straight, CAMERA)
    for locator in (
        Search(),
        Near(ball),
        Detected([Detection(*camera.pixels(ball[None])[0], 40.0, 40.0, {"hand": 1})]),
    ):
        (hand,) = locator.locate(bent, camera)
        np.testing.assert_allclose(hand.center, near.center, atol=1.5e-3)
        (ignored,) = locator.locate(bent, CAMERA)
        assert np.linalg.norm(ignored.center - near.center) > 8e-3  # so that this test can fail
    mass = [centre_of_mass(depth, c, ball + 0.01) for depth, c in ((straight, CAMERA), (bent, camera))]
    np.testing.assert_allclose(mass[0], mass[1], atol=1.5e-3)


@pytest.mark.parametrize("model", list(DISTORTED))
def test_a_camera_with_distortion_gives_the_same_window(model: str) -> None:
    ball, camera = np.array([0.22, -0.14, 0.6]), distorted(model)
    straight, bent = (toy_hand.toy_depth(c, ball) for c in (CAMERA, camera))
    for turn in (0.0, 0.5):
        a, b = (HandCrop().cut(depth, c, ball, turn) for depth, c in ((straight, CAMERA), (bent, camera)))
        assert ((a < 1) != (b < 1)).mean() < 0.005  # beside the ball's edge
        assert np.median(np.abs(a - b)[(a < 1) & (b < 1)]) < 0.01
        ignored = HandCrop().cut(bent, CAMERA, ball, turn)
        assert ((a < 1) != (ignored < 1)).mean() > 0.025


@pytest.mark.parametrize("model", list(DISTORTED))
@pytest.mark.parametrize("views", [1, 4])
def test_a_camera_with_distortion_gives_the_same_joints(model: str, views: int, tmp_path: Path) -> None:
    ball = np.array([0.22, -0.14, 0.6])
    config = HandEstimatorConfig(backend="onnxruntime", threads=1, views=views)
    estimator = HandEstimator.load(toy_hand.write_toy_hand(tmp_path / "toy"), config)
    straight, bent = (
        estimator.estimate(toy_hand.toy_depth(camera, ball), camera) for camera in (CAMERA, distorted(model))
    )
    assert straight is not None and bent is not None
    np.testing.assert_allclose(bent.joints, straight.joints, atol=1.5e-3)
