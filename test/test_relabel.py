"""Labels of objects that stand still: who stands where for how long, and where they really stand."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from rendered_bop import write_rendered_bop

from fm_pose_core.errors import InputError
from fm_pose_core.geometry import Array, apply, box_corners, exp_so3, inverse, left_jacobian, transform
from fm_pose_core.objects.alignment import _Match
from fm_pose_core.objects.arrangements import apart, find_arrangements
from fm_pose_core.objects.bop import BopDataset, Instance
from fm_pose_core.objects.overlay import GREEN, draw_contour
from fm_pose_core.objects.places import Places, cuts
from fm_pose_core.objects.relabel import Correction, corrected, relabel, write_labels
from fm_pose_core.objects.relabel_report import summary, write_report
from fm_pose_core.objects.viewpoints import look_at
from fm_pose_core.types import Camera

CAMERA = Camera(np.array([[570.0, 0.0, 320.0], [0.0, 571.0, 240.0], [0.0, 0.0, 1.0]]), 640, 480)
BOX = box_corners(np.array([-0.05, -0.04, -0.03]), np.array([0.05, 0.04, 0.03]))
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


@pytest.fixture(scope="module")
def photographed(tmp_path_factory: pytest.TempPathFactory) -> tuple[BopDataset, list[Instance]]:
    """Six photographs of a coloured box before six backgrounds, from all sides, labelled exactly. The box stands
    somewhere in the world, as on a turntable."""
    dataset = BopDataset(write_rendered_bop(tmp_path_factory.mktemp("still") / "box", frames=6))
    return dataset, [known_world(x) for x in dataset.instances("test")]


def known_world(x: Instance) -> Instance:
    """The camera's place, as the dataset could tell it."""
    return replace(x, T_camera_world=x.T_camera_object @ inverse(PLACES[2]))


def wrongly(instances: list[Instance], wrong: Array, trembling: float = 0.0) -> list[Instance]:
    rng, result = np.random.default_rng(2), []
    for x in instances:
        tremble = transform(exp_so3(rng.normal(scale=np.radians(trembling) / np.sqrt(3), size=3)), np.zeros(3))
        result.append(replace(x, T_camera_object=x.T_camera_object @ wrong @ tremble))
    return result


def largest_error(labels: list[Instance], truth: list[Instance]) -> tuple[float, float]:
    """Degrees and millimetres."""
    each = [apart(a.T_camera_object, b.T_camera_object) for a, b in zip(labels, truth, strict=True)]
    return np.degrees(max(a for a, _ in each)), 1e3 * max(d for _, d in each)


@pytest.mark.parametrize(("degrees", "millimetres", "trembling"), [(15.0, 15.0, 2.0), (0.0, 15.0, 0.0)])
def test_a_wrong_label_comes_back(
    photographed: tuple[BopDataset, list[Instance]], degrees: float, millimetres: float, trembling: float
) -> None:
    dataset, exact = photographed
    wrong = wrongly(exact, disturbance(degrees, millimetres), trembling)
    told: list[int] = []
    (c,) = found = relabel(dataset, wrong, tell=told.append)
    assert c.accepted and c.after > c.before + 0.1 and sum(told) == 6
    angle, distance = largest_error(corrected(wrong, found), exact)
    assert angle < 0.5 and distance < 1.0
    assert np.degrees(c.angle) == pytest.approx(degrees, abs=1.5) and 1e3 * c.distance == pytest.approx(
        millimetres, abs=2.0
    )
    assert angle < 3 * np.degrees(c.sigma_angle) and distance < 3e3 * c.sigma_distance


def test_a_right_label_stays_as_it_is(photographed: tuple[BopDataset, list[Instance]]) -> None:
    dataset, exact = photographed
    (c,) = found = relabel(dataset, exact)
    assert c.reason == "the label agrees with the images" and c.confirmed
    assert largest_error(corrected(exact, found), exact) == (0.0, 0.0)


def test_a_label_that_the_images_do_not_show_stays(photographed: tuple[BopDataset, list[Instance]]) -> None:
    dataset, exact = photographed
    hidden = [replace(x, visible_fraction=0.1) for x in exact]
    assert relabel(dataset, hidden)[0].reason == "no image shows 30 % of it"
    beside = wrongly(exact, transform(np.eye(3), np.array([0.09, 0.09, 0.09])))  # the labels are of nothing
    for c in relabel(dataset, beside):
        assert c.reason in ("no place near the label is found", "the images do not show the model's edges")
        assert np.array_equal(c.T_world_object, find_arrangements(beside)[0].T_world_object)


def test_dark_images_change_nothing(tmp_path: Path, photographed: tuple[BopDataset, list[Instance]]) -> None:
    dataset, exact = photographed
    cv2.imwrite(str(tmp_path / "dark.png"), np.zeros((exact[0].camera.height, exact[0].camera.width, 3), np.uint8))
    dark = [replace(x, image_path=tmp_path / "dark.png", visible_fraction=float("nan")) for x in exact[:2]]
    assert relabel(dataset, dark)[0].reason == "no place near the label is found"


def test_a_model_that_is_too_large_is_known_by_it(tmp_path: Path) -> None:
    """The photographs show a box of 97 % of the model's size, at the same place."""
    larger = write_rendered_bop(tmp_path / "box", frames=6)
    path = larger / "models" / "obj_000001.ply"
    lines = path.read_text().splitlines()
    start = lines.index("end_header") + 1
    count = int(next(line for line in lines if line.startswith("element vertex")).split()[2])
    for k in range(start, start + count):
        words = lines[k].split()
        lines[k] = " ".join([*(f"{float(w) / 0.97:.5f}" for w in words[:3]), *words[3:]])
    path.write_text("\n".join(lines) + "\n")
    instances = [known_world(x) for x in BopDataset(larger).instances("test")]
    places = Places(BopDataset(larger), instances, find_arrangements(instances))
    (place,) = places.find(lambda images: None)
    places.close()
    assert places.aligner.size == pytest.approx(0.97, abs=0.006) and places.aligner.size_sigma < 0.01
    assert apart(place.fit.T_world_center, PLACES[2] @ places.T_object_center)[1] < 1e-3


def test_an_object_that_is_moved_has_two_places(photographed: tuple[BopDataset, list[Instance]]) -> None:
    """By 9 cm, between the third and the fourth image; the labels are wrong alike."""
    dataset, exact = photographed
    moved = [
        replace(x, T_camera_world=x.T_camera_world @ transform(np.eye(3), np.array([0.0, 0.09, 0.0])))
        for x in exact[3:]
    ]
    wrong = wrongly([*exact[:3], *moved], disturbance(8.0, 5.0))
    one, two = found = relabel(dataset, wrong)
    assert one.accepted and two.accepted and apart(one.T_world_object, two.T_world_object)[1] > 0.08
    assert largest_error(corrected(wrong, found), exact)[0] < 1.0


def test_a_move_that_the_labels_pass_over_is_seen(photographed: tuple[BopDataset, list[Instance]]) -> None:
    """Somebody touched the box after the third image, but its label stayed as it was."""
    dataset, exact = photographed
    move = disturbance(5.0, 18.0)
    at = [PLACES[2]] * 3 + [PLACES[2] @ move] * 3
    world = [replace(x, T_camera_world=x.T_camera_object @ inverse(T)) for x, T in zip(exact, at, strict=True)]
    labels = [replace(x, T_camera_object=x.T_camera_world @ PLACES[2]) for x in world if x.T_camera_world is not None]
    assert [len(a.images) for a in find_arrangements(labels)] == [6]
    before, after = found = relabel(dataset, labels)
    assert before.arrangement.images == [0, 1, 2] and before.confirmed
    assert after.arrangement.images == [3, 4, 5] and after.accepted
    angle, distance = largest_error(corrected(labels, found), exact)
    assert angle < 1.0 and distance < 1.5


def test_nobody_knows_on_which_side_of_a_move_a_hidden_image_is(
    photographed: tuple[BopDataset, list[Instance]],
) -> None:
    """As above, and what shows too little of the box keeps its label where the move is, and there alone."""
    dataset, exact = photographed
    at = [PLACES[2]] * 4 + [PLACES[2] @ disturbance(5.0, 18.0)] * 4
    chosen = [exact[k] for k in (0, 0, 1, 2, 3, 4, 5, 5)]
    numbered = [replace(x, im_id=k, visible_fraction=0.1 if k in (1, 3) else 1.0) for k, x in enumerate(chosen)]
    world = [replace(x, T_camera_world=x.T_camera_object @ inverse(T)) for x, T in zip(numbered, at, strict=True)]
    labels = [replace(x, T_camera_object=x.T_camera_world @ PLACES[2]) for x in world if x.T_camera_world is not None]
    before, between, after = found = relabel(dataset, labels)
    assert before.arrangement.images == [0, 1, 2] and before.confirmed
    assert after.arrangement.images == [4, 5, 6, 7] and after.accepted
    assert between.arrangement.images == [3] and between.reason == "no image shows 30 % of it"
    assert np.array_equal(corrected(labels, found)[3].T_camera_object, labels[3].T_camera_object)


def test_where_a_sequence_changes_it_is_cut() -> None:
    rng, weights = np.random.default_rng(0), np.tile(np.eye(2), (20, 1, 1))
    off = rng.normal(size=(20, 2))
    assert cuts(off, weights) == []
    off[8:13] += 6.0
    assert cuts(off, weights) == [8, 13]
    assert cuts(off, 0.01 * weights) == []  # nobody knows
    assert cuts(off[:3], weights[:3]) == [] and cuts(off[:0], weights[:0]) == []


def test_labels_that_cannot_be_meant_are_refused(photographed: tuple[BopDataset, list[Instance]]) -> None:
    dataset, exact = photographed
    with pytest.raises(InputError, match=r"expected images of objects \[3\], got none of \[3\]"):
        relabel(dataset, exact, [3])
    with pytest.raises(InputError, match="expected one instance of an object in an image, got several"):
        relabel(dataset, [*exact, exact[0]])


def test_arrangements_that_only_the_labels_part_are_one_again(photographed: tuple[BopDataset, list[Instance]]) -> None:
    """The first three labels are off by 10 degrees, the others by 8 the other way: by the labels, the box was moved."""
    dataset, exact = photographed
    wrong = wrongly(exact[:3], disturbance(10.0, 5.0)) + wrongly(exact[3:], disturbance(-8.0, 5.0))
    one, two = found = relabel(dataset, wrong)
    assert one.accepted and two.accepted and np.array_equal(one.T_world_object, two.T_world_object)
    assert largest_error(corrected(wrong, found), exact)[0] < 0.5


def test_labels_there_and_back(tmp_path: Path, photographed: tuple[BopDataset, list[Instance]]) -> None:
    """Corrected poses take the place of those of the arrangement's images; the others stay."""
    dataset, exact = photographed
    (a,) = find_arrangements(exact)
    moved = Correction(a, PLACES[2] @ disturbance(10.0, 10.0))
    for x, y in zip(corrected(exact, [moved]), exact, strict=True):
        np.testing.assert_allclose(x.T_camera_object, y.T_camera_object @ disturbance(10.0, 10.0), atol=1e-9)
    refused = Correction(a, disturbance(10.0, 10.0), reason="refused")
    assert corrected(exact, [refused]) == exact and corrected(exact, [refused], sure_alone=True) == []
    confirmed = replace(refused, confirmed=True)
    assert corrected(exact, [confirmed], sure_alone=True) == exact
    assert len(corrected(exact, [moved], sure_alone=True)) == len(exact)
    write_labels(tmp_path, exact)
    again = BopDataset(dataset.root, tmp_path).instances("test")
    for x, y in zip(again, exact, strict=True):
        np.testing.assert_allclose(x.T_camera_object, y.T_camera_object, atol=1e-12)


def test_the_report_shows_labels_before_and_after(
    tmp_path: Path, photographed: tuple[BopDataset, list[Instance]]
) -> None:
    dataset, exact = photographed
    (a,) = find_arrangements(exact)
    done = Correction(a, disturbance(10.0, 5.0), np.radians(10.0), 0.005, np.radians(0.5), 0.001, 0.4, 0.8)
    refused = Correction(a, a.T_world_object, reason="too few edges are found")
    page = write_report(dataset, exact, [done, refused], tmp_path / "out").read_text()
    assert page.count("<figure>") == 3 and "scene 1, images 0–5" in page and "too few edges" in page
    assert "10.0 ± 0.5" in page and "0.40 → 0.80" in page
    told = json.loads((tmp_path / "out" / "corrections.json").read_text())
    assert [t["accepted"] for t in told] == [True, False] and told[1]["rotation_deg"] is None
    assert told[0]["rotation_deg"] == pytest.approx(10.0) and told[0]["translation_sigma_mm"] == pytest.approx(1.0)
    head, line = summary(dataset, [done, refused]).splitlines()
    assert head.split()[:2] == ["object", "corrected"] and line.split()[1:7] == ["1", "of", "2", "6", "of", "12"]


# What they are found by


def test_the_slope_of_the_agreement_is_its_derivative() -> None:
    rng = np.random.default_rng(3)
    fields = np.stack([cv2.GaussianBlur(rng.normal(size=(64, 64, 2)), (0, 0), 4.0) for _ in range(2)]).astype(
        np.float32
    )
    K = np.array([[80.0, 0.0, 31.5], [0.0, 80.0, 31.5], [0.0, 0.0, 1.0]])
    points = [rng.normal(scale=0.05, size=(40, 3)) for _ in range(2)]
    templates = [(p, rng.normal(size=(40, 2)).astype(np.float32)) for p in points]
    poses = np.stack([transform(exp_so3(rng.normal(size=3)), np.array([0.0, 0.0, 0.5])) for _ in range(2)])
    function = _Match(fields, poses, templates, K, radius=0.1)
    for y in (np.zeros(6), np.array([0.02, -0.01, 0.03, 0.2, -0.1, 0.3])):
        _, slope = function(y)
        steps = [(function(y + e)[0] - function(y - e)[0]) / 2e-5 for e in 1e-5 * np.eye(6)]
        np.testing.assert_allclose(slope, steps, atol=2e-3)


def test_the_jacobian_of_rotations() -> None:
    w, d = np.array([0.4, -0.7, 0.2]), 1e-6 * np.array([1.0, 2.0, -1.0])
    np.testing.assert_allclose(exp_so3(w + d), exp_so3(left_jacobian(w) @ d) @ exp_so3(w), atol=1e-11)
    np.testing.assert_allclose(left_jacobian(np.zeros(3)), np.eye(3))


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
