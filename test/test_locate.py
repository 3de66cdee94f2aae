"""Locators: where they send the estimator, and what counts as lost."""

import numpy as np
import pytest

from fm_pose_core.errors import InputError
from fm_pose_core.geometry import transform
from fm_pose_core.objects.locate import Detected, Fixed, InTurn, Locator, Tracked
from fm_pose_core.types import ANY_CLASS, Camera, Detection, Window

CAMERA = Camera(np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]]), 320, 240)
IMAGE = np.zeros((240, 320, 3), np.uint8)
CENTER = np.array([0.01, 0.02, 0.03])


def at(*position: float) -> np.ndarray:
    """The pose, turned about z, that has the box's centre at `position`."""
    R = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    return transform(R, np.array(position) - R @ CENTER)


def test_a_fixed_region_is_the_middle_where_nothing_else_is_said() -> None:
    assert Fixed("duck").locate(IMAGE, CAMERA) == [Window(159.5, 119.5, "duck")]
    assert Fixed("duck", 20.0).locate(IMAGE, CAMERA) == [Window(20.0, 119.5, "duck")]
    assert Fixed("duck", v=0.0).locate(IMAGE, CAMERA) == [Window(159.5, 0.0, "duck")]


FOUND = (
    Detection(10.0, 11.0, 5.0, 5.0, {"duck": 0.3, "cat": 0.8}),
    Detection(20.0, 21.0, 5.0, 5.0, {"duck": 0.9}),
    Detection(30.0, 31.0, 5.0, 5.0, {"cat": 0.4}),
    Detection(40.0, 41.0, 5.0, 5.0, {}),
    Detection(50.0, 51.0, 5.0, 5.0, {"duck": 0.5}),
)


@pytest.mark.parametrize(
    ("wanted", "min_score", "count", "expected"),
    [
        ("duck", 0.0, 1, [20.0]),
        ("duck", 0.0, 10, [20.0, 50.0, 10.0]),
        ("duck", 0.5, 10, [20.0, 50.0]),
        ("cat", 0.0, 10, [10.0, 30.0]),
        (ANY_CLASS, 0.45, 10, [20.0, 10.0, 50.0]),
        ("dog", 0.0, 10, []),
    ],
)
def test_detections_of_the_wanted_class_best_first(
    wanted: str, min_score: float, count: int, expected: list[float]
) -> None:
    windows = Detected("toy", FOUND, wanted, min_score, count).locate(IMAGE, CAMERA)
    assert windows == [Window(u, u + 1, "toy") for u in expected]


@pytest.mark.parametrize("numbers", [(np.nan, 0.0, 5.0, 5.0, 0.9), (0.0, 0.0, np.inf, 5.0, 0.9), (0, 0, 5, 5, np.nan)])
def test_a_detection_without_a_place_is_an_error(numbers: tuple[float, ...]) -> None:
    *box, score = numbers
    with pytest.raises(InputError, match="detection: expected a box and scores of finite numbers"):
        Detection(*box, {"duck": score})


def test_tracking_looks_around_the_last_poses_and_tells_which_are_lost() -> None:
    behind, left, edge = at(0.0, 0.0, -0.5), at(-0.3, 0.0, 0.5), at(-0.5 * 160.5 / 300, 0.0, 0.5)
    locator = Tracked("duck", CENTER, [at(0.1, 0.0, 0.5), behind, left, edge])
    first, *lost, last = locator.around(CAMERA)
    assert first is not None and last is not None and lost == [None, None]
    np.testing.assert_allclose([first.u, first.v, last.u, last.v], [220.0, 120.0, -0.5, 120.0], atol=1e-9)
    assert locator.locate(IMAGE, CAMERA) == [first, last] and first.object == "duck"
    assert first.distance == pytest.approx(np.hypot(0.1, 0.5))  # which saves the first of two looks


def test_tracking_counts_with_the_distortion() -> None:
    bent = Camera(CAMERA.K, 320, 240, np.array([-0.3, 0.1, 0.0, 0.0]))
    (window,) = Tracked("duck", CENTER, [at(0.2, 0.1, 0.5)]).locate(IMAGE, bent)
    np.testing.assert_allclose([window.u, window.v], bent.pixels(np.array([[0.2, 0.1, 0.5]]))[0])


def test_further_windows_only_while_too_few_are_tracked() -> None:
    tracked, middle = Tracked("duck", CENTER, [at(0.1, 0.0, 0.5)]), Fixed("duck")
    both: Locator = InTurn(tracked, middle, 2)
    assert both.locate(IMAGE, CAMERA) == tracked.locate(IMAGE, CAMERA) + middle.locate(IMAGE, CAMERA)
    assert InTurn(tracked, middle, 1).locate(IMAGE, CAMERA) == tracked.locate(IMAGE, CAMERA)
