"""Objects on one plane: what the others tell of an object, on scenes whose truth the test makes."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import toy_bundle as toy

from fm_pose_core.config import EstimatorConfig
from fm_pose_core.errors import InputError
from fm_pose_core.geometry import Array, box_corners, exp_so3, inverse, log_so3, transform
from fm_pose_core.objects.bundle import ObjectBundle
from fm_pose_core.objects.estimator import PoseEstimator
from fm_pose_core.objects.refine import Look, Solution
from fm_pose_core.objects.support import Stance, Standable, alike, plane_beneath, stand, supported
from fm_pose_core.objects.viewpoints import look_at
from fm_pose_core.types import Camera, Window

CAMERA = Camera(np.array([[600.0, 0.0, 320.0], [0.0, 600.0, 240.0], [0.0, 0.0, 1.0]]), 640, 480)
SIGMA = np.repeat([0.004, 0.004, 0.02, np.radians(4.0)], [1, 1, 1, 3])  # of a pose: metres, radians
COVARIANCE = np.diag(np.square(SIGMA))
TILT, LIFT = np.radians(1.0), 0.002
HALF_TURN = np.diag([-1.0, -1.0, 1.0, 1.0])
BOX = box_corners(np.full(3, -0.04), np.full(3, 0.04))


def turned_up(up: Array, rng: np.random.Generator) -> Array:
    """A random rotation (3, 3) that turns `up` onto the z axis."""
    a = np.cross(up, rng.normal(size=3))
    a /= np.linalg.norm(a)
    R = np.stack([a, np.cross(up, a), up])
    return exp_so3(np.array([0.0, 0.0, rng.uniform(0.0, 6.0)])) @ R


def scene(
    rng: np.random.Generator, count: int, T_camera_world: Array | None = None
) -> tuple[list[Array], list[Stance]]:
    """True poses of objects that stand on the world's plane z = 0, each in its own way, seen from 0.7 m; and how they
    stand."""
    if T_camera_world is None:
        T_camera_world = look_at(np.array([0.6, -0.3, 0.7]) / np.linalg.norm([0.6, -0.3, 0.7]), 0.7, np.zeros(3))
    poses, stances = [], []
    for _ in range(count):
        up = rng.normal(size=3)
        up /= np.linalg.norm(up)
        height = rng.uniform(0.02, 0.1)
        at = np.array([*rng.uniform(-0.2, 0.2, 2), height + rng.normal(scale=LIFT)])
        wobble = exp_so3(np.array([*rng.normal(scale=TILT, size=2), 0.0]))
        poses.append(T_camera_world @ transform(wobble @ turned_up(up, rng), at))
        stances.append(Stance(tuple(up.tolist()), height, TILT, LIFT))
    return poses, stances


def disturbed(T: Array, rng: np.random.Generator) -> Array:
    e = rng.normal(scale=SIGMA)
    found = T.copy()
    found[:3, :3] = exp_so3(e[3:]) @ T[:3, :3]
    found[:3, 3] += e[:3]
    return found


def error(T: Array, truth: Array) -> Array:
    """(6,) metres and radians, as the covariance has it."""
    return np.concatenate([truth[:3, 3] - T[:3, 3], log_so3(truth[:3, :3] @ T[:3, :3].T)])


def stood(poses: list[Array], ways: list[list[Stance]]) -> tuple[Array, Array, Array]:
    found = stand(np.stack(poses), np.repeat(COVARIANCE[None], len(poses), 0), ways)
    return found.T_camera_object, found.covariance, found.stands


def test_poses_become_better_and_their_covariance_says_by_how_much() -> None:
    rng = np.random.default_rng(0)
    before, after, squares, told = [], [], [], []
    for _ in range(60):
        truths, stances = scene(rng, 7)
        poses = [disturbed(T, rng) for T in truths]
        found, covariance, stands = stood(poses, [[x] for x in stances])
        assert stands.sum() >= 6
        before += [error(T, truth) for T, truth in zip(poses, truths, strict=True)]
        for T, C, truth in zip(found[stands], covariance[stands], np.stack(truths)[stands], strict=True):
            after.append(error(T, truth))
            squares.append(after[-1] @ np.linalg.solve(C, after[-1]))
            told.append(np.trace(C[3:, 3:]))
    old, new = (np.sqrt(np.square(x).mean(0)) for x in (before, after))
    np.testing.assert_allclose(old, SIGMA, rtol=0.2)
    assert np.linalg.norm(new[3:]) < 0.75 * np.linalg.norm(old[3:])  # two of three angles; the third stays open
    assert new[2] < 0.6 * old[2]
    assert 0.8 < np.mean(squares) / 6 < 1.25  # χ² with 6 degrees of freedom
    assert np.mean(told) == pytest.approx(np.square(new[3:]).sum(), rel=0.25)


def test_what_does_not_stand_there_stays_and_spoils_nothing() -> None:
    rng = np.random.default_rng(1)
    for lifted in (True, False):
        truths, stances = scene(rng, 6)
        ways = [[x] for x in stances]
        up = truths[0][:3, :3] @ np.array(stances[0].up)
        moved = truths[2].copy()
        if lifted:
            moved[:3, 3] += 0.15 * up
        else:
            moved[:3, :3] = exp_so3(0.7 * truths[2][:3, 0]) @ moved[:3, :3]
        poses = [disturbed(T, rng) for T in truths]
        poses[2] = moved
        found, _, stands = stood(poses, ways)
        assert stands.tolist() == [True, True, False, True, True, True]
        np.testing.assert_array_equal(found[2], moved)
        rest = [0, 1, 3, 4, 5]
        without, _, _ = stood([poses[i] for i in rest], [ways[i] for i in rest])
        np.testing.assert_allclose(found[rest], without, atol=2e-3)


def test_two_objects_make_no_plane_nor_do_three_of_which_one_does_not_agree() -> None:
    rng = np.random.default_rng(2)
    truths, stances = scene(rng, 3)
    poses = [disturbed(T, rng) for T in truths]
    found, _, stands = stood(poses[:2], [[x] for x in stances[:2]])
    assert not stands.any() and np.array_equal(found, poses[:2])
    poses[0][:3, 3] -= 0.3 * truths[0][:3, :3] @ np.array(stances[0].up)
    found, covariance, stands = stood(poses, [[x] for x in stances])
    assert not stands.any() and np.array_equal(found, poses)
    assert np.array_equal(covariance, np.repeat(COVARIANCE[None], 3, 0))


def test_an_object_stands_in_the_way_that_fits_and_symmetric_poses_are_alike() -> None:
    rng = np.random.default_rng(3)
    truths, stances = scene(rng, 6)
    other = replace(stances[1], up=tuple((-np.array(stances[1].up)).tolist()), height=0.3)
    shifted = HALF_TURN.copy()
    shifted[:3, 3] = 0.01, -0.02, 0.005
    poses = [disturbed(T, rng) for T in truths]
    poses[4] = poses[4] @ shifted  # looks the same
    ways = [[x] for x in stances]
    plain, _, _ = stood([*poses[:4], poses[4] @ inverse(shifted), poses[5]], ways)
    ways[1], ways[4] = [other, stances[1]], alike([stances[4]], [shifted])
    found, _, stands = stood(poses, ways)
    assert stands.all()
    # The covariance is about the frame's origin, which is not the same point in both.
    np.testing.assert_allclose(found[1], plain[1], atol=2e-3)
    np.testing.assert_allclose(found[4] @ inverse(shifted), plain[4], atol=5e-3)
    assert np.abs(plain[4] - poses[4] @ inverse(shifted)).max() > 0.02  # it was moved by more


def test_the_plane_is_found() -> None:
    rng = np.random.default_rng(4)
    T_camera_world = look_at(np.array([0.1, 0.7, 0.7]) / np.linalg.norm([0.1, 0.7, 0.7]), 0.9, np.zeros(3))
    truths, stances = scene(rng, 8, T_camera_world)
    normal, offset = plane_beneath(np.stack(truths), np.repeat(COVARIANCE[None], 8, 0), [[x] for x in stances])
    assert np.degrees(np.arccos(normal @ T_camera_world[:3, 2])) < 1.0
    assert offset + normal @ T_camera_world[:3, 3] == pytest.approx(0.0, abs=0.003)


def test_solutions_without_a_pose_or_a_stance_are_left_as_they_are() -> None:
    rng = np.random.default_rng(5)
    truths, stances = scene(rng, 6)
    solutions = [Solution(disturbed(T, rng), np.zeros((8, 2)), 1.0, COVARIANCE, 90.0) for T in truths]
    solutions[1] = replace(solutions[1], reason="no pose")
    solutions[3] = replace(solutions[3], covariance=np.full((6, 6), np.inf))
    ways = [[x] for x in stances]
    ways[4] = []
    standing = [Standable(str(i), BOX, x) for i, x in enumerate(ways)]
    found = supported(solutions, standing, CAMERA)
    assert [a is b for a, b in zip(found, solutions, strict=True)] == [False, True, False, True, True, False]
    for new, old in zip(found, solutions, strict=True):
        if new is not old:
            assert 1.0 < new.expected_error < 20.0
            assert np.trace(new.covariance) < np.trace(old.covariance)
    few = supported(solutions[:2], standing[:2], CAMERA)
    assert few[0] is solutions[0] and few[1] is solutions[1]


def test_one_thing_seen_three_times_is_no_evidence() -> None:
    """Windows of one class on the same place; of two places they are two things."""
    rng = np.random.default_rng(6)
    truths, stances = scene(rng, 2)
    plain = [Solution(disturbed(T, rng), np.zeros((8, 2)), 1.0, COVARIANCE, 90.0) for T in truths]
    again = [replace(plain[0], expected_error=e) for e in (80.0, 95.0)]
    objects = [Standable(k, BOX, [stances[i]]) for k, i in (("a", 0), ("b", 1), ("a", 0), ("a", 0))]
    found = supported([*plain, *again], objects, CAMERA)
    assert all(a is b for a, b in zip(found, [*plain, *again], strict=True))
    along = np.cross(truths[0][:3, :3] @ np.array(stances[0].up), [1.0, 0.0, 0.0])
    aside = truths[0].copy()
    aside[:3, 3] += 0.12 * along / np.linalg.norm(along)
    third = replace(plain[0], T_camera_object=aside)
    found = supported([*plain, third], objects[:3], CAMERA)
    assert all(a is not b for a, b in zip(found, [*plain, third], strict=True))


def test_poses_that_say_nothing_are_no_evidence() -> None:
    rng = np.random.default_rng(7)
    truths, stances = scene(rng, 4)
    poses, ways = np.stack([disturbed(T, rng) for T in truths]), [[x] for x in stances]
    vague = np.stack([COVARIANCE, COVARIANCE, 100 * COVARIANCE, 100 * COVARIANCE])
    assert not stand(poses, vague, ways).stands[:2].any()
    one_more = np.stack([COVARIANCE, COVARIANCE, COVARIANCE, 100 * COVARIANCE])
    assert stand(poses, one_more, ways).stands.all()  # what is vague profits, too


def test_ways_to_stand_are_told_apart_by_their_height_and_counted_once() -> None:
    rng = np.random.default_rng(8)
    truths, stances = scene(rng, 5)
    higher = replace(stances[0], height=stances[0].height + 0.2)
    ways = [[x] for x in stances]
    ways[0] = [higher, stances[0]]
    assert stood([disturbed(T, rng) for T in truths], ways)[2][0]
    about_z = [transform(exp_so3(np.array([0.0, 0.0, a])), np.zeros(3)) for a in np.arange(0.1, 6.2, 0.1)]
    assert len(alike([Stance((0.0, 0.0, 1.0), 0.1, TILT, LIFT)], about_z)) == 1
    lying = alike([Stance((1.0, 0.0, 0.0), 0.1, TILT, LIFT)], about_z)
    assert 50 < len(lying) <= 64
    found = stand(np.stack(truths), np.repeat(COVARIANCE[None], 5, 0), [*[[x] for x in stances[:4]], lying])
    assert found.stands[:4].all() and np.isfinite(found.T_camera_object).all()


# --- in a bundle and an estimator ------------------------------------------------------------------------------------

WINDOWS = [Window(220.0, 200.0, "a"), Window(330.0, 300.0, "b"), Window(430.0, 210.0, "c"), Window(300.0, 150.0, "d")]


def bundle_with(path: Path, stances: dict[str, list[dict]]) -> Path:
    toy.write_toy_bundle(path, ("a", "b", "c", "d"))
    manifest = json.loads((path / "manifest.json").read_text())
    for x in manifest["objects"]:
        x["stances"] = stances.get(x["name"], [])
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def standing_so(poses: list[Array], tilt: float = 0.01) -> dict[str, list[dict]]:
    """Of objects with these poses, on a plane below the camera, but for the last, by 1.5° and 2 mm."""
    up = np.array([0.0, -0.8, -0.6])  # camera frame
    found = {}
    for window, T in zip(WINDOWS, poses, strict=True):
        own, height = T[:3, :3].T @ up, float(up @ T[:3, 3]) + 0.6
        if window.object == "d":
            own, height = exp_so3(np.array([np.radians(1.5), 0.0, 0.0])) @ own, height + 0.002
        found[window.object] = [{"up": own.tolist(), "height": height, "tilt": tilt, "lift": 0.002}]
    return found


def image() -> np.ndarray:
    return np.max([toy.toy_image(CAMERA, w.u, w.v) for w in WINDOWS], axis=0)


def test_an_estimator_takes_the_others_into_account(tmp_path: Path) -> None:
    config = EstimatorConfig(backend="onnxruntime", threads=1, views=1)
    alone = PoseEstimator.load(bundle_with(tmp_path / "alone", {}), config).estimate_many(image(), CAMERA, WINDOWS)
    stances = standing_so([x.T_camera_object for x in alone])
    estimator = PoseEstimator.load(bundle_with(tmp_path / "together", stances), config)
    assert [len(x.entry.stances) for x in estimator.bundle.objects] == [1, 1, 1, 1]
    together = estimator.estimate_many(image(), CAMERA, WINDOWS)
    estimator.config = replace(config, support="none")
    each = estimator.estimate_many(image(), CAMERA, WINDOWS)
    assert all(np.array_equal(a.T_camera_object, b.T_camera_object) for a, b in zip(each, alone, strict=True))
    for a, b in zip(together[:3], each[:3], strict=True):
        np.testing.assert_allclose(a.T_camera_object, b.T_camera_object, atol=0.02)
        assert a.score > b.score and np.trace(a.covariance) < np.trace(b.covariance)
    turned = np.degrees(np.linalg.norm(error(together[3].T_camera_object, each[3].T_camera_object)[3:]))
    assert 0.2 < turned < 1.5
    estimator.config = config
    one = estimator.estimate_many(image(), CAMERA, WINDOWS[:1])[0]
    np.testing.assert_array_equal(one.T_camera_object, each[0].T_camera_object)


@dataclass
class Nearer:
    """Keeps what it was called with, and brings the pose nearer; the third object's it leaves as it is."""

    calls: list[Solution] = field(default_factory=list)

    def refine(self, look: Look, solution: Solution) -> Solution:
        """See Refiner."""
        self.calls.append(solution)
        if len(self.calls) == 3:
            return solution
        T = solution.T_camera_object.copy()
        T[2, 3] -= 0.001
        return replace(solution, T_camera_object=T)


def test_a_refinement_begins_on_the_plane_which_counts_once(tmp_path: Path) -> None:
    config = EstimatorConfig(backend="onnxruntime", threads=1, views=1, support="none")
    alone = PoseEstimator.load(bundle_with(tmp_path / "alone", {}), config).estimate_many(image(), CAMERA, WINDOWS)
    bundle = ObjectBundle.load(bundle_with(tmp_path / "b", standing_so([x.T_camera_object for x in alone])))
    plain = PoseEstimator.load(bundle.path, replace(config, support="auto"))
    plane = plain.estimate_many(image(), CAMERA, WINDOWS)
    refiner = Nearer()
    refined = PoseEstimator(bundle, plain.backend, plain.config, refiner).estimate_many(image(), CAMERA, WINDOWS)
    for call, on_plane, by_itself in zip(refiner.calls, plane, alone, strict=True):
        np.testing.assert_allclose(call.T_camera_object, on_plane.T_camera_object)
        np.testing.assert_array_equal(call.covariance, by_itself.covariance)
    for a, b in zip(refined, plane, strict=True):
        np.testing.assert_allclose(a.covariance, b.covariance, rtol=0.1, atol=1e-7)


def test_stances_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for key, value, told in (
        ("up", [0.0, 0.0, 2.0], r"objects\[0\].stances\[0\].up: expected a direction of length 1"),
        ("height", 50.0, r"stances\[0\].height: expected metres, below 10, got 50"),
        ("tilt", 0.0, r"stances\[0\].tilt: expected radians, from 0.001 to 1"),
        ("lift", 5.0, r"stances\[0\].lift: expected metres"),
        ("up", [0.0, float("nan"), 1.0], "up"),
        ("", None, r"objects\[0\].stances: expected at most 8, got 9"),
        ("more", 1, "unknown key"),
    ):
        wrong = standing_so([np.eye(4)] * 4)
        if key:
            wrong["a"][0][key] = value
        else:
            wrong["a"] *= 9
        with pytest.raises(InputError, match=told):
            ObjectBundle.load(bundle_with(tmp_path / f"{key}{value}", wrong))
