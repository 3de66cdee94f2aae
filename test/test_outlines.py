"""Outlines by the colours on both sides, on pictures whose truth the test makes."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fm_pose_core.objects.outlines import Found, agreement, colour_bins, find_outline, likelihood_ratio, outline_of

SIDE, RADIUS, MIDDLE = 128, 30.0, np.array([63.5, 63.5])


def disc(middle: NDArray[np.float64] = MIDDLE) -> NDArray[np.float32]:
    """The depth of a disc: one metre."""
    v, u = np.mgrid[:SIDE, :SIDE]
    return np.float32(np.hypot(u - middle[0], v - middle[1]) < RADIUS)


def photograph(shape: NDArray[np.float32], seed: int = 0) -> NDArray[np.uint8]:
    """Orange, before green and grey stripes with edges that are stronger than its own."""
    rng = np.random.default_rng(seed)
    v, u = np.mgrid[:SIDE, :SIDE]
    stripes = ((u + v) // 5 % 2)[..., None] * np.array([60, 160, 60]) + 40
    soft = cv2.GaussianBlur(shape, (0, 0), 0.8)[..., None]
    image = soft * np.array([200, 110, 40]) + (1 - soft) * stripes
    return np.clip(image + rng.normal(scale=5.0, size=image.shape), 0, 255).astype(np.uint8)


def found(image: NDArray[np.uint8], drawn: NDArray[np.float32]) -> tuple[Found, NDArray[np.float64]]:
    """The outline of what is drawn, and its normals."""
    outline = outline_of(drawn, np.zeros((SIDE, SIDE), bool))
    assert outline is not None
    ratio = likelihood_ratio(colour_bins(image, np.ones((SIDE, SIDE), bool)), outline.shape, 3)
    grey = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.0).mean(-1)
    strength = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0) / 8, cv2.Sobel(grey, cv2.CV_32F, 0, 1) / 8)
    return find_outline(ratio, strength, outline.pixels, outline.normals), outline.normals


def test_the_outline_of_a_drawn_shape_is_finer_than_a_pixel() -> None:
    outline = outline_of(disc(), np.zeros((SIDE, SIDE), bool))
    assert outline is not None
    away = outline.pixels - MIDDLE
    radii = np.linalg.norm(away, axis=1)
    assert np.abs(radii - RADIUS).max() < 0.5 and abs(radii.mean() - RADIUS) < 0.15
    assert ((away / radii[:, None]) * outline.normals).sum(1).min() > 0.97  # outwards
    assert outline_of(np.zeros((SIDE, SIDE), np.float32), np.zeros((SIDE, SIDE), bool)) is None


@pytest.mark.parametrize("shift", [(0.0, 0.0), (2.5, -1.0), (-2.0, 2.0)])
def test_colours_say_where_the_outline_is(shift: tuple[float, float]) -> None:
    """Between stripes whose edges would lead astray."""
    there, normals = found(photograph(disc(MIDDLE + shift)), disc())
    assert there.seen.mean() > 0.9
    errors = there.distances - normals @ np.array(shift)
    assert abs(np.median(errors[there.seen])) < 0.25 and np.abs(errors[there.seen]).mean() < 0.6
    squares = np.square(errors[there.seen]) / there.variances[there.seen]
    assert 0.02 < squares.mean() < 2.0  # they are as exact as they say


def test_what_hides_the_object_is_not_its_outline() -> None:
    image = photograph(disc())
    image[:, :55] = 40, 60, 200  # something blue stands before it
    there, normals = found(image, disc())
    hidden = (MIDDLE + RADIUS * normals)[:, 0] < 48
    assert there.seen[hidden].mean() < 0.1 < 0.8 < there.seen[normals[:, 0] > 0].mean()


def test_an_object_in_the_colours_of_its_surroundings_has_no_outline() -> None:
    noise = np.random.default_rng(1).normal(128.0, 20.0, (SIDE, SIDE, 3))
    there, _ = found(np.clip(noise, 0, 255).astype(np.uint8), disc())
    assert there.seen.mean() < 0.1


def test_nothing_is_known_outside_of_the_cameras_image() -> None:
    inside = np.ones((SIDE, SIDE), bool)
    inside[:40] = False
    bins = colour_bins(photograph(disc()), inside)
    assert (bins[:40] == -1).all() and (bins[40:] >= 0).all()
    ratio = likelihood_ratio(bins, disc() > 0, 3)
    assert (ratio[:40] == 0).all() and np.median(ratio[60:68, 60:68]) > 1.0 > -1.0 > np.median(ratio[110:])


def test_of_two_shapes_the_true_one_agrees_better_with_the_colours() -> None:
    truth = disc(MIDDLE + np.array([3.0, 0.0])) > 0
    ratio = likelihood_ratio(colour_bins(photograph(np.float32(truth)), np.ones((SIDE, SIDE), bool)), disc() > 0, 3)
    assert agreement(ratio, truth) > agreement(ratio, disc() > 0)
