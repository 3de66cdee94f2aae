"""Several nodes in one process, as a process of their own."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy", reason="ROS 2 (rclpy) is not installed")

import numpy as np
import toy_hand
from camera_rig import CAMERA, ROOT, Peer, ends_cleanly, image_msg, info_msg, start
from fm_pose_ros.msg import HandJoints
from sensor_msgs.msg import Image
from test_object_pose_node import U, V
from toy_bundle import toy_image


@pytest.fixture(scope="module")
def toy_hand_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_hand.write_toy_hand(tmp_path_factory.mktemp("bundles") / "toy_hand")


def test_an_object_and_a_hand_node_in_one_process(toy_bundle: Path, toy_hand_bundle: Path, tmp_path: Path) -> None:
    peer = Peer(("pose",), node="left", image="front/image")
    peer.listen(HandJoints, f"/{peer.namespace}/gestures/joints", "joints")
    depths = peer.peer.create_publisher(Image, "depth/image_rect_raw", 5)
    common = {"backend": "onnxruntime"}
    here = {"bundle": str(toy_bundle), "window_source": "fixed", "window_u": U, "window_v": V}
    parameters = {
        "/**/left": {"ros__parameters": {**common, **here}},
        "/**/gestures": {"ros__parameters": {**common, "bundle": str(toy_hand_bundle)}},
    }
    (tmp_path / "nodes.yaml").write_text(yaml.safe_dump(parameters))
    ros = ["--ros-args", "-r", f"__ns:=/{peer.namespace}", "--params-file", str(tmp_path / "nodes.yaml")]
    ros += ["-r", "left:image_raw:=front/image"]
    process = start(peer, "pose_nodes", "object_pose_node:left", "hand_pose_node:gestures", *ros)
    depth = toy_hand.toy_depth(CAMERA, np.array([0.05, -0.02, 0.6]))
    try:
        stamps = iter(range(1, 10**6))

        def send() -> bool:
            assert process.poll() is None, process.communicate()[1]
            peer.infos.publish(info_msg())
            stamp = float(next(stamps))
            peer.images.publish(image_msg(toy_image(CAMERA, U, V), stamp))
            picture = image_msg(depth.view(np.uint8).reshape(*depth.shape, 4), stamp, "32FC1")
            depths.publish(picture)
            return bool(peer.heard["pose"]) and any(joints.valid for joints in peer.heard["joints"])

        peer.wait(send, "a pose and a hand")
        ends_cleanly(process)
    finally:
        process.kill()
        peer.close()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["camera_node:left"], 2, "expected KIND:NAME with a kind of object_pose_node, hand_pose_node, got"),
        (["object_pose_node:a-b"], 2, "expected KIND:NAME"),
        (["object_pose_node:left", "hand_pose_node:left"], 2, "expected different names, got left left"),
        (["object_pose_node:a", "hand_pose_node:b", "--ros-args", "-p", "b:min_score:=2.0"], 1, "min_score"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(arguments: list[str], status: int, message: str) -> None:
    peer = Peer()
    process = start(peer, "pose_nodes", *arguments)
    _, errors = process.communicate(timeout=20)
    peer.close()
    assert process.returncode == status and message in errors and "Traceback" not in errors


FAULTY = """
import rclpy
from rclpy.node import Node
from fm_pose_ros.lifecycle import run_nodes


class Steady(Node):
    def __init__(self):
        super().__init__("steady")

    def finish(self):
        print("finished", flush=True)
        self.destroy_node()


class Faulty(Steady):
    def __init__(self):
        super().__init__()
        self.create_timer(0.01, lambda: 1 / 0)


run_nodes([Steady, Faulty], "nodes")
"""


def test_a_fault_in_one_node_ends_all_and_is_told() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTY], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and done.stdout == "finished\n" and "ZeroDivisionError" in done.stderr
