"""The launch files start the real nodes, where the launch packages are installed (ROS 2 from PyPI has none)."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy_hand
from camera_rig import CAMERA, Peer, image_msg, info_msg
from test_hand_pose_node import CENTER, depth_msg
from toy_bundle import toy_image

pytest.importorskip("launch_ros", reason="launch and launch_ros are not installed")

from launch.launch_description_sources import PythonLaunchDescriptionSource

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

file, *arguments = sys.argv[1:]
pairs = [argument.split(":=") for argument in arguments]
included = IncludeLaunchDescription(PythonLaunchDescriptionSource(file), launch_arguments=pairs)
service = LaunchService()
service.include_launch_description(LaunchDescription([included]))
sys.exit(service.run())
"""
PARAMETERS = """
/**:
  ros__parameters:
    bundle: /nowhere
    backend: onnxruntime
    views: 1
"""


@pytest.mark.parametrize(
    ("name", "image", "default", "own"),
    [
        (
            "object_pose",
            "image",
            "image_raw",
            ("views", "refine", "support", "max_instances", "child_frame", "tf_prefix"),
        ),
        ("hand_pose", "depth", "depth/image_rect_raw", ("views", "mirror", "tf_prefix")),
    ],
)
def test_every_argument_has_a_default_and_a_description(
    name: str, image: str, default: str, own: tuple[str, ...]
) -> None:
    source = PythonLaunchDescriptionSource(str(LAUNCH / f"{name}.launch.py"))
    description = source.try_get_launch_description_without_context()
    arguments = {argument.name: argument for argument in description.get_launch_arguments()}
    topics = ("bundle", "params_file", "namespace", image, "camera_info", "window_source", "image_transport")
    rest = ("detections", "log_level", "respawn", "use_sim_time", "rviz", "fixed_frame")
    assert tuple(arguments) == (*topics, *own, *rest)
    assert all(a.default_value is not None and a.description for a in arguments.values())
    (text,) = arguments[image].default_value
    assert text.text == default
    (text,) = arguments["params_file"].default_value
    assert Path(text.text).is_file()


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("params_file:=/nowhere.yaml", "params_file: expected a YAML file, got '/nowhere.yaml'"),
        ("rviz:=yes", "rviz: expected true or false, got 'yes'"),
    ],
)
def test_an_argument_that_is_none_ends_the_launch(argument: str, text: str) -> None:
    command = [sys.executable, "-c", RUN, str(LAUNCH / "object_pose.launch.py"), argument]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and text in done.stdout + done.stderr


def test_an_argument_that_the_parameter_file_would_overrule_ends_the_launch(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("object_pose_node:\n  ros__parameters:\n    views: 4\n    marker: mesh\n")
    command = [sys.executable, "-c", RUN, str(LAUNCH / "object_pose.launch.py"), f"params_file:={file}", "views:=1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    told = f"views: expected it as an argument or under object_pose_node in {file}, got both"
    assert done.returncode != 0 and told in done.stdout + done.stderr


def launched(
    peer: Peer, name: str, image: str, bundle: Path, send: Callable[[float], Any], output: str, *more: str
) -> Any:
    """What the node publishes on ~/`output` when it is launched with these arguments. send: publishes an image with
    that stamp. more: arguments."""
    parameters = bundle.parent / "parameters.yaml"
    parameters.write_text(PARAMETERS)
    options = (f"bundle:={bundle}", f"params_file:={parameters}", f"namespace:={peer.namespace}", f"{image}:=front/it")
    options = (*options, *more, "rviz:=true", "log_level:=error")  # without rviz2 the node runs all the same
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(LAUNCH / f"{name}.launch.py"), *options],
        env={**os.environ, "ROS_DOMAIN_ID": str(peer.domain)},
    )
    stamps = iter(range(1, 10**6))

    def heard() -> list[Any]:
        assert process.poll() is None
        peer.infos.publish(info_msg())
        send(float(next(stamps)))
        return peer.heard[output]

    try:
        return peer.wait(heard, f"~/{output}")[0]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)
        peer.close()


def test_the_launched_object_node_has_the_topics_and_the_bundle_of_the_arguments(toy_bundle: Path) -> None:
    peer = Peer(("pose",), image="front/it", info="front/camera_info")
    pixels = toy_image(CAMERA, 159.5, 119.5)
    more = ("window_source:=fixed", "tf_prefix:=left/", "max_instances:=2", "views:=2")

    def send(stamp: float) -> None:
        peer.images.publish(image_msg(pixels, stamp))

    (transform,) = launched(peer, "object_pose", "image", toy_bundle, send, "tf", *more).transforms
    assert transform.header.frame_id == "camera_optical_frame" and transform.child_frame_id == "left/toy_box"
    assert peer.heard["pose"]


def test_the_launched_hand_node_has_the_topics_and_the_bundle_of_the_arguments(tmp_path: Path) -> None:
    bundle = toy_hand.write_toy_hand(tmp_path / "toy_hand")
    peer = Peer(("joints",), image="front/it", info="front/camera_info", node="hand_pose_node")
    depth = toy_hand.toy_depth(CAMERA, CENTER)
    joints = launched(peer, "hand_pose", "depth", bundle, lambda t: peer.images.publish(depth_msg(depth, t)), "joints")
    assert joints.name == "toy_hand" and joints.valid


def test_two_cameras_have_a_node_each() -> None:
    peer = Peer(image="left/image_raw", info="left/camera_info")
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(LAUNCH / "two_cameras.launch.py")],
        env={**os.environ, "ROS_DOMAIN_ID": str(peer.domain)},
    )
    try:
        for name in ("left", "right"):
            for topic in ("image_raw", "camera_info"):
                peer.wait(lambda t=f"/{name}/{topic}": peer.peer.count_subscribers(t) == 1, f"{name}'s {topic}")
            peer.wait(lambda t=f"/{name}/object_pose_node/detections": peer.peer.count_publishers(t) == 1, name)
        process.send_signal(signal.SIGINT)
        process.wait(20)
    finally:
        process.kill()
        peer.close()
