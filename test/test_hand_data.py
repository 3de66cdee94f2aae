"""Depth maps of hands: samples, datasets, sensor, evaluation."""

import json
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import toy_hand

pytest.importorskip("pyrender", reason="rendering needs the extra [train]")
pytest.importorskip("skimage", reason="the hand's skin needs the extra [train]")

from scipy.spatial.transform import Rotation

from fm_pose_core.cli import main
from fm_pose_core.errors import InputError
from fm_pose_core.hands.absent import Absent, elsewhere
from fm_pose_core.hands.crop import HandCrop
from fm_pose_core.hands.evaluation import score_joints, table
from fm_pose_core.hands.frames import read_depth, read_frames, read_unlabelled
from fm_pose_core.hands.labels import DATASETS, read_labels, write_joints
from fm_pose_core.hands.locate import annotated_hand, hand_near
from fm_pose_core.hands.matlab import read_array
from fm_pose_core.hands.model.prior import PoseConfig, PosePrior
from fm_pose_core.hands.model.skeleton import RIGID, Skeleton, joint_sets
from fm_pose_core.hands.model.skin import SkinnedHand, build_skin
from fm_pose_core.hands.samples import HandPairs, HandRenderer, HandSamples, HandSource, HandSyntheticConfig
from fm_pose_core.hands.views import HandView, HandWindowsConfig, draw_window
from fm_pose_core.rendering.depth_sensor import DepthSensorConfig, sense
from fm_pose_core.simulation.hands import with_forearm
from fm_pose_core.types import Camera

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("FM_POSE_DATA", ROOT.parent / "shared" / "data")) / "hand"
CAMERA = Camera(np.array([[588.03, 0, 320], [0, 587.07, 240], [0, 0, 1]]), 640, 480)
NYU14 = joint_sets()["nyu14"]


@pytest.fixture(scope="module")
def hand() -> SkinnedHand:
    return build_skin(Skeleton(), faces=2500)


def ball(center: tuple[float, float, float], radius: float) -> np.ndarray:
    """Before a wall."""
    return toy_hand.toy_depth(CAMERA, np.array(center), radius, 1.4)


# Samples


def test_labels_agree_with_the_depth(hand: SkinnedHand) -> None:
    """The nearest point of the skin, which is surely seen, is where the window has its least depth."""
    crop, rng = HandCrop(), np.random.default_rng(0)
    renderer = HandRenderer(hand, NYU14, crop)
    prior = PosePrior(hand.skeleton, PoseConfig())
    judged = 0
    while judged < 5:
        pose = prior.draw(rng)
        view = renderer.render(pose)
        vertices = hand.posed(pose).astype(np.float64)
        front = vertices[np.argmin(vertices[:, 2])]
        if np.abs(front - view.center).max() > 0.08:  # else it is in the window, however that is turned and displaced
            continue
        judged += 1
        marked = HandView(view.layers, view.camera, view.center, front[None])
        (window,), (label,) = draw_window(marked, crop, HandWindowsConfig(0.0, 0.0, 0.0, 0.0), rng)
        v, u = np.argwhere(window == window.min())[0]
        expected = crop.affine(view.camera, view.center) @ [*view.camera.pixels(front[None])[0], 1.0]
        assert np.linalg.norm(np.array([u, v]) - expected) < 3
        assert window.min() == pytest.approx(label[2] / crop.half, abs=0.02)
        (window,), (label,) = draw_window(marked, crop, HandWindowsConfig(180.0, 0.01, 0.0, 0.1), rng)
        assert window.min() == pytest.approx(label[2] / crop.half, abs=0.02)
    renderer.renderer.close()


def test_turning_the_camera_equals_rendering_turned(hand: SkinnedHand) -> None:
    crop = HandCrop()
    renderer = HandRenderer(hand, NYU14, crop)
    pose = PosePrior(hand.skeleton, PoseConfig()).draw(np.random.default_rng(5))
    turn = Rotation.from_rotvec([0, 0, 0.7])
    turned = pose.copy()
    turned[:3], turned[3:6] = (turn * Rotation.from_rotvec(pose[:3])).as_rotvec(), turn.apply(pose[3:6])

    class Fixed:
        """Stands for a random generator that draws this turn and nothing else."""

        def normal(self, scale: float, size: int) -> np.ndarray:
            return np.zeros(size)

        def uniform(self, low: float, high: float) -> float:
            return float(np.degrees(0.7)) if high > 1 else 0.0

    view, direct = renderer.render(pose), renderer.render(turned)
    direct.center = turn.apply(view.center)
    (a,), labels = draw_window(view, crop, HandWindowsConfig(180.0, 0.0, 0.0, 0.0), Fixed())  # type: ignore[arg-type]
    b = crop.cut(direct.layers[0], direct.camera, direct.center)
    both = (a < 1) & (b < 1)
    assert both.sum() / ((a < 1) | (b < 1)).sum() > 0.94
    assert np.median(np.abs(a - b)[both]) < 0.01
    np.testing.assert_allclose(labels, direct.joints - direct.center, atol=1e-9)
    renderer.renderer.close()


def test_samples_differ_and_repeat_by_seed(hand: SkinnedHand) -> None:
    def some(seed: int) -> list[np.ndarray]:
        samples = HandSamples(
            [(hand, NYU14)],
            np.zeros((0, hand.skeleton.size)),
            HandCrop(),
            HandSyntheticConfig(),
            np.random.default_rng(seed),
            ring=16,
        )
        drawn = [samples.draw()[0] for _ in range(6)]
        samples.close()
        return drawn

    a, b, c = some(1), some(1), some(2)
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert not np.array_equal(a[0], c[0]) and not np.array_equal(a[0], a[1])


def test_pairs_show_the_same_pose(hand: SkinnedHand, tmp_path: Path) -> None:
    """From a dataset whose hand is ours: both halves must then be alike."""
    from fm_pose_core.rendering.renderer import DepthRenderer

    rng = np.random.default_rng(0)
    prior = PosePrior(hand.skeleton, PoseConfig(aside=8.0))
    poses = [prior.draw(rng) for _ in range(4)]
    renderer = DepthRenderer(len(hand.vertices), hand.faces, 640, 480)
    depths = [renderer.render(hand.posed(p), CAMERA.K) for p in poses]
    renderer.close()
    joints = hand.skeleton.points(np.stack(poses), *hand.skeleton.on_bones(NYU14))
    toy_hand.write_nyu(tmp_path / "train", depths, joints)
    frames = read_frames("nyu", tmp_path, "train")
    np.testing.assert_allclose(frames.joints, joints, atol=1e-9)
    pairs = HandPairs(
        frames, [(hand, NYU14)], np.zeros(4, np.int64), poses, HandCrop(), HandWindowsConfig(), rng, ring=4
    )
    for _ in range(8):
        real, synthetic, label = pairs.draw()
        assert real.shape == synthetic.shape == (128, 128, 1) and label.shape == (14, 3)
        a, b = real[..., 0], synthetic[..., 0]
        both = (a < 1) & (b < 1)
        assert both.sum() / ((a < 1) | (b < 1)).sum() > 0.9
        assert np.median(np.abs(a - b)[both]) < 0.02
    pairs.close()


@pytest.mark.parametrize(
    ("model", "coefficients"), [("plumb_bob", [-0.25, 0.06, 0.0, 0.0]), ("equidistant", [0.05, -0.02, 0.004, 0.0])]
)
def test_pairs_of_a_camera_with_distortion_are_alike(
    model: str, coefficients: list[float], hand: SkinnedHand, tmp_path: Path
) -> None:
    """A hand beside the middle, as the camera's lens bends it, and its rendering, which is never bent."""
    from fm_pose_core.rendering.renderer import DepthRenderer

    pose = PosePrior(hand.skeleton, PoseConfig()).draw(np.random.default_rng(2))
    pose[3:6] = [0.22, 0.14, 0.6]
    renderer = DepthRenderer(len(hand.vertices), hand.faces, 640, 480)
    straight = renderer.render(hand.posed(pose), CAMERA.K)
    renderer.close()
    camera = Camera(CAMERA.K, 640, 480, np.array(coefficients), model)
    v, u = np.mgrid[:480, :640]
    xy = CAMERA.pixels(camera.rays(np.stack([u, v], -1))).astype(np.float32).reshape(480, 640, 2)
    joints = hand.skeleton.points(pose[None], *hand.skeleton.on_bones(NYU14))
    toy_hand.write_nyu(tmp_path / "train", [cv2.remap(straight, xy, None, cv2.INTER_NEAREST)], joints)
    frames = replace(read_frames("nyu", tmp_path, "train"), camera=camera)
    where, config = np.zeros(1, np.int64), HandWindowsConfig(astray=0.0)
    pairs = HandPairs(frames, [(hand, NYU14)], where, [pose], HandCrop(), config, np.random.default_rng(0), ring=4)
    for _ in range(4):
        real, synthetic, _ = pairs.draw()
        both = (real < 1) & (synthetic < 1)
        assert both.sum() / ((real < 1) | (synthetic < 1)).sum() > 0.9
        assert np.median(np.abs(real - synthetic)[both]) < 0.02
    pairs.close()


def test_views_without_a_hand(hand: SkinnedHand, tmp_path: Path) -> None:
    """Solids and walls, as they are and as a sensor sees them; and places of a frame that are no part of its hand."""
    crop, rng = HandCrop(), np.random.default_rng(0)
    absent = Absent(crop, 14, rng)
    rendered, sensed = ([draw() for _ in range(12)] for draw in (absent.rendered, absent.seen))
    absent.close()
    for views, layers in ((rendered, 1), (sensed, 2)):
        assert all(np.isnan(v.joints).all() and v.joints.shape == (14, 3) and len(v.layers) == layers for v in views)
        windows = [draw_window(v, crop, HandWindowsConfig(), rng)[0] for v in views]
        assert sum((w[0] < 1).mean() > 0.005 for w in windows) >= 8  # something is seen
    assert all((w[1] == 1).all() for w in windows)  # of no hand the rendering is empty

    center = np.array([-0.1, 0.0, 0.6])
    other = np.array([0.35, 0.0, 0.7])
    depth = np.minimum(ball(tuple(center), 0.06), ball(tuple(other), 0.06))
    joints = center + np.random.default_rng(1).uniform(-0.05, 0.05, (1, 14, 3))
    toy_hand.write_nyu(tmp_path / "train", [depth], joints)
    frames = read_frames("nyu", tmp_path, "train")
    for _ in range(20):
        view = elsewhere(frames, 0, crop, rng)
        assert view is not None and np.isnan(view.joints).all()
        assert (np.abs(frames.joints[0] - view.center).max(1) > crop.half).all()
        middle = (view.camera.width - 1) / 2
        np.testing.assert_allclose(view.camera.pixels(view.center[None])[0], middle)
        seen, nothing = view.layers
        assert not nothing.any() and seen[round(middle), round(middle)] == pytest.approx(view.center[2], abs=0.03)
    lonely = np.where(depth < 1.0, depth, 0.0).astype(np.float32)
    lonely[:, 320:] = 0.0
    toy_hand.write_nyu(tmp_path / "lonely", [lonely], joints)
    assert elsewhere(read_frames("nyu", tmp_path, "lonely"), 0, crop, rng) is None


def test_a_share_of_the_samples_is_without_a_hand(hand: SkinnedHand, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pose = PosePrior(hand.skeleton, PoseConfig()).draw(rng)
    joints = hand.skeleton.points(pose[None], *hand.skeleton.on_bones(NYU14))
    toy_hand.write_nyu(tmp_path / "train", [ball((0.0, 0.0, 0.6), 0.06)], joints)
    frames, hands = read_frames("nyu", tmp_path, "train"), [(hand, NYU14)]
    for presence in (False, True):
        windows = {"absent": 0.5, "uses_per_view": 1}
        source = HandSource(
            HandCrop(),
            HandSyntheticConfig(**windows),
            HandWindowsConfig(**windows),
            hands,
            np.zeros((0, hand.skeleton.size)),
            frames,
            hands,
            np.zeros(1, np.int64),
            [pose],
            presence,
        )
        synthetic, pairs = source.open(True, True, rng)
        assert synthetic is not None and pairs is not None
        for samples in (synthetic, pairs):
            labels = [samples.draw()[-1] for _ in range(40)]
            without = [bool(np.isnan(y).all()) for y in labels]
            assert without == [bool(np.isnan(y).any()) for y in labels]
            assert 5 < sum(without) < 35 if presence else not any(without)
            samples.close()


def test_simulated_hands_have_a_forearm(hand: SkinnedHand) -> None:
    """It follows the wrist, joins the hand, and its length is what is asked for."""
    with_arm = with_forearm(hand, length=0.25)
    count = len(hand.vertices)
    bent = hand.bind.copy()
    bent[RIGID + hand.skeleton.angles.index("forearm_x")] += 0.6
    before, after = with_arm.posed(hand.bind)[count:], with_arm.posed(bent)[count:]
    wrist = hand.skeleton.points(hand.bind[None], *hand.skeleton.on_bones(NYU14))[
        0, [i for i, x in enumerate(NYU14) if x.bone == "forearm"]
    ].mean(0)
    distance = np.linalg.norm(before - wrist, axis=1)
    assert distance.min() < 0.04 and distance.max() == pytest.approx(0.25, abs=0.03)
    np.testing.assert_allclose(with_arm.posed(hand.bind)[:count], hand.posed(hand.bind), atol=1e-6)
    # Turned about the wrist.
    assert np.linalg.norm(after - before, axis=1).max() == pytest.approx(2 * 0.25 * np.sin(0.3), abs=0.03)
    inside = np.linalg.norm(after[:, None] - after[None], axis=-1) - np.linalg.norm(
        before[:, None] - before[None], axis=-1
    )
    assert np.abs(inside).max() < 1e-5  # as one piece


# Datasets


def test_nyu_and_icvl_layouts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    depth = rng.integers(0, 65535, (480, 640)).astype(np.float32) * np.float32(1e-3)
    joints = rng.normal([0, 0, 0.7], 0.05, (2, 14, 3))
    toy_hand.write_nyu(tmp_path / "nyu" / "test", [depth, depth[::-1]], joints)
    frames = read_frames("nyu", tmp_path / "nyu", "test")
    assert len(frames) == 2 and frames.camera.width == 640
    np.testing.assert_allclose(frames.joints, joints, atol=1e-9)
    np.testing.assert_allclose(frames.depth(0), depth, atol=1e-6)

    # Of another camera: pixels and depths stay, metres change.
    (tmp_path / "nyu" / "test" / "camera.txt").write_text("500 500 320 240\n")
    other = read_frames("nyu", tmp_path / "nyu", "test")
    np.testing.assert_allclose(other.joints, joints * [588.03 / 500, 587.07 / 500, 1], atol=1e-9)
    np.testing.assert_allclose(other.camera.K[0, 0], 500)
    (tmp_path / "nyu" / "test" / "camera.txt").write_text("500 500")
    with pytest.raises(InputError, match=r"camera.txt: expected fx fy cx cy"):
        read_frames("nyu", tmp_path / "nyu", "test")

    folder = tmp_path / "icvl" / "Testing" / "Depth" / "test_seq_1"
    folder.mkdir(parents=True)
    millimetres = rng.integers(200, 500, (240, 320)).astype(np.uint16)
    cv2.imwrite(str(folder / "image_0000.png"), millimetres)
    points = rng.normal([0, 0, 0.35], 0.03, (2, 16, 3))
    uvd = DATASETS["icvl"].to_uvd(points).reshape(2, -1)
    lines = [f"test_seq_1/image_000{k}.png " + " ".join(f"{x:.6f}" for x in uvd[k]) for k in range(2)]
    (tmp_path / "icvl" / "Testing" / "labels.txt").write_text("\n".join(lines) + "\n\n")
    frames = read_frames("icvl", tmp_path / "icvl", "Testing")
    assert len(frames) == 1 and frames.camera.height == 240  # the second image is not there
    np.testing.assert_allclose(frames.joints[0], points[0], atol=1e-6)
    np.testing.assert_allclose(frames.depth(0), millimetres * np.float32(1e-3))

    with pytest.raises(InputError, match="NYU's annotations"):
        read_frames("nyu", tmp_path, "test")
    (tmp_path / "icvl" / "Testing" / "labels.txt").write_text("image.png 1 2 3\n")
    with pytest.raises(InputError, match=r"labels.txt:1: expected 48 numbers"):
        read_frames("icvl", tmp_path / "icvl", "Testing")
    (tmp_path / "no.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"no\.png: expected a picture"):
        read_depth(tmp_path / "no.png")


def test_sensor_leaves_gaps_and_keeps_the_rest(hand: SkinnedHand) -> None:
    depth = ball((0.0, 0.0, 0.7), 0.08)
    for kind in ("structured_light", "time_of_flight"):
        seen = sense(depth, CAMERA.K, DepthSensorConfig(kind=kind), np.random.default_rng(0))
        assert seen.dtype == np.float32 and seen.shape == depth.shape and np.isfinite(seen).all()
        known = seen > 0
        middle = np.s_[200:280, 280:360]
        assert known[middle].mean() > 0.9
        assert np.median(np.abs(seen - depth)[middle][known[middle]]) < 0.004
    shadow = (
        sense(depth, CAMERA.K, DepthSensorConfig(dropped=0.0, slant=0.0, edge_jitter=0.0), np.random.default_rng(0))
        == 0
    )
    u = np.nonzero(shadow)[1]
    assert len(u) > 500 and u.mean() < 320  # the projector is to the camera's right: its shadow falls to the left
    exact = sense(
        depth, CAMERA.K, DepthSensorConfig("structured_light", 0.0, 0.0, 0.0, 0.0, 0.0, 0.0), np.random.default_rng(0)
    )
    assert exact.shape == depth.shape


# Evaluation


def test_published_results_give_the_published_errors(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if not (DATA / "nyu").is_dir():
        pytest.skip(f"{DATA}/nyu is not there (set FM_POSE_DATA)")
    results = DATA / "nyu" / "results"
    files = [
        str(results / f"{name}.txt")
        for name in (
            "CVPR18_NYU_DeepPrior++_FM",
            "ICCVW17_NYU_DeepPrior++",
            "ICIP17_NYU_REN_4x6x6",
            "ICCV15_NYU_Feedback",
        )
    ]
    arguments = [
        "evaluate",
        "hand",
        "--dataset",
        "nyu",
        "--groundtruth",
        str(DATA / "nyu" / "nyu_test_groundtruth_label.txt"),
        "--predictions",
        *files,
    ]
    assert main([*arguments, "--json", str(tmp_path / "s.json"), "--figure", str(tmp_path / "f.png")]) == 0
    scores = json.loads((tmp_path / "s.json").read_text())
    assert [round(s["mean_error_mm"], 2) for s in scores] == [7.44, 12.24, 13.39, 15.97]
    assert [round(100 * s["frames_within"]["20mm"], 1) for s in scores] == [82.8, 44.7, 42.9, 18.9]
    assert "7.44" in capsys.readouterr().out
    assert (tmp_path / "f.png").stat().st_size > 10_000


def test_files_in_the_published_format(tmp_path: Path) -> None:
    dataset = DATASETS["nyu"]
    joints = np.random.default_rng(0).normal([0, 0, 0.7], 0.05, (3, 14, 3))
    write_joints(tmp_path / "a.txt", dataset, joints, ["a.png", "b.png", "c.png"])
    write_joints(tmp_path / "b.txt", dataset, joints)
    for name in "ab":
        np.testing.assert_allclose(read_labels(tmp_path / f"{name}.txt", dataset)[1], joints, atol=2e-6)
    moved = joints + np.array([0.003, 0.0, 0.004])
    moved[1, 5] += [0.0, 0.1, 0.0]
    score = score_joints("ours", joints, moved, dataset.joints)
    assert score.errors[0] == pytest.approx(np.full(14, 0.005))
    assert score.within(0.02) == pytest.approx(2 / 3) and score.within(0.2) == 1.0
    moved[2, 0] = np.nan
    # A missing joint is no joint.
    assert score_joints("ours", joints, moved, dataset.joints).within(10.0) == pytest.approx(2 / 3)
    (tmp_path / "c.txt").write_text("1 2 3\n")
    with pytest.raises(InputError, match=r"c\.txt:1: expected 42 numbers"):
        read_labels(tmp_path / "c.txt", dataset)
    (tmp_path / "c.txt").write_text(" ".join(["x"] * 42))
    with pytest.raises(InputError, match=r"c\.txt:1: expected numbers"):
        read_labels(tmp_path / "c.txt", dataset)
    with pytest.raises(InputError, match="expected 3 frames"):
        score_joints("ours", joints, moved[:2], dataset.joints)


def test_unknown_joints_count_in_nothing() -> None:
    """An unknown truth is no error; a missing prediction of a known joint is an infinite one."""
    names = ("a", "b", "c")
    truth = np.tile([0.0, 0.0, 0.5], (4, 3, 1))
    predictions = truth + np.array([0.003, 0.0, 0.004])
    truth[0, 1], truth[1], truth[:, 2] = np.nan, np.nan, np.nan
    score = score_joints("ours", truth, predictions, names)
    assert score.mean == pytest.approx(0.005) and score.within(0.006) == 1.0 and score.within(0.004) == 0.0
    said = score.to_json()
    assert said["frames"] == 3 and said["per_joint_mm"] == {"a": pytest.approx(5), "b": pytest.approx(5), "c": None}
    predictions[0, 1], predictions[2, 0] = np.nan, np.nan
    score = score_joints("ours", truth, predictions, names)
    assert score.mean == np.inf and score.within(1.0) == pytest.approx(2 / 3)
    np.testing.assert_allclose(score.of_joints, [np.inf, 0.005, np.nan])
    assert " 3      inf " in table([score])
    with pytest.raises(InputError, match="ground truth: expected at least one known joint"):
        score_joints("ours", np.full_like(truth, np.nan), predictions, names)


def test_training_takes_the_frames_whose_joints_are_all_known(tmp_path: Path) -> None:
    joints = np.random.default_rng(0).normal([0, 0, 0.7], 0.05, (4, 14, 3))
    toy_hand.write_nyu(tmp_path / "train", [ball((0.0, 0.0, 0.7), 0.05)] * 4, joints)
    frames = read_frames("nyu", tmp_path, "train")
    assert frames.fully_labelled() is frames
    frames.joints[1, 5], frames.joints[2] = np.nan, np.nan
    known = frames.fully_labelled()
    assert known.paths == (frames.paths[0], frames.paths[3]) and np.isfinite(known.joints).all()
    np.testing.assert_array_equal(known.joints, frames.joints[[0, 3]])
    with pytest.raises(InputError, match="expected a frame with all joints known, got none"):
        frames.chosen([1, 2]).fully_labelled()
    with pytest.raises(InputError, match="joints: expected known ones"):
        annotated_hand(frames.depth(1), frames.camera, frames.joints[1])
    # What is known says where the hand is.
    a, b = (hand_near(frames.depth(1), frames.camera, x) for x in (frames.joints[1], np.delete(frames.joints[1], 5, 0)))
    assert a is not None and b is not None
    np.testing.assert_array_equal(a.center, b.center)
    assert hand_near(frames.depth(2), frames.camera, frames.joints[2]) is None


def test_depth_maps_without_labels(tmp_path: Path) -> None:
    K = np.array([[400.0, 0, 30], [0, 400, 20], [0, 0, 1]])
    with pytest.raises(InputError, match=r"expected depth maps \(PNG\), got none"):
        read_unlabelled(tmp_path, DATASETS["nyu"], K)
    for name, value in (("b/2", 8000), ("a/10", 4000), ("a/9", 2000)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((40, 60), value, np.uint16))
    frames = read_unlabelled(tmp_path, DATASETS["nyu"], K, 0.000125)
    assert [float(frames.depth(k).mean()) for k in range(3)] == pytest.approx([0.25, 0.5, 1.0])
    assert (frames.camera.width, frames.camera.height) == (60, 40) and np.isnan(frames.chosen([1]).joints).all()
    assert frames.chosen([2]).depth(0).mean() == pytest.approx(1.0)  # the unit goes along
    for bad in (np.zeros((40, 60, 3), np.uint8), np.zeros((20, 60), np.uint16)):
        cv2.imwrite(str(tmp_path / "b" / "3.png"), bad)
        with pytest.raises(InputError, match="expected a depth map of 16 bit, 60x40 as the first"):
            read_unlabelled(tmp_path, DATASETS["nyu"], K)


# NYU's annotations


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", ["f8", "f4", "i4", "u1"])
def test_arrays_of_matlab_files_are_read_as_scipy_writes_them(kind: str, compressed: bool, tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    truth = np.random.default_rng(0).uniform(0, 200, (3, 5, 36, 3)).astype(kind)
    others = {"names": np.array(["a", "bc"], object), "short": np.arange(3), "joint_uvd": truth, "s": {"q": 1.0}}
    scipy_io.savemat(tmp_path / "a.mat", others, do_compression=compressed)
    np.testing.assert_array_equal(read_array(tmp_path / "a.mat", "joint_uvd"), truth)
    np.testing.assert_array_equal(read_array(tmp_path / "a.mat", "short"), [[0, 1, 2]])
    with pytest.raises(InputError, match=r"a\.mat: expected the array names, got none of real numbers"):
        read_array(tmp_path / "a.mat", "names")


def test_plain_arrays_behind_compressed_ones_are_read(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    rng = np.random.default_rng(0)
    for k in range(8):  # compressed to any length
        scipy_io.savemat(tmp_path / "a.mat", {"a": rng.integers(0, 99, 10 + k)}, do_compression=True)
        scipy_io.savemat(tmp_path / "b.mat", {"b": np.arange(4.0), "c": np.arange(5.0)})
        (tmp_path / "c.mat").write_bytes((tmp_path / "a.mat").read_bytes() + (tmp_path / "b.mat").read_bytes()[128:])
        np.testing.assert_array_equal(read_array(tmp_path / "c.mat", "c"), [np.arange(5.0)])


def test_matlab_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    for head in (b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM", b"MATLAB 5.0".ljust(124) + b"\1\0MI", b"", b"x" * 100):
        (tmp_path / "a.mat").write_bytes(head + bytes(64))
        with pytest.raises(InputError, match=r"a\.mat: expected a MATLAB file of level 5"):
            read_array(tmp_path / "a.mat", "joint_uvd")
