"""Where an object stands by several views together, on pictures whose truth the test makes."""

from dataclasses import replace

import cv2
import numpy as np
from rendered_bop import CAMERA, HALF, box_mesh

from fm_pose_core.geometry import Array, exp_so3, inverse, transform
from fm_pose_core.objects.alignment import Aligner, Fit, View, difference
from fm_pose_core.objects.arrangements import apart
from fm_pose_core.objects.crop import Crop
from fm_pose_core.objects.settle import COMMON_ERROR, colour_agreements, settle
from fm_pose_core.objects.viewpoints import look_at
from fm_pose_core.rendering.renderer import Renderer

DIRECTIONS = np.array([[1.0, 0.2, 0.5], [-0.1, 1.0, 0.6], [-0.7, -0.7, 0.8]])  # of the cameras, from the object
NOWHERE = np.diag(np.repeat([1.0, 1.0], 3))  # metres², radians²: as good as unknown
TRUTH = transform(exp_so3(np.array([0.1, -0.2, 0.4])), np.array([0.01, 0.02, -0.01]))  # T_world_center


def photographs(directions: Array) -> tuple[Aligner, list[View]]:
    """The box before smooth backgrounds, with noise; and what aligns it. `close` that."""
    mesh, rng = box_mesh(), np.random.default_rng(0)
    aligner = Aligner(mesh, Crop.around(2 * float(np.linalg.norm(HALF)), 0.4, 1.5, 96))
    renderer = Renderer(mesh, CAMERA.K, CAMERA.width, CAMERA.height)
    views = []
    for direction in directions:
        T_camera_world = look_at(direction / np.linalg.norm(direction), 0.4, np.zeros(3))
        rgba, _ = renderer.render(T_camera_world @ TRUTH)
        coarse = rng.integers(60, 200, (6, 8, 3)).astype(np.uint8)
        back = cv2.resize(coarse, (CAMERA.width, CAMERA.height), interpolation=cv2.INTER_CUBIC)
        image = back * (1.0 - rgba[..., 3:] / 255.0) + 0.9 * rgba[..., :3] + rng.normal(scale=4.0, size=back.shape)
        image = np.clip(cv2.GaussianBlur(image, (0, 0), 0.6), 0, 255).astype(np.uint8)
        pixels, inside, T_view_camera = aligner.patch(image, CAMERA, T_camera_world @ TRUTH)
        front = np.full(inside.shape, np.inf, np.float32)
        views.append(aligner.view(pixels, inside, T_view_camera @ T_camera_world, front))
    renderer.close()
    return aligner, views


def off(degrees: float, millimetres: float, seed: int) -> Array:
    a, b = np.random.default_rng(seed).normal(size=(2, 3))
    turn = exp_so3(np.radians(degrees) * a / np.linalg.norm(a))
    return TRUTH @ transform(turn, 1e-3 * millimetres * b / np.linalg.norm(b))


def test_several_views_tell_distance_and_size_which_one_leaves_open() -> None:
    aligner, views = photographs(DIRECTIONS)
    for seed in range(3):
        prior = Fit(off(6.0, 6.0, seed), NOWHERE, 1.05, 1.0)
        one, all_ = settle(aligner, views[:1], prior, renderings=12), settle(aligner, views, prior, renderings=12)
        assert one is not None and all_ is not None
        angle, distance = apart(all_.T_world_center, TRUTH)
        assert np.degrees(angle) < 0.8 and distance < 1e-3 and abs(all_.size - 1.0) < 0.01
        assert one.size_sigma > 5 * all_.size_sigma and abs(all_.size - 1.0) < 4 * all_.size_sigma
        e = difference(all_.T_world_center, TRUTH)
        assert e @ np.linalg.solve(all_.covariance, e) < 30.0  # chi square with 6 degrees of freedom
    aligner.close()


def test_what_all_points_have_in_common_does_not_go_away_with_more_views() -> None:
    aligner, views = photographs(DIRECTIONS[:1])
    prior = Fit(TRUTH, NOWHERE, 1.0, 1e-4)
    few, many = settle(aligner, views, prior), settle(aligner, views * 60, prior)
    assert few is not None and many is not None
    across = [float(np.sqrt(np.linalg.eigvalsh(f.covariance[:3, :3])[0])) for f in (few, many)]
    aligner.close()
    least = COMMON_ERROR * 0.4 / CAMERA.K[0, 0] / 2  # metres: half of the common error, across the line of sight
    assert across[0] > across[1] > least and across[1] > across[0] / np.sqrt(60) * 2


def test_views_that_contradict_each_other_make_a_place_less_certain() -> None:
    """One camera is 2 mm from where it is said to be."""
    aligner, views = photographs(DIRECTIONS)
    moved = transform(np.eye(3), np.array([0.002, 0.0, 0.0])) @ views[0].T_view_world
    doubtful = [replace(views[0], T_view_world=moved), *views[1:]]
    prior = Fit(TRUTH, NOWHERE, 1.0, 0.01)
    sure, unsure = settle(aligner, views, prior, renderings=12), settle(aligner, doubtful, prior, renderings=12)
    assert sure is not None and unsure is not None
    assert np.trace(unsure.covariance[:3, :3]) > 1.5 * np.trace(sure.covariance[:3, :3])
    aligner.close()


def test_what_stands_before_the_object_is_no_outline_of_it() -> None:
    """Something in the object's own colour stands before its right edge, and reaches four pixels beyond: a view that
    knows of it is not led astray, one that does not finds its outline there."""
    aligner, (view,) = photographs(DIRECTIONS[:1])
    _, depth = aligner.draw(view.T_view_world @ TRUTH, 1.0)
    rows, columns = np.nonzero(depth > 0)
    front, bins, gradients = view.front.copy(), view.bins.copy(), view.gradients.copy()
    for row in np.unique(rows):
        last = columns[rows == row].max()
        before = slice(last - 12, last + 5)
        front[row, before], bins[row, before] = 0.1, view.bins[row, last - 14]
        gradients[:, row, before] = 0.0
    unaware = replace(view, bins=bins, gradients=gradients)
    prior = Fit(TRUTH, np.diag(np.repeat([0.01**2, 0.1**2], 3)), 1.0, 0.01)
    ends = [settle(aligner, [v], prior, renderings=12) for v in (replace(unaware, front=front), unaware)]
    known, led = (apart(f.T_world_center, TRUTH)[1] for f in ends if f is not None)
    assert known < 0.006 and led > 3 * known
    aligner.close()


def test_colours_say_by_how_many_pixels_an_outline_is_off() -> None:
    aligner, views = photographs(DIRECTIONS)
    for pixels in (2.0, 4.0):
        sideways = np.array([pixels * 0.4 / aligner.crop.focal, 0.0, 0.0])
        T = inverse(views[0].T_view_world) @ transform(np.eye(3), sideways) @ views[0].T_view_world @ TRUTH
        right, wrong = colour_agreements(aligner, views[:1], [(TRUTH, 1.0), (T, 1.0)])
        assert 0.25 * pixels < right - wrong < pixels  # on the average over all directions of the outline
    aligner.close()
