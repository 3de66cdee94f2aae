"""A depth map in, named joints out: what the node publishes is the estimator's own answer, and never an old one."""

import array
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import toy_hand
from camera_rig import CAMERA, FRAME, Rig, detections_msg, header
from sensor_msgs.msg import CompressedImage, Image

from fm_pose_core import HandEstimatorConfig
from fm_pose_core.hands.estimator import HandEstimator, HandPose
from fm_pose_ros.hand_pose_node import HandPoseNode

CENTER = np.array([0.08, -0.04, 0.6])
DEPTH = toy_hand.toy_depth(CAMERA, CENTER)
EMPTY = np.full((240, 320), 3.0, np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_hand.write_toy_hand(tmp_path_factory.mktemp("bundles") / "toy_hand")


@pytest.fixture
def hand_rig(bundle: Path) -> Iterator[Callable[..., Rig]]:
    rigs = []

    def make(listen: tuple[str, ...] = ("joints",), *, connected: bool = True, **parameters: object) -> Rig:
        topics = {"image": "depth/image_rect_raw", "node": "hand_pose_node", "compressed": "/compressedDepth"}
        made = Rig(bundle, parameters, listen, HandPoseNode, **topics)
        rigs.append(made)
        if connected:
            made.wait_active()
        return made

    yield make
    for made in rigs:
        made.close()


def depth_msg(depth: np.ndarray, stamp: float, encoding: str = "16UC1", padding: int = 0, big: bool = False) -> Image:
    values = np.rint(depth * 1000) if encoding != "32FC1" else depth
    kind = np.dtype("u2" if encoding != "32FC1" else "f4").newbyteorder(">" if big else "<")
    rows = np.ascontiguousarray(values.astype(kind)).view(np.uint8).reshape(len(depth), -1)
    rows = np.hstack([rows, np.full((len(depth), padding), 255, np.uint8)])
    return Image(
        header=header(stamp),
        height=depth.shape[0],
        width=depth.shape[1],
        encoding=encoding,
        is_bigendian=int(big),
        step=rows.shape[1],
        data=array.array("B", rows.tobytes()),
    )


def reference(bundle: Path, depth: np.ndarray) -> HandPose:
    pose = HandEstimator.load(bundle, HandEstimatorConfig(backend="onnxruntime", threads=1, views=1)).estimate(
        depth, CAMERA
    )
    assert pose is not None and pose.accepted
    return pose


def positions(msg: object) -> np.ndarray:
    return np.array([[p.x, p.y, p.z] for p in msg.positions])  # type: ignore[attr-defined]


def test_publishes_the_estimators_answer_on_every_topic(hand_rig: Callable[..., Rig], bundle: Path) -> None:
    r = hand_rig(("joints", "poses", "markers", "overlay"), publish_tf=True)
    r.send_info()
    image = depth_msg(DEPTH, 12.25, "32FC1")
    expected = reference(bundle, DEPTH)
    joints = r.send(image, "joints")
    assert joints.header == image.header and joints.valid and joints.name == "toy_hand" and not joints.left
    assert tuple(joints.joint_names) == toy_hand.NAMES and all(joints.joint_valid)
    np.testing.assert_allclose(positions(joints), expected.joints, atol=1e-12)
    np.testing.assert_allclose(positions(joints), toy_hand.toy_joints(DEPTH, CAMERA), atol=1e-5)
    np.testing.assert_allclose(joints.deviations, expected.spread)
    assert joints.score == expected.score

    poses = r.answer("poses", image.header.stamp)
    np.testing.assert_allclose(
        [[p.position.x, p.position.y, p.position.z] for p in poses.poses], expected.joints, atol=1e-12
    )
    bones, spheres = r.wait(lambda: r.heard["markers"])[0].markers
    assert (
        bones.header == image.header
        and len(bones.points) == 2 * len(toy_hand.ENTRY.bones)
        and len(spheres.points) == 14
    )
    transforms = r.wait(lambda: r.heard["tf"])[0].transforms
    assert [t.child_frame_id for t in transforms] == [f"toy_hand/{n}" for n in toy_hand.NAMES]
    assert all(t.header == image.header and t.header.frame_id == FRAME for t in transforms)
    overlay = r.answer("overlay", image.header.stamp)
    assert (overlay.encoding, overlay.height, overlay.width) == ("rgb8", 240, 320)


def test_every_encoding_gives_the_same_joints(hand_rig: Callable[..., Rig], bundle: Path) -> None:
    r = hand_rig()
    r.send_info()
    whole = (np.rint(DEPTH * 1000) * 1e-3).astype(np.float32)
    expected = reference(bundle, whole).joints
    for i, (encoding, padding, big) in enumerate(
        [("16UC1", 0, False), ("mono16", 6, False), ("16UC1", 0, True), ("32FC1", 4, False), ("32FC1", 0, True)]
    ):
        np.testing.assert_allclose(
            positions(r.send(depth_msg(whole, 1.0 + i, encoding, padding, big), "joints")), expected, atol=1e-6
        )
    holes = whole.copy()
    holes[:40] = np.nan
    assert r.send(depth_msg(holes, 9.0, "32FC1"), "joints").valid


def test_compressed_depth(hand_rig: Callable[..., Rig], bundle: Path) -> None:
    r = hand_rig(image_transport="compressed")
    r.send_info()
    whole = (np.rint(DEPTH * 1000) * 1e-3).astype(np.float32)
    png = cv2.imencode(".png", np.rint(whole * 1000).astype(np.uint16))[1].tobytes()
    msg = CompressedImage(
        header=header(1.0), format="16UC1; compressedDepth png", data=array.array("B", bytes(12) + png)
    )
    np.testing.assert_allclose(positions(r.send(msg, "joints")), reference(bundle, whole).joints, atol=1e-6)
    # 32FC1 is stored as inverse depth: a / depth + b, in whole numbers.
    a, b = 5000.0, 10.0
    png = cv2.imencode(".png", np.rint(a / whole + b).astype(np.uint16))[1].tobytes()
    parameters = bytes(4) + np.array([a, b], "<f4").tobytes()
    msg = CompressedImage(header=header(2.0), format="32FC1; compressedDepth", data=array.array("B", parameters + png))
    np.testing.assert_allclose(positions(r.send(msg, "joints")), reference(bundle, whole).joints, atol=1e-3)
    r.compressed.publish(
        CompressedImage(header=header(3.0), format="16UC1; compressedDepth", data=array.array("B", b"rubbish"))
    )
    r.wait(lambda: any("depth.data" in w for w in r.warnings()), "a warning")


def test_no_hand_is_an_empty_message_and_never_an_old_pose(hand_rig: Callable[..., Rig]) -> None:
    r = hand_rig(("joints", "poses", "markers"))
    r.send_info()
    assert r.send(depth_msg(DEPTH, 1.0), "joints").valid
    empty = r.send(depth_msg(EMPTY, 2.0), "joints")
    assert not empty.valid and tuple(empty.joint_names) == toy_hand.NAMES
    assert np.isnan(positions(empty)).all() and not any(empty.joint_valid) and np.isinf(empty.deviations).all()
    assert {len(x) for x in (empty.positions, empty.joint_valid, empty.deviations)} == {len(toy_hand.NAMES)}
    assert not r.answer("poses", empty.header.stamp).poses
    gone = r.wait(lambda: [m for m in r.heard["markers"] if m.markers[0].header.stamp == empty.header.stamp])[0]
    assert {m.action for m in gone.markers} == {2}  # DELETE
    assert r.send(depth_msg(DEPTH, 3.0), "joints").valid


def test_the_other_hand_goes_through_mirrored(hand_rig: Callable[..., Rig], bundle: Path) -> None:
    r = hand_rig(mirror=True)
    r.send_info()
    joints = r.send(depth_msg(DEPTH, 1.0, "32FC1"), "joints")
    assert joints.left and joints.valid
    offsets = positions(joints) - toy_hand.toy_joints(DEPTH, CAMERA)
    np.testing.assert_allclose(offsets, toy_hand.PATTERN * [-2.0, 0.0, 0.0], atol=1e-3)


def test_the_depth_range_is_a_parameter(hand_rig: Callable[..., Rig]) -> None:
    r = hand_rig(farthest=0.4)
    r.send_info()
    assert not r.send(depth_msg(DEPTH, 1.0), "joints").valid


def test_a_detection_says_where_to_look(hand_rig: Callable[..., Rig]) -> None:
    far = np.array([-0.25, 0.1, 1.0])
    both = np.minimum(DEPTH, toy_hand.toy_depth(CAMERA, far))
    r = hand_rig(window_source="detections", detection_class="hand")
    r.send_info()
    u, v = CAMERA.pixels(far[None])[0]
    for stamp, name, valid in ((1.0, "hand", True), (2.0, "foot", False)):
        r.images.publish(depth_msg(both, stamp))
        r.detections.publish(detections_msg(stamp, (name, 0.9, u, v)))
        joints = r.answer("joints", header(stamp).stamp)
        assert joints.valid == valid
        if valid:
            assert np.linalg.norm(positions(joints).mean(0) - toy_hand.PATTERN.mean(0) - far) < 0.06


def test_a_search_from_far_to_near_is_refused_at_the_start(hand_rig: Callable[..., Rig]) -> None:
    r = hand_rig(nearest=1.0, farthest=0.5, connected=False)
    r.wait(lambda: any("nearest: expected less than farthest (0.5), got 1.0" in w for w in r.warnings()), "the error")
    assert r.node.state == "unconfigured"


def test_a_hand_is_tracked_lost_and_found_elsewhere(hand_rig: Callable[..., Rig]) -> None:
    """Two hands abreast: the one that was there first is kept, even when the other comes nearer, until it is gone."""
    r = hand_rig(window_source="tracking")
    r.send_info()
    left, right = np.array([-0.12, 0.0, 0.6]), np.array([0.12, 0.02, 0.63])
    nearer = np.array([0.12, 0.02, 0.55])
    both = np.minimum(toy_hand.toy_depth(CAMERA, left), toy_hand.toy_depth(CAMERA, nearer))
    shown = [
        (toy_hand.toy_depth(CAMERA, left), left),
        (both, left),
        (toy_hand.toy_depth(CAMERA, nearer), nearer),
        (both, nearer),
        (EMPTY, None),
        (toy_hand.toy_depth(CAMERA, right), right),
    ]
    for i, (depth, where) in enumerate(shown):
        msg = r.send(depth_msg(depth, 1.0 + 0.1 * i, "32FC1"), "joints")
        assert msg.valid == (where is not None)
        if where is not None:
            np.testing.assert_allclose(positions(msg).mean(0)[:2], (where + toy_hand.PATTERN.mean(0))[:2], atol=0.02)
    msg = r.send(depth_msg(toy_hand.toy_depth(CAMERA, left), 2.0, "32FC1"), "joints")
    msg = r.send(depth_msg(both, 3.0, "32FC1"), "joints")  # a second later it may be anywhere: the nearest is taken
    np.testing.assert_allclose(positions(msg).mean(0)[:2], (nearer + toy_hand.PATTERN.mean(0))[:2], atol=0.02)


def test_bad_messages_give_one_warning_each_and_no_joints(hand_rig: Callable[..., Rig]) -> None:
    r = hand_rig()
    r.send_info()
    good = depth_msg(DEPTH, 1.0)
    rgb, short, small, empty = (depth_msg(DEPTH, 2.0 + k) for k in range(4))
    rgb.encoding = "rgb8"
    short.data = short.data[:-10]
    small.step = 10
    empty.width = empty.height = 0
    for msg, word in ((rgb, "depth.encoding"), (short, "depth.data"), (small, "depth.step"), (empty, "image size:")):
        r.images.publish(msg)
        r.wait(lambda word=word: [w for w in r.warnings() if word in w], word)
    assert len(r.warnings()) == 4 and not r.heard["joints"]
    good.header.stamp = header(10.0).stamp
    assert r.send(good, "joints").valid
    status = r.wait(
        lambda: (
            s if (s := r.status()).get("state") == "active" and s.get("camera_info", "").startswith("320x240") else None
        )
    )
    assert status["backend"] == "onnxruntime"
