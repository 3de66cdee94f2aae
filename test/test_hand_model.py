"""The hand model: kinematics, fitting, skin, rigged files."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fm_pose_core.config import from_dict, read_yaml
from fm_pose_core.errors import InputError
from fm_pose_core.geometry import Array
from fm_pose_core.hands.labels import DATASETS, read_labels
from fm_pose_core.hands.model.fitting import fit_poses, fit_shape
from fm_pose_core.hands.model.prior import PoseConfig, PosePrior
from fm_pose_core.hands.model.skeleton import RIGID, Skeleton, joint_sets, skeleton_bones

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("FM_POSE_DATA", ROOT.parent / "shared" / "data")) / "hand"


def random_poses(skeleton: Skeleton, count: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    pose = np.zeros((count, skeleton.size))
    pose[:, RIGID:] = rng.uniform(0.8 * skeleton.least, 0.8 * skeleton.largest, (count, len(skeleton.angles)))
    pose[:, :3] = rng.normal(size=(count, 3))
    pose[:, 3:6] = rng.normal([0.0, 0.0, 0.7], 0.1, size=(count, 3))
    return pose


def test_degrees_of_freedom_and_joint_sets() -> None:
    skeleton = Skeleton()
    assert sum(not name.startswith("forearm") for name in skeleton.angles) >= 20
    sets = joint_sets()
    assert {name: len(x) for name, x in sets.items()} == {"hand21": 21, "nyu14": 14, "icvl16": 16}
    for name, landmarks in sets.items():
        names = [x.name for x in landmarks]
        bones = skeleton_bones(name)
        assert {b for _, b in bones} | {bones[0][0]} == set(names)  # every joint hangs on the tree
        assert len(bones) == len(names) - 1


@pytest.mark.parametrize("left", [False, True])
def test_jacobian_agrees_with_differences(left: bool) -> None:
    skeleton = Skeleton(left=left)
    bone, offset = skeleton.on_bones(joint_sets()["hand21"])
    pose = random_poses(skeleton, 2)
    points, J = skeleton.points_and_jacobian(pose, bone, offset)
    np.testing.assert_allclose(points, skeleton.points(pose, bone, offset))
    for k in range(skeleton.size):
        moved = pose.copy()
        if k < 3:
            turn = np.zeros((2, 3))
            turn[:, k] = 1e-6
            moved[:, :3] = (Rotation.from_rotvec(turn) * Rotation.from_rotvec(pose[:, :3])).as_rotvec()
        else:
            moved[:, k] += 1e-6
        np.testing.assert_allclose((skeleton.points(moved, bone, offset) - points) / 1e-6, J[..., k], atol=1e-5)


def test_a_left_hand_is_the_mirror_image() -> None:
    right, left = Skeleton(), Skeleton(left=True)
    pose = random_poses(right, 3)
    pose[:, :6] = 0.0
    landmarks = joint_sets()["hand21"]
    mirrored = right.points(pose, *right.on_bones(landmarks)) * [-1, 1, 1]
    np.testing.assert_allclose(left.points(pose, *left.on_bones(landmarks)), mirrored, atol=1e-12)


def test_flexion_goes_to_the_palm_and_bones_keep_their_length() -> None:
    skeleton = Skeleton()
    pose = np.zeros((2, skeleton.size))
    pose[1, RIGID + skeleton.angles.index("index_proximal_x")] = np.radians(60)
    bone, offset = skeleton.on_bones(joint_sets()["hand21"])
    straight, bent = skeleton.points(pose, bone, offset)
    names = [x.name for x in joint_sets()["hand21"]]
    tip = names.index("index_tip")
    assert bent[tip, 2] > straight[tip, 2] + 0.05  # z leaves the palm
    for a, b in skeleton_bones("hand21"):
        i, j = names.index(a), names.index(b)
        assert np.linalg.norm(bent[i] - bent[j]) == pytest.approx(np.linalg.norm(straight[i] - straight[j]))


def test_fitting_finds_known_poses() -> None:
    skeleton, landmarks = Skeleton(), joint_sets()["hand21"]
    pose = random_poses(skeleton, 60)
    joints = skeleton.points(pose, *skeleton.on_bones(landmarks))
    fit = fit_poses(skeleton, landmarks, joints, prior=1e-4)
    assert np.median(fit.residuals(joints)) < 5e-4
    inside = (fit.pose[:, RIGID:] >= skeleton.least - 1e-9) & (fit.pose[:, RIGID:] <= skeleton.largest + 1e-9)
    assert inside.all()
    joints[:, 4] = np.nan  # an unknown joint is left out
    assert np.median(np.delete(fit_poses(skeleton, landmarks, joints, prior=1e-4).residuals(joints), 4, axis=1)) < 5e-4
    with pytest.raises(InputError, match=r"joints: expected \(B, 21, 3\)"):
        fit_poses(skeleton, landmarks, joints[:, :14])


def test_fitting_finds_bone_lengths() -> None:
    landmarks = joint_sets()["hand21"]
    average = Skeleton()
    offsets = np.stack([b.offset for b in average.bones])
    grown = average.with_offsets(offsets * np.random.default_rng(1).uniform(0.9, 1.15, (len(offsets), 1)))
    pose = random_poses(grown, 120, seed=2)
    joints = grown.points(pose, *grown.on_bones(landmarks))
    skeleton, placed = fit_shape(average, landmarks, joints)
    test = random_poses(grown, 40, seed=3)
    joints = grown.points(test, *grown.on_bones(landmarks))
    assert np.median(fit_poses(skeleton, placed, joints).residuals(joints)) < 0.5 * np.median(
        fit_poses(average, landmarks, joints).residuals(joints)
    )
    assert np.median(fit_poses(skeleton, placed, joints).residuals(joints)) < 1e-3


@pytest.mark.parametrize(
    ("name", "joint_set", "people"),
    [("nyu", "nyu14", ((0, 2440), (2440, 8252))), ("icvl", "icvl16", ((0, 702), (702, 1596)))],
)
def test_fitting_real_annotations(name: str, joint_set: str, people: tuple[tuple[int, int], ...]) -> None:
    """Of each person some frames for the bone lengths, others to judge: below 3 mm in the median."""
    if not (DATA / name).is_dir():
        pytest.skip(f"{DATA}/{name} is not there (set FM_POSE_DATA)")
    joints = read_labels(DATA / name / f"{name}_test_groundtruth_label.txt", DATASETS[name])[1]
    landmarks = joint_sets()[joint_set]
    for begin, end in people:
        own = joints[begin:end]
        skeleton, placed = fit_shape(Skeleton(), landmarks, own[:: len(own) // 150], rounds=6)
        judged = own[7 :: len(own) // 100]
        assert np.median(fit_poses(skeleton, placed, judged).residuals(judged)) < 3e-3


def test_skin_is_closed_smooth_and_follows_the_bones() -> None:
    trimesh = pytest.importorskip("trimesh", reason="needs the extra [train]")
    pytest.importorskip("skimage", reason="needs the extra [train]")
    from fm_pose_core.hands.model.skin import build_skin

    hand = build_skin(Skeleton())
    np.testing.assert_allclose(hand.posed(hand.bind), hand.vertices, atol=1e-6)
    mesh = trimesh.Trimesh(hand.vertices, hand.faces, process=False)
    assert mesh.is_watertight and mesh.volume > 0 and mesh.body_count == 1
    assert 1e-4 < mesh.volume < 8e-4  # cubic metres, a forearm's end included
    poses = random_poses(hand.skeleton, 5)
    together = hand.posed(poses)
    np.testing.assert_allclose(together[2], hand.posed(poses[2]), atol=1e-6)
    # Each finger tip stays at the end of its last bone.
    landmarks = [x for x in joint_sets()["hand21"] if x.name.endswith("_tip")]
    tips = hand.skeleton.points(poses, *hand.skeleton.on_bones(landmarks))
    distance = np.linalg.norm(together[:, :, None] - tips[:, None], axis=-1).min(1)
    assert distance.max() < 0.004


@pytest.mark.parametrize("side", ["left", "right"])
def test_rigged_mesh_takes_the_place_of_our_skin(side: str, tmp_path: Path) -> None:
    from fm_pose_core.hands.model.rigged import rigged_hand

    file = DATA / "rigged_mesh" / f"{side}.glb"
    if not file.is_file():
        pytest.skip(f"{file} is not there (set FM_POSE_DATA)")
    mapping = read_yaml(ROOT / "config" / "hand" / "webxr.yaml")
    hand = rigged_hand(file, mapping, left=side == "left")
    np.testing.assert_allclose(hand.posed(hand.bind), hand.vertices, atol=1e-6)
    bent = hand.bind.copy()
    bent[RIGID + hand.skeleton.angles.index("index_proximal_x")] += 0.8
    moved = np.linalg.norm(hand.posed(bent) - hand.posed(hand.bind), axis=1)
    assert moved.max() > 0.05 and (moved < 1e-6).mean() > 0.5  # the finger moves, the rest does not
    with pytest.raises(InputError, match="nodes for all 21 joints"):
        rigged_hand(file, {**mapping, "joints": {**mapping["joints"], "wrist": "elbow"}})
    (tmp_path / "no.glb").write_bytes(b"no glTF at all, but long enough")
    with pytest.raises(InputError, match="expected a GLB file"):
        rigged_hand(tmp_path / "no.glb", mapping)


@pytest.mark.parametrize("facing", [0.0, 0.15, 0.5, 1.0])
def test_facing_says_how_far_fingers_point_along_the_view(facing: float) -> None:
    """Alike up to `facing`, then rarer by a straight line, and none from 0.8 farther on."""
    skeleton, rng = Skeleton(), np.random.default_rng(4)
    prior = PosePrior(skeleton, PoseConfig(facing=facing))
    drawn = np.stack([prior.draw(rng)[:3] for _ in range(3000)])
    cosines = np.abs(Rotation.from_rotvec(drawn).as_matrix()[:, 2, 1])
    grid = np.linspace(0, 1, 1001)
    density = np.clip(1 - (grid - facing) / 0.8, 0, 1)
    expected = np.cumsum(density) / density.sum()
    share = np.searchsorted(np.sort(cosines), grid) / len(cosines)
    assert cosines.max() <= facing + 0.8
    assert np.abs(share - expected).max() < 0.03  # Kolmogorov and Smirnov: 1.6 / sqrt(3000)


def test_facing_cannot_be_negative() -> None:
    with pytest.raises(InputError, match="facing: expected at least 0"):
        from_dict(PoseConfig, {"facing": -0.2})
