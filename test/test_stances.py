"""How objects stand, learned from labels, and whether a bundle is to know it: on scenes whose truth the test makes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rendered_bop import box_mesh, model_info, ply

from fm_pose_core.geometry import Array, box_corners, exp_so3, transform
from fm_pose_core.objects.bop import BopDataset, Instance
from fm_pose_core.objects.crop import Crop
from fm_pose_core.objects.refine import Look, Solution
from fm_pose_core.objects.samples import ObjectAssets
from fm_pose_core.objects.solver import ObjectSolver
from fm_pose_core.objects.stances import choose_stances, learn_stances
from fm_pose_core.objects.validation import Case, KnownObject
from fm_pose_core.objects.viewpoints import look_at
from fm_pose_core.rendering.mesh import Mesh
from fm_pose_core.types import Camera

CAMERA = Camera(np.array([[600.0, 0.0, 320.0], [0.0, 600.0, 240.0], [0.0, 0.0, 1.0]]), 640, 480)
HALF_TURN = np.diag([-1.0, -1.0, 1.0, 1.0])  # of box 4, after which it looks the same

SIZES = {1: (0.04, 0.03, 0.05), 2: (0.03, 0.05, 0.08), 3: (0.05, 0.05, 0.03), 4: (0.02, 0.03, 0.06)}  # half, metres


def boxes() -> dict[int, tuple[Mesh, list[Array]]]:
    return {k: (box_mesh(1, np.array(half)), [HALF_TURN] if k == 4 else []) for k, half in SIZES.items()}


def photographs(rng: np.random.Generator, floating: bool = False, count: int = 24) -> list[Instance]:
    """Box 3 lies on another side in every third, and box 4 is turned half."""
    found = []
    for im in range(count):
        direction = np.array([*rng.normal(size=2), rng.uniform(0.6, 1.5)])
        T_camera_world = look_at(direction / np.linalg.norm(direction), 0.8, np.zeros(3))
        for k, half in SIZES.items():
            tipped = k == 3 and im % 3 == 0
            R = exp_so3(np.array([np.pi / 2, 0.0, 0.0])) if tipped else np.eye(3)
            R = exp_so3(np.array([*rng.normal(scale=np.radians(0.5), size=2), rng.uniform(0, 6)])) @ R
            height = (half[1] if tipped else half[2]) + rng.normal(scale=0.0005)
            at = np.array([*rng.uniform(-0.2, 0.2, 2), rng.uniform(0.0, 0.5) if floating else height])
            T = T_camera_world @ transform(exp_so3(rng.normal(size=3)) @ R if floating else R, at)
            T = T @ HALF_TURN if k == 4 and im % 2 else T
            found.append(Instance(1, im, k, T, 1.0, CAMERA, Path()))
    return found


def test_stances_are_learned_from_labels() -> None:
    stances = learn_stances(boxes(), photographs(np.random.default_rng(0)))
    assert {k: len(x) for k, x in stances.items()} == {1: 1, 2: 1, 3: 2, 4: 1}
    for k, half in SIZES.items():
        first = stances[k][0]
        assert np.degrees(np.arccos(first.up[2])) < 0.5 and first.height == pytest.approx(half[2], abs=0.001)
        assert np.radians(0.3) < first.tilt < np.radians(1.0) and first.lift < 0.002
    tipped = stances[3][1]
    assert tipped.up[1] > 0.999 and tipped.height == pytest.approx(SIZES[3][1], abs=0.001)


def test_what_stands_on_nothing_has_no_stance() -> None:
    rng = np.random.default_rng(1)
    assert learn_stances(boxes(), photographs(rng, floating=True)) == {}
    assert learn_stances(boxes(), [x for x in photographs(rng) if x.object_id < 3]) == {}  # two make no plane
    assert learn_stances(boxes(), []) == {}


# --- chosen ----------------------------------------------------------------------------------------------------------


def known_objects(root: Path) -> list[tuple[KnownObject, ObjectAssets]]:
    """The boxes, as a training reads them."""
    (root / "models").mkdir(parents=True)
    info = {str(k): model_info(np.array(half), k == 4) for k, half in SIZES.items()}
    (root / "models" / "models_info.json").write_text(json.dumps(info))
    for k, (mesh, _) in boxes().items():
        (root / "models" / f"obj_{k:06d}.ply").write_text(ply(mesh))
    dataset, found = BopDataset(root), []
    for k, (mesh, _) in boxes().items():
        model = dataset.model(k)
        corners, crop = box_corners(model.minimum, model.maximum), Crop.around(model.diameter, 0.5)
        found.append((KnownObject(model, ObjectSolver(corners, crop)), ObjectAssets(mesh, corners, crop)))
    return found


def estimated(
    objects: list[tuple[KnownObject, ObjectAssets]], instances: list[Instance], tilt: float
) -> list[tuple[Case, Solution]]:
    """Poses that are off by 3° and 2 cm along the sight, but for what stands as the labels say; tilted (radians) too,
    which nobody expects."""
    rng, known = np.random.default_rng(7), {x.model.id: x for x, _ in objects}
    covariance = np.diag(np.square([0.002, 0.002, 0.02, *np.radians([3.0] * 3)]))
    found = []
    for x in instances:
        truth = x.T_camera_object @ transform(exp_so3(np.array([tilt * (-1) ** x.object_id, 0.0, 0.0])), np.zeros(3))
        T = truth.copy()
        T[:3, :3] = exp_so3(rng.normal(scale=np.radians(3.0), size=3)) @ T[:3, :3]
        T[2, 3] += rng.normal(scale=0.02)
        look = Look(np.zeros((1, 8, 8, 3), np.uint8), CAMERA, np.eye(3), lambda: np.zeros((8, 8, 3), np.uint8))
        case = Case(replace(x, T_camera_object=truth), known[x.object_id], look, (truth,), np.zeros((1, 8, 2)))
        found.append((case, Solution(T, np.zeros((8, 2)), 1.0, covariance, 5.0)))
    return found


def test_a_bundle_learns_how_objects_stand_if_that_helps(tmp_path: Path) -> None:
    objects = known_objects(tmp_path)
    training = photographs(np.random.default_rng(2))
    others = photographs(np.random.default_rng(3), count=8)
    good, bad = estimated(objects, others, 0.0), estimated(objects, others, np.radians(7.0))
    assert [len(x) for x in choose_stances(objects, training, good)] == [1, 1, 2, 1]
    nothing = [(), (), (), ()]
    assert choose_stances(objects, training, bad) == nothing  # these do not stand as in training
    assert choose_stances(objects, training, []) == nothing  # nobody knows
    assert choose_stances(objects, training, good, "none") == nothing
    assert [len(x) for x in choose_stances(objects, training, bad, "always")] == [1, 1, 2, 1]
