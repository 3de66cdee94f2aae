"""Labels of objects that stand still: who stands where for how long, and where they really stand."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_bop

from fm_pose_core.errors import InputError
from fm_pose_core.geometry import Array, apply, box_corners, exp_so3, inverse, transform
from fm_pose_core.objects.arrangements import apart, find_arrangements
from fm_pose_core.objects.bop import BopDataset, Instance
from fm_pose_core.objects.overlay import GREEN, draw_contour
from fm_pose_core.objects.relabel import Observation, correct, corrected, relabel, write_labels
from fm_pose_core.objects.relabel_report import summary, write_report
from fm_pose_core.objects.viewpoints import look_at
from fm_pose_core.types import Camera, ObjectPose, Window

CAMERA = Camera(np.array([[570.0, 0.0, 320.0], [0.0, 571.0, 240.0], [0.0, 0.0, 1.0]]), 640, 480)
BOX = box_corners(np.array([-0.05, -0.04, -0.03]), np.array([0.05, 0.04, 0.03]))
HALF_TURN = transform(np.diag([-1.0, -1.0, 1.0]), np.zeros(3))
PLACES = {  # T_world_object
    1: transform(exp_so3(np.array([0.0, 0.0, 0.4])), np.array([0.1, 0.0, 0.03])),
    2: transform(exp_so3(np.array([0.2, 0.0, -1.0])), np.array([-0.12, 0.05, 0.03])),
    3: transform(exp_so3(np.array([0.0, 0.1, 2.0])), np.array([0.0, -0.15, 0.03])),
}


def cameras(count: int) -> list[Array]:
    """T_camera_world of a camera that goes around."""
    result = []
    for k in range(count):
        a, e = 0.15 * k, np.radians(40 + 8 * np.sin(0.5 * k))
        direction = np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)])
        result.append(look_at(direction, 0.8 + 0.05 * np.sin(k), np.zeros(3)))
    return result


def instances_of(poses: Mapping[tuple[int, int], Array], scene_id: int = 1) -> list[Instance]:
    """T_camera_object by image and object."""
    none = Path("none.png")
    return [Instance(scene_id, i, o, T, 1.0, CAMERA, none) for (i, o), T in sorted(poses.items())]


def still(count: int) -> dict[tuple[int, int], Array]:
    return {(i, o): T @ place for i, T in enumerate(cameras(count)) for o, place in PLACES.items()}


def disturbance(degrees: float, millimetres: float, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    axis, way = rng.normal(size=3), rng.normal(size=3)
    turn = exp_so3(np.radians(degrees) * axis / np.linalg.norm(axis))
    return transform(turn, 1e-3 * millimetres * way / np.linalg.norm(way))


# Who stands still


def test_objects_that_stand_still_share_a_world() -> None:
    poses = still(12)
    wrong = disturbance(12.0, 10.0)
    for i in range(12):
        poses[i, 2] = poses[i, 2] @ wrong  # a label that is wrong in the same way everywhere changes nothing
    found = {a.object_id: a for a in find_arrangements(instances_of(poses))}
    assert sorted(found) == [1, 2, 3] and all(a.images == list(range(12)) for a in found.values())
    assert {a.stretch for a in found.values()} == {0}
    for o, a in found.items():
        for i, T_camera_world in enumerate(a.T_camera_world):
            angle, distance = apart(T_camera_world @ a.T_world_object, poses[i, o])
            assert angle < 1e-6 and distance < 1e-8
    first, last = found[1].T_camera_world[0], found[1].T_camera_world[-1]
    truth = cameras(12)
    angle, distance = apart(last @ inverse(first), truth[-1] @ inverse(truth[0]))
    assert angle < 1e-6 and distance < 1e-8


def test_an_object_that_is_moved_has_two_arrangements() -> None:
    poses = still(12)
    for i in range(7, 12):
        poses[i, 3] = poses[i, 3] @ disturbance(60.0, 80.0)
    found = find_arrangements(instances_of(poses))
    images = {o: [a.images for a in found if a.object_id == o] for o in PLACES}
    assert images == {1: [list(range(12))], 2: [list(range(12))], 3: [list(range(7)), list(range(7, 12))]}
    assert {a.stretch for a in found} == {0}


def test_a_single_wrong_label_does_not_part_an_arrangement() -> None:
    poses = still(12)
    poses[5, 1] = poses[5, 1] @ disturbance(2.0, 50.0)
    (a,) = (a for a in find_arrangements(instances_of(poses)) if a.object_id == 1)
    assert a.images == list(range(12))
    angle, distance = apart(a.T_camera_world[5] @ a.T_world_object, still(12)[5, 1])
    assert angle < 1e-6 and distance < 1e-8


def test_trembling_labels_are_one_arrangement_and_do_not_move_the_camera() -> None:
    poses, rng = still(20), np.random.default_rng(1)
    for i in range(20):
        poses[i, 2] = poses[i, 2] @ transform(exp_so3(rng.normal(scale=np.radians(1.2), size=3)), np.zeros(3))
    found = {a.object_id: a for a in find_arrangements(instances_of(poses))}
    assert all(a.images == list(range(20)) for a in found.values())
    for i, T_camera_world in enumerate(found[1].T_camera_world):
        assert apart(T_camera_world @ found[1].T_world_object, still(20)[i, 1])[0] < 1e-6


def test_where_no_two_objects_agree_all_begin_anew() -> None:
    poses = still(12)
    for i in range(6, 12):
        for o in PLACES:
            poses[i, o] = poses[i, o] @ disturbance(70.0, 90.0, seed=o)
    found = find_arrangements(instances_of(poses))
    assert sorted((a.object_id, a.stretch, len(a.images)) for a in found) == [(o, s, 6) for o in PLACES for s in (0, 1)]
    scenes = find_arrangements([*instances_of(still(4), 1), *instances_of(still(4), 2)])
    assert sorted({(a.scene_id, a.object_id) for a in scenes}) == [(s, o) for s in (1, 2) for o in PLACES]


def test_where_the_camera_is_known_one_object_is_enough() -> None:
    """And its label may tremble; where the camera of an image is missing, the labels have to tell."""
    poses, rng = {k: T for k, T in still(12).items() if k[1] == 1}, np.random.default_rng(1)
    for i in range(12):
        poses[i, 1] = poses[i, 1] @ transform(exp_so3(rng.normal(scale=np.radians(1.2), size=3)), np.zeros(3))
    known = [replace(x, T_camera_world=cameras(12)[x.im_id]) for x in instances_of(poses)]
    (a,) = find_arrangements(known)
    assert a.images == list(range(12)) and a.stretch == 0
    for T, truth in zip(a.T_camera_world, cameras(12), strict=True):
        assert np.array_equal(T, truth)
    assert apart(a.T_world_object, PLACES[1])[0] < np.radians(3.0)
    parts = find_arrangements([*known[:-1], replace(known[-1], T_camera_world=None)])
    assert [a.stretch for a in parts] == list(range(12))


# Where they really stand


def observations(object_id: int, count: int, noise: float, wild: int = 0, twin: bool = False) -> dict[int, Observation]:
    """Predicted corners: the truth with an error that an image's corners share, and `wild` images far off."""
    rng, result = np.random.default_rng(7), {}
    for i, T in enumerate(cameras(count)):
        place = PLACES[object_id] @ (HALF_TURN if twin and i % 2 else np.eye(4))
        pixels = CAMERA.pixels(apply(T @ place, BOX)) + rng.normal(scale=noise, size=(8, 2))
        pixels += rng.normal(scale=60.0, size=(8, 2)) if i < wild else 0.0
        result[i] = Observation(CAMERA, pixels, 3.0)
    return result


def arrangement_of(wrong: Array, count: int = 24, trembling: float = 0.0):  # type: ignore[no-untyped-def]
    poses, rng = still(count), np.random.default_rng(2)
    for i in range(count):
        tremble = transform(exp_so3(rng.normal(scale=np.radians(trembling) / np.sqrt(3), size=3)), np.zeros(3))
        poses[i, 1] = poses[i, 1] @ wrong @ tremble
    (found,) = (a for a in find_arrangements(instances_of(poses)) if a.object_id == 1)
    return found


def errors(T_world_object: Array, found) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    """Against the truth, degrees and millimetres."""
    truth = inverse(found.T_camera_world[0]) @ still(1)[0, 1]
    angle, distance = apart(T_world_object, truth)
    return np.degrees(angle), 1e3 * distance


@pytest.mark.parametrize(("degrees", "millimetres", "trembling"), [(15.0, 15.0, 0.0), (5.0, 8.0, 2.0), (3.0, 5.0, 0.0)])
def test_a_wrong_label_comes_back(degrees: float, millimetres: float, trembling: float) -> None:
    """With 3 px of noise in 24 images, four of which are far off."""
    found = arrangement_of(disturbance(degrees, millimetres), trembling=trembling)
    c = correct(found, observations(1, 24, 3.0, wild=4), BOX)
    assert c.accepted and c.after < c.before
    angle, distance = errors(c.T_world_object, found)
    assert angle < 1.0 and distance < 2.0
    assert np.degrees(c.sigma_angle) < 2.0 and 1e3 * c.sigma_distance < 5.0
    assert np.degrees(c.angle) == pytest.approx(degrees, abs=2.0)


def test_a_right_label_stays_as_it_is() -> None:
    found = arrangement_of(np.eye(4))
    c = correct(found, observations(1, 24, 3.0, wild=4), BOX)
    assert c.reason == "the label agrees with the images"
    assert np.array_equal(c.T_world_object, found.T_world_object)


def test_weak_evidence_is_refused() -> None:
    found = arrangement_of(disturbance(15.0, 15.0))
    few = {i: o for i, o in observations(1, 24, 1.0).items() if i < 3}
    assert correct(found, few, BOX).reason == "3 images show it, 4 are needed"
    c = correct(found, observations(1, 24, 60.0), BOX)
    assert c.reason.startswith("the images disagree: ±") and np.array_equal(c.T_world_object, found.T_world_object)


def test_answers_by_a_symmetry_are_brought_together() -> None:
    found = arrangement_of(disturbance(10.0, 5.0))
    c = correct(found, observations(1, 24, 2.0, twin=True), BOX, [HALF_TURN])
    assert c.accepted and errors(c.T_world_object, found)[0] < 1.0
    assert not correct(found, observations(1, 24, 2.0, twin=True), BOX).after < 10.0  # without knowing of it


def test_labels_there_and_back(tmp_path: Path) -> None:
    """Corrected poses take the place of those of the arrangement's images; the others stay."""
    poses = still(8)
    for i in range(8):
        poses[i, 1] = poses[i, 1] @ disturbance(10.0, 10.0)
    instances = instances_of(poses)
    (found,) = (a for a in find_arrangements(instances) if a.object_id == 1)
    made = correct(found, observations(1, 8, 0.5), BOX)
    assert made.accepted
    for x in corrected(instances, [made]):
        angle, distance = apart(x.T_camera_object, still(8)[x.im_id, x.object_id])
        assert angle < np.radians(1.0) and distance < 2e-3
    write_labels(tmp_path, instances)
    read = json.loads((tmp_path / "000001" / "scene_gt.json").read_text())
    assert sorted(map(int, read)) == list(range(8)) and [t["obj_id"] for t in read["3"]] == [1, 2, 3]
    np.testing.assert_allclose(np.array(read["3"][1]["cam_t_m2c"]) / 1e3, poses[3, 2][:3, 3])


class Knowing:
    """An estimator that knows where the brick of tiny_bop stands."""

    def estimate(self, image: Array, camera: Camera, window: Window) -> ObjectPose:
        centers = {i: camera.pixels(tiny_bop.brick_pose(i)[None, :3, 3])[0] for i in tiny_bop.FRAMES}
        im_id = min(centers, key=lambda i: float(np.hypot(*(centers[i] - [window.u, window.v]))))
        T = tiny_bop.brick_pose(im_id)
        corners = camera.pixels(apply(T, box_corners(-tiny_bop.BRICK, tiny_bop.BRICK)))
        return ObjectPose(T, corners, 0.5, 1e-6 * np.eye(6), 0.9, True)


def test_a_dataset_from_images_to_files(tmp_path: Path) -> None:
    dataset = BopDataset(tiny_bop.write_tiny_bop(tmp_path / "tiny"))
    instances = dataset.instances("test")
    found = relabel(dataset, instances, {2: Knowing()})
    assert found and all(c.arrangement.object_id == 2 and not c.accepted for c in found)
    write_labels(tmp_path / "labels", corrected(instances, found))
    again = BopDataset(dataset.root, tmp_path / "labels").instances("test")
    for a, b in zip(again, dataset.instances("test"), strict=True):
        np.testing.assert_allclose(a.T_camera_object, b.T_camera_object, atol=1e-12)
    with pytest.raises(InputError, match="images that show the bundles' objects, got none"):
        relabel(dataset, instances, {})


def test_the_report_shows_labels_before_and_after(tmp_path: Path) -> None:
    dataset = BopDataset(tiny_bop.write_tiny_bop(tmp_path / "tiny"))
    instances = [replace(x, image_path=dataset.instances("test")[0].image_path) for x in instances_of(still(8))]
    labelled = [
        replace(x, T_camera_object=x.T_camera_object @ disturbance(10.0, 10.0)) if x.object_id == 1 else x
        for x in instances
    ]
    (a,) = (a for a in find_arrangements(labelled) if a.object_id == 1)
    done, refused = correct(a, observations(1, 8, 0.5), BOX), correct(a, observations(1, 3, 0.5), BOX)
    path = write_report(dataset, labelled, [done, refused], tmp_path / "out")
    page = path.read_text()
    assert page.count("<figure>") == 3 and "scene 1, images 0–7" in page and "3 images show it" in page
    told = json.loads((tmp_path / "out" / "corrections.json").read_text())
    assert [t["accepted"] for t in told] == [True, False] and told[1]["rotation_deg"] is None
    assert told[0]["rotation_deg"] == pytest.approx(10.0, abs=1.5) and told[0]["rotation_sigma_deg"] < 2.0
    head, line = summary(dataset, [done, refused]).splitlines()
    assert head.split()[:2] == ["object", "corrected"] and line.split()[1:7] == ["1", "of", "2", "8", "of", "16"]


def test_the_outline_of_a_mesh() -> None:
    """Of the box's two triangles that are given, or of its convex hull; nothing of a mesh behind the camera."""
    T = transform(np.eye(3), np.array([0.0, 0.0, 0.5]))
    black = np.zeros((480, 640, 3), np.uint8)
    hull = draw_contour(black, CAMERA, T, BOX, np.empty((0, 3), np.int64), GREEN)
    v, u = np.nonzero(hull.any(-1))
    expected = CAMERA.pixels(apply(T, BOX))
    np.testing.assert_allclose([u.min(), v.min(), u.max(), v.max()], [*expected.min(0), *expected.max(0)], atol=2.5)
    assert not hull[240, 320].any()
    face = np.array([[0, 1, 2]])
    part = draw_contour(black, CAMERA, T, BOX, face, GREEN)
    assert 0 < part.any(-1).sum() < hull.any(-1).sum()
    assert not draw_contour(black, CAMERA, inverse(T), BOX, face, GREEN).any()
