"""The demo as `make demo` runs it, on a few frames: the nodes as processes of their own, real DDS, and the bag read
back."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 (rclpy) is not installed")
pytest.importorskip("fm_pose_ros.msg", reason="the messages of fm_pose_ros are not built: make environment")
pytest.importorskip("rosbags", reason="rosbags (the extra [demo]) is not installed")

import tiny_bop as tiny
import toy_hand
from ament_index_python.packages import get_package_share_directory
from rclpy.serialization import deserialize_message
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader
from toy_bundle import write_toy_bundle
from vision_msgs.msg import Detection3DArray

from fm_pose_core.geometry import rotation_from_quaternion
from fm_pose_core.hands.labels import DATASETS
from fm_pose_core.objects.bop import BopDataset, read_results
from fm_pose_core.types import Camera
from fm_pose_ros.demo import player
from fm_pose_ros.demo.__main__ import main

TRAINING = ("trimesh", "embreex", "pyrender")
NODE_TOPICS = {
    "/object_pose_node/detections",
    "/object_pose_node/boxes",
    "/object_pose_node/pose",
    "/object_pose_node/overlay/compressed",
    "/tf",
}
CAMERA_TOPICS = {"/image_raw/compressed", "/camera_info", "/detections_2d"}


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A ROS domain of its own for the demo and the node that it starts."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(101 + os.getpid() % 100))
    yield


@pytest.fixture
def sequence(tmp_path: Path) -> Path:
    return tiny.write_tiny_bop(tmp_path / "sequence")


def arguments(bundle: Path, sequence: Path, output: Path) -> list[str]:
    """The frames of tiny_bop jump, so each needs its detection."""
    return [
        "object",
        "--bundle",
        str(bundle),
        "--sequence",
        str(sequence),
        "--output",
        str(output),
        "--window-source",
        "detections",
        "--every",
        "1",
        "--set",
        "views=1",
    ]


def run(argv: list[str]) -> "subprocess.CompletedProcess[str]":
    """In a process of its own: the settings of the middleware hold for a whole process, and other tests have begun this
    one. Without what `make demo` does not install."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({TRAINING})); "
        "from fm_pose_ros.demo.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, timeout=120)


def test_demo(domain: None, toy_bundle: Path, sequence: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    (output / "bag").mkdir(parents=True)
    (output / "bag" / "old.mcap").write_text("left by an earlier demo")
    (output / "mine.txt").write_text("not the demo's")
    done = run(arguments(toy_bundle, sequence, output))
    assert done.returncode == 0, done.stderr
    assert "4, 3 with a pose" in done.stdout and "75.0 %" in done.stdout and "no pose" in done.stdout
    assert (output / "mine.txt").is_file()

    rows = list(csv.reader((output / "poses.csv").open()))
    assert [row[0] for row in rows[1:]] == ["2", "3", "4", "5"]
    assert all(float(row[1]) < 1.0 for row in rows[1:] if row[0] != str(tiny.BLUE))  # pixels
    assert cv2.imread(str(output / "overlay.png")) is not None
    video = cv2.VideoCapture(str(output / "overlay.mp4"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 4

    check_bag(output / "bag", BopDataset(sequence))


def check_bag(bag: Path, dataset: BopDataset) -> None:
    """All topics, all frames; definitions inside the bag suffice to read it; the messages are the node's, their poses
    the truth."""
    truths = {x.im_id: x.T_camera_object for x in dataset.instances("test", [1])}
    assert [file.suffix for file in sorted(bag.iterdir())] == [".mcap", ".yaml"]
    with AnyReader([bag]) as reader:  # without a type store: only what the bag says
        counts = {c.topic: c.msgcount for c in reader.connections}
        assert counts.keys() >= NODE_TOPICS | CAMERA_TOPICS
        assert all(counts[t] == 4 for t in CAMERA_TOPICS | {"/object_pose_node/detections", "/object_pose_node/boxes"})
        assert counts["/object_pose_node/pose"] == counts["/tf"] == 3
        stamps, poses, first_seen = [], {}, {}
        for connection, when, raw in reader.messages():
            msg = reader.deserialize(raw, connection.msgtype)
            head = msg.transforms[0].header if connection.topic == "/tf" else getattr(msg, "header", None)
            if head is None:
                continue
            stamp = head.stamp.sec * 10**9 + head.stamp.nanosec
            first_seen.setdefault(stamp, {}).setdefault(connection.topic, when)
            if connection.topic == "/image_raw/compressed":
                assert cv2.imdecode(np.asarray(msg.data), cv2.IMREAD_COLOR).shape == (240, 320, 3)
                stamps.append(stamp)
            if connection.topic == "/object_pose_node/pose":
                poses[stamp] = msg.pose
            if connection.topic == "/object_pose_node/boxes" and msg.boxes:
                assert msg.boxes[0].u.shape == (8,)
            if connection.topic == "/tf":
                assert (
                    msg.transforms[0].header.frame_id == player.FRAME and msg.transforms[0].child_frame_id == "toy_box"
                )
    for stamp, im_id in zip(stamps, sorted(truths), strict=True):
        seen = first_seen[stamp]
        assert seen["/image_raw/compressed"] < seen["/object_pose_node/detections"]
        if im_id != tiny.BLUE:
            p, q = poses[stamp].position, poses[stamp].orientation
            assert np.allclose([p.x, p.y, p.z], truths[im_id][:3, 3], atol=2e-3)
            assert np.allclose(
                rotation_from_quaternion(np.array([q.x, q.y, q.z, q.w])), truths[im_id][:3, :3], atol=0.02
            )
    with Reader(bag) as reader:  # the very bytes of the middleware, and the type's hash as ROS knows it
        connection = next(c for c in reader.connections if c.topic == "/object_pose_node/detections")
        _, _, raw = next(reader.messages([connection]))
        assert (
            deserialize_message(bytes(raw), Detection3DArray).detections[0].results[0].hypothesis.class_id == "toy_box"
        )
        for connection in reader.connections:
            package, _, kind = connection.msgtype.split("/")
            module = sys.modules[f"{package}.msg"]
            assert connection.digest == type_hash(getattr(module, kind)), connection.msgtype


def type_hash(kind: type) -> str:
    """The REP 2011 hash that ROS's type description of `kind` was installed with."""
    package, name = kind.__module__.split(".")[0], kind.__name__
    description = json.loads(Path(get_package_share_directory(package), "msg", f"{name}.json").read_text())
    return next(h["hash_string"] for h in description["type_hashes"] if h["type_name"] == f"{package}/msg/{name}")


def test_demo_without_poses_fails(domain: None, toy_bundle: Path, sequence: Path, tmp_path: Path) -> None:
    for path in (sequence / "test" / "000001" / "rgb").glob("*.png"):
        cv2.imwrite(str(path), np.full((240, 320, 3), 30, np.uint8))
    done = run([*arguments(toy_bundle, sequence, tmp_path / "output"), "--frames", "2-3"])
    assert done.returncode == 1
    assert "2 answers to 2 frames, no pose among them" in done.stderr


def test_demo_tells_why_the_node_does_not_start(
    domain: None,
    toy_bundle: Path,
    sequence: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (sequence / "broken").mkdir()
    start = player.start_node
    monkeypatch.setattr(
        player,
        "start_node",
        lambda node, parameters, log: start(node, {**parameters, "bundle": sequence / "broken"}, log),
    )
    assert main(arguments(toy_bundle, sequence, tmp_path / "output")) == 1
    error = capsys.readouterr().err
    assert error.count("cannot configure") == 2 and "manifest.json" in error  # from the diagnostics, and in the log


def test_demo_names_what_is_missing(
    sequence: Path, tmp_path: Path, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tmp_path / "nothing", sequence, tmp_path / "output")) == 1
    assert "nothing" in capsys.readouterr().err
    assert main(arguments(toy_bundle, tmp_path / "nowhere", tmp_path / "output")) == 1
    assert "nowhere" in capsys.readouterr().err


def test_scene_demo(domain: None, sequence: Path, tmp_path: Path) -> None:
    """Its own detector finds the object in three photographs of four, in one of them hidden: that one is not asked
    for."""
    bundle, output = write_toy_bundle(tmp_path / "finder", detector=True), tmp_path / "output"
    given = ["--bundle", str(bundle), "--sequence", str(sequence), "--output", str(output), "--every", "1"]
    done = run(["scene", *given, "--set", "views=1"])
    assert done.returncode == 0, done.stderr
    assert "3, 2 with a pose; 0 other poses" in done.stdout and done.stdout.count(" 66.7 %") == 2, done.stdout
    rows = {row[0]: row for row in csv.reader((output / "images.csv").open())}
    assert rows["2"][1:5] == ["1", "1", "1", "1"] and rows[str(tiny.HIDDEN)][1:3] == ["0", "0"]
    assert rows[str(tiny.BLUE)][1:3] == ["1", "0"]
    found = read_results(output / "results.csv")
    truths = {x.im_id: x.T_camera_object for x in BopDataset(sequence).instances("test", [1])}
    assert [x.im_id for x in found] == [2, 3, tiny.HIDDEN]
    for x in found:
        np.testing.assert_allclose(x.T_camera_object[:3, 3], truths[x.im_id][:3, 3], atol=2e-3)
    assert cv2.imread(str(output / "overlay.png")) is not None
    with AnyReader([output / "bag"]) as reader:
        assert "/detections_2d" not in {c.topic for c in reader.connections}


def test_scene_demo_needs_a_detector(
    sequence: Path, tmp_path: Path, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--sequence", str(sequence), "--output", str(tmp_path / "output")]
    assert main(["scene", "--bundle", str(toy_bundle), *given]) == 1
    assert "expected a bundle with a detector, got one without" in capsys.readouterr().err


def test_hand_demo(domain: None, tmp_path: Path) -> None:
    pytest.importorskip("scipy", reason="scipy (the extra [train]) is not installed")
    nyu = DATASETS["nyu"]
    camera = Camera(np.array([[nyu.fx, 0, nyu.cx], [0, nyu.fy, nyu.cy], [0, 0, 1]]), 640, 480)
    depths = [toy_hand.toy_depth(camera, np.array([0.05 * k, 0.02, 0.7])) for k in range(3)]
    joints = np.stack(
        [toy_hand.toy_joints(np.rint(depth * 1000).astype(np.float32) * np.float32(1e-3), camera) for depth in depths]
    )
    joints[1] += [0.0, 0.0, 0.03]  # the truth of this one is another
    toy_hand.write_nyu(
        tmp_path / "hands" / "test", [*depths, np.full_like(depths[0], 3.0)], np.concatenate([joints, joints[:1]])
    )
    (tmp_path / "hands" / "test" / "joint_data.mat").unlink()  # labels.txt suffices

    bundle, output = toy_hand.write_toy_hand(tmp_path / "toy_hand"), tmp_path / "output"
    done = run(
        [
            "hand",
            "--bundle",
            str(bundle),
            "--sequence",
            str(tmp_path / "hands"),
            "--output",
            str(output),
            "--every",
            "1",
            "--set",
            "views=1",
        ]
    )
    assert done.returncode == 0, done.stderr
    assert all(words in done.stdout for words in ("4, 3 with a hand", "50.0 %", "75.0 %", "no hand")), (
        done.stdout + (output / "node.log").read_text()
    )
    rows = list(csv.reader((output / "joints.csv").open()))
    assert [float(row[1]) for row in rows[1:4]] == pytest.approx([0.0, 30.0, 0.0], abs=0.15)
    assert cv2.imread(str(output / "overlay.png")) is not None
    with AnyReader([output / "bag"]) as reader:
        counts = {c.topic: c.msgcount for c in reader.connections}
        assert (
            counts["/depth/image_rect_raw/compressedDepth"]
            == counts["/hand_pose_node/joints"]
            == counts["/camera_info"]
            == 4
        )
        valid = [
            reader.deserialize(raw, c.msgtype).valid
            for c, _, raw in reader.messages()
            if c.topic == "/hand_pose_node/joints"
        ]
    assert valid == [True, True, True, False]
