"""The locators of hands: what each takes from a depth map, and that the estimator asks the one it is given."""

from pathlib import Path

import numpy as np
import toy_hand

from fm_pose_core import EstimatorConfig
from fm_pose_core.hands.estimator import HandEstimator
from fm_pose_core.hands.locate import Detected, Locator, Near, Search, SearchConfig
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
    config = EstimatorConfig(backend="onnxruntime", threads=1, views=1)
    estimator = HandEstimator.load(toy_hand.write_toy_hand(tmp_path / "toy"), config)
    for locator, place in ((None, CLOSE), (Near(FAR), FAR), (Detected([detection(FAR, hand=1.0)]), FAR)):
        pose = estimator.estimate(DEPTH, CAMERA, locator)
        assert pose is not None
        np.testing.assert_allclose(pose.center[:2], place[:2], atol=0.012)
    assert estimator.estimate(DEPTH, CAMERA, Detected([])) is None
